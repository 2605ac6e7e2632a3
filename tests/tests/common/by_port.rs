use std::sync::Arc;

use async_trait::async_trait;
use mongo_core::net::{Connector, Stream};
use mongo_core::{Error, ErrorKind, ServerAddress};
use mongo_testkit::SimNetwork;

/// Connects port 27017 of any host to server 0, port 27018 to server 1, and so on.
pub(crate) struct ByPort(pub(crate) SimNetwork);

#[async_trait]
impl Connector for ByPort {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        let number = address.port().unwrap_or_default().wrapping_sub(27017);
        let stream = self.0.connect(&format!("m{number}.test:27017")).await;
        stream
            .map(Stream::custom)
            .map_err(|error| ErrorKind::Connect(Arc::new(error)).into())
    }
}
