//! What stands in for TLS in a build without it.

use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::net::Stream;
use crate::uri::TlsOptions;

/// There is none.
#[derive(Clone)]
pub(crate) enum Tls {}

impl Tls {
    pub(crate) fn from_options(_options: &TlsOptions) -> Result<Self> {
        Err(Error::configuration(
            "TLS (`tls=true`, the default of `mongodb+srv`) needs feature `tls` of mongo-core, or a \
             connector of your own that does it",
        ))
    }

    pub(crate) async fn secure(&self, _stream: Stream, _address: &ServerAddress) -> Result<Stream> {
        match *self {}
    }
}

pub(in crate::net) fn explain(error: Error) -> Error {
    error
}
