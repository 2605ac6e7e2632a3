use std::sync::Arc;

use async_trait::async_trait;
use mongo_core::net::{Connector, Stream};
use mongo_core::{Error, ErrorKind, ServerAddress};
use mongo_testkit::SimNetwork;

/// The network in memory as a transport.
pub(crate) struct OverSim(pub(crate) SimNetwork);

#[async_trait]
impl Connector for OverSim {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        let stream = self.0.connect(&address.to_string()).await;
        stream
            .map(Stream::custom)
            .map_err(|error| ErrorKind::Connect(Arc::new(error)).into())
    }
}
