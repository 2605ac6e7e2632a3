//! Sessions of the server.

use std::sync::Arc;
use std::time::Instant;

use bson::RawDocumentBuf;
use bson::raw::cstr;
use bson::spec::BinarySubtype;

/// A session of the server, which is reused.
#[derive(Clone, Debug)]
pub(crate) struct ServerSession {
    /// `{id: UUID}`.
    pub(in crate::operation) id: Arc<RawDocumentBuf>,
    pub(in crate::operation) last_use: Instant,
    pub(super) txn_number: i64,
    pub(super) is_dirty: bool,
    /// Whether a command is under way. It stays set if the command's future was dropped.
    pub(super) is_in_flight: bool,
}

impl ServerSession {
    /// A new session, with a random id (a UUID of version 4).
    pub(in crate::operation) fn new(mut random: [u8; 16], now: Instant) -> Self {
        random[6] = random[6] & 0x0f | 0x40;
        random[8] = random[8] & 0x3f | 0x80;
        let mut id = RawDocumentBuf::new();
        id.append(
            cstr!("id"),
            bson::raw::RawBinaryRef {
                subtype: BinarySubtype::Uuid,
                bytes: &random,
            },
        );
        Self {
            id: Arc::new(id),
            last_use: now,
            txn_number: 0,
            is_dirty: false,
            is_in_flight: false,
        }
    }

    /// Discards the session when it is returned.
    pub(in crate::operation) fn mark_dirty(&mut self) {
        self.is_dirty = true;
    }

    pub(in crate::operation) fn is_dirty(&self) -> bool {
        self.is_dirty || self.is_in_flight
    }

    pub(in crate::operation) fn next_number(&mut self) -> i64 {
        self.txn_number += 1;
        self.txn_number
    }
}
