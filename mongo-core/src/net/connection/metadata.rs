use std::fmt;
use std::sync::{Arc, Mutex};

use bson::RawDocumentBuf;

use crate::error::{Error, Result};
use crate::handshake::{ClientMetadata, DriverInfo};
use crate::net::PROCESS;
use crate::sync::lock;
use crate::uri::ClientOptions;

/// The `client` document of all handshakes of one client, monitors included. Cloning is cheap.
/// Clones share the document: metadata appended to one shows in all.
#[derive(Clone)]
pub(crate) struct Metadata(Arc<Mutex<State>>);

struct State {
    metadata: ClientMetadata,
    document: Arc<RawDocumentBuf>,
}

impl Metadata {
    pub(crate) fn of(options: &ClientOptions) -> Result<Self> {
        let metadata = ClientMetadata::new(options.app_name.as_deref(), &PROCESS)
            .map_err(|error| Error::configuration(error.to_string()))?;
        let document = Arc::new(metadata.document());
        Ok(Self(Arc::new(Mutex::new(State { metadata, document }))))
    }

    pub(crate) fn document(&self) -> Arc<RawDocumentBuf> {
        let state = lock(&self.0);
        state.document.clone()
    }

    /// Appends all, or none if one of them can't be. Returns whether any of them was appended. See
    /// [`ClientMetadata::append`].
    pub(crate) fn append(&self, drivers: impl IntoIterator<Item = DriverInfo>) -> Result<bool> {
        let mut state = lock(&self.0);
        let mut metadata = state.metadata.clone();
        let mut is_new = false;
        for driver in drivers {
            let appended = metadata.append(driver);
            is_new |= appended.map_err(|error| Error::configuration(error.to_string()))?;
        }
        if is_new {
            state.document = Arc::new(metadata.document());
            state.metadata = metadata;
        }
        Ok(is_new)
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Metadata").field(&self.document()).finish()
    }
}
