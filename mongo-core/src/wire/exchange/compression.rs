//! What is kept for messages that may be compressed.

use super::KEEP;
use crate::uri::Compressor;
use crate::wire::{Limits, Packing, Unpacking, WireError};

/// How far something is that is done in steps.
#[derive(Default)]
pub(super) enum Stage<T> {
    #[default]
    Ahead,
    UnderWay(T),
    Over,
}

/// What a connection has besides where messages may be compressed.
#[derive(Default)]
pub(super) struct Compression {
    /// For requests, once it is negotiated; with zlib's level.
    pub(super) compressor: Option<(Compressor, i8)>,
    pub(super) packing: Stage<Packing>,
    /// The request, where it is one that is compressed and `packing` is over.
    pub(super) packed: Vec<u8>,
    pub(super) unpacking: Stage<Unpacking>,
    /// The reply, where it came compressed and `unpacking` is over.
    pub(super) unpacked: Vec<u8>,
}

impl Compression {
    /// Compresses some more of a request, and says whether that was all.
    pub(super) fn pack(&mut self, message: &[u8], limits: &Limits) -> bool {
        if let Stage::Ahead = self.packing {
            let begun = self.compressor.and_then(|(compressor, level)| {
                Packing::begin(message, compressor, level, &mut self.packed)
            });
            self.packing = begun.map_or(Stage::Over, Stage::UnderWay);
        }
        let Stage::UnderWay(packing) = &mut self.packing else {
            return true;
        };
        match packing.step(message, limits.max_message_size, &mut self.packed) {
            Some(false) => return false,
            Some(true) => {}
            // It stays as it is.
            None => self.packed.clear(),
        }
        self.packing = Stage::Over;
        true
    }

    /// Unpacks some more of a reply, and says whether that was all.
    pub(super) fn unpack(&mut self, message: &[u8], limits: &Limits) -> Result<bool, WireError> {
        if let Stage::Ahead = self.unpacking {
            let begun = Unpacking::begin(message, limits, &mut self.unpacked)?;
            self.unpacking = Stage::UnderWay(begun);
        }
        if let Stage::UnderWay(unpacking) = &mut self.unpacking {
            if !unpacking.step(message, &mut self.unpacked)? {
                return Ok(false);
            }
            self.unpacking = Stage::Over;
        }
        Ok(true)
    }

    /// Forgets a request.
    pub(super) fn forget_request(&mut self) {
        self.packing = Stage::Ahead;
        self.packed.clear();
    }

    pub(super) fn release(&mut self) {
        self.forget_request();
        self.unpacked.clear();
        for buf in [&mut self.packed, &mut self.unpacked] {
            if buf.capacity() > KEEP {
                *buf = Vec::new();
            }
        }
    }
}
