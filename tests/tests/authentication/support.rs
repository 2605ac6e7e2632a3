//! Shared helpers of the tests.

use std::sync::Arc;

use async_trait::async_trait;
use bson::doc;
use mongo_core::net::{Connector, SocketConnector, Stream};
use mongo_core::pools::{ConnectionFactory, ConnectionFactoryBuilder};
use mongo_core::{ClientOptions, Connection, Deadline, Error, ServerAddress};
use mongo_testkit::ScriptedServer;

/// Part of every secret in these tests. No text may contain it.
pub(crate) const MARK: &str = "m4rked";

/// Options for a server, with more options in `more`.
pub(crate) fn options(server: &ScriptedServer, more: &str) -> ClientOptions {
    let uri = format!("{}&{more}", server.uri());
    ClientOptions::parse(&uri).expect("a connection string")
}

/// A transport that counts as TLS but is not.
struct AsIfSecure;

#[async_trait]
impl Connector for AsIfSecure {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        SocketConnector::new().connect(address).await
    }

    fn is_secure(&self) -> bool {
        true
    }
}

/// A builder whose transport counts as TLS but is not.
pub(crate) fn as_if_over_tls(mut options: ClientOptions) -> ConnectionFactoryBuilder {
    options.tls.enabled = Some(true);
    ConnectionFactory::builder(options).connector(Arc::new(AsIfSecure))
}

pub(crate) async fn establish(factory: &ConnectionFactory) -> Result<Connection, Error> {
    factory.establish(Deadline::never()).await
}

/// Runs a command that needs authentication.
pub(crate) async fn find(connection: &mut Connection) -> Result<(), Error> {
    let find = doc! { "find": "things" };
    connection.run_command("shop", &find).await.map(drop)
}

/// All texts of an error and its causes. Checks that they contain no secret.
pub(crate) fn texts(error: &Error) -> String {
    let mut texts = format!("{error} {error:?}");
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = source {
        texts += &format!(" {error} {error:?}");
        source = error.source();
    }
    assert!(!texts.contains(MARK), "{texts}");
    texts
}

/// The names of the commands on a server's n-th connection, one for each round trip.
pub(crate) fn names_on(server: &ScriptedServer, connection: u64) -> Vec<String> {
    server.look(|seen| {
        let names = seen.names_on(connection);
        names.into_iter().map(str::to_owned).collect()
    })
}
