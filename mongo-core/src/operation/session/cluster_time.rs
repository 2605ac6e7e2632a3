//! Cluster times.

use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf, Timestamp};

/// The longest `$clusterTime` that is kept, in bytes. Servers send about 150 bytes, and the kept
/// one is sent with every command.
const MAX_LENGTH: usize = 1024;

/// A `$clusterTime` that a server sent. It is sent unchanged with commands to the deployment.
///
/// Specification: driver sessions, gossipping the cluster time.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterTime {
    timestamp: Timestamp,
    document: RawDocumentBuf,
}

impl ClusterTime {
    /// Copies a `$clusterTime` if it is newer than the known one; one over 1 KiB does not count.
    pub(crate) fn newer(document: &RawDocument, than: Option<Timestamp>) -> Option<Self> {
        // First, so that a longer one is not examined.
        if document.as_bytes().len() > MAX_LENGTH {
            return None;
        }
        let Ok(Some(RawBsonRef::Timestamp(timestamp))) = document.get("clusterTime") else {
            return None;
        };
        is_later(timestamp, than).then(|| Self {
            timestamp,
            document: document.to_owned(),
        })
    }

    /// Its `clusterTime`, which decides which of two is newer.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The value of `$clusterTime`, signature included.
    pub fn document(&self) -> &RawDocument {
        &self.document
    }
}

/// Whether a timestamp is later than the known one.
pub(crate) fn is_later(timestamp: Timestamp, known: Option<Timestamp>) -> bool {
    let key = |timestamp: Timestamp| (timestamp.time, timestamp.increment);
    known.is_none_or(|known| key(timestamp) > key(known))
}
