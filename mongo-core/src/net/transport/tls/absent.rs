//! The replacement for TLS in a build without it.

use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::net::Stream;
use crate::uri::TlsOptions;

/// Has no values.
#[derive(Clone)]
pub(crate) enum Tls {}

impl Tls {
    pub(crate) fn from_options(_options: &TlsOptions) -> Result<Self> {
        Err(Error::configuration(
            "TLS (`tls=true`, the default of `mongodb+srv`, which also needs feature `dns`) needs feature \
             `tls` of mongo-deadpool, mongo-bb8 or mongo-core, or a connector that provides it",
        ))
    }

    pub(crate) fn is_of(&self, _options: &TlsOptions) -> bool {
        match *self {}
    }

    pub(crate) async fn renew(&self) {
        match *self {}
    }

    pub(crate) async fn secure(&self, _stream: Stream, _address: &ServerAddress) -> Result<Stream> {
        match *self {}
    }
}

pub(crate) fn explain(error: Error) -> Error {
    error
}

#[cfg(test)]
mod tests {
    use crate::ClientOptions;
    use crate::net::{SingleClient, Topology};
    use crate::pools::ConnectionFactory;

    #[test]
    fn options_that_need_tls_are_refused_by_name() {
        for uri in ["mongodb://h/?tls=true", "mongodb://h/?tlsCAFile=ca.pem"] {
            let options = ClientOptions::parse(uri).expect("options");
            let refusals = [
                ConnectionFactory::builder(options.clone())
                    .build()
                    .map(drop),
                Topology::new(options.clone()).map(drop),
                SingleClient::new(options).map(drop),
            ];
            for refusal in refusals {
                let text = refusal.expect_err("no TLS").to_string();
                assert!(text.contains("feature `tls` of mongo-deadpool"), "{text}");
            }
        }
    }
}
