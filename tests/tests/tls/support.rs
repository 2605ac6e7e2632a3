//! Shared helpers of the TLS tests.

use std::path::Path;

use bson::doc;
use mongo_core::error::TlsError;
use mongo_core::pools::ConnectionFactory;
use mongo_core::{ClientOptions, Connection, Deadline, Error, ErrorKind};
use mongo_testkit::{Authority, ScriptedServer, ServerTls};

pub(crate) async fn server(tls: ServerTls) -> ScriptedServer {
    ScriptedServer::builder()
        .record_bytes()
        .tls(tls)
        .start()
        .await
}

/// A connection string for a server under a host name, with more options.
pub(crate) fn uri(server: &ScriptedServer, host: &str, options: &str) -> String {
    let port = server.port().expect("a port");
    format!("mongodb://{host}:{port}/?directConnection=true&tls=true{options}")
}

pub(crate) fn trusting(authority: &Authority) -> String {
    format!("&tlsCAFile={}", escape(&authority.file()))
}

pub(crate) fn escape(path: &Path) -> String {
    path.to_str().expect("UTF-8").replace('/', "%2F")
}

pub(crate) fn factory(uri: &str) -> Result<ConnectionFactory, Error> {
    ConnectionFactory::builder(ClientOptions::parse(uri)?).build()
}

pub(crate) async fn connect(uri: &str) -> Result<Connection, Error> {
    factory(uri)?.establish(Deadline::never()).await
}

pub(crate) async fn ping(connection: &mut Connection) -> Result<(), Error> {
    let ping = doc! { "ping": 1 };
    connection.run_command("admin", &ping).await.map(drop)
}

/// The TLS error. Checks that nothing was sent to the server.
pub(crate) fn refusal(error: &Error, server: &ScriptedServer) -> TlsError {
    server.look(|seen| {
        assert!(seen.log.is_empty(), "{:?}", seen.log);
        for connection in seen.connections.values() {
            assert!(connection.received.is_empty());
        }
    });
    match error.kind() {
        ErrorKind::Tls(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}
