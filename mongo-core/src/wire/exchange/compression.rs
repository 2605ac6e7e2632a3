//! The state for compressed messages.

use super::KEEP;
use crate::wire::{Compressor, Limits, Packing, Unpacking, WireError};

/// The progress of work that is done in steps.
#[derive(Default)]
pub(super) enum Stage<T> {
    #[default]
    Ahead,
    UnderWay(T),
    Over,
}

/// The additional state of a connection on which messages may be compressed.
#[derive(Default)]
pub(super) struct Compression {
    /// The negotiated compressor for requests, with the zlib level.
    pub(super) compressor: Option<(Compressor, i8)>,
    pub(super) packing: Stage<Packing>,
    /// The compressed request, if it is compressed and `packing` is over.
    pub(super) packed: Vec<u8>,
    pub(super) unpacking: Stage<Unpacking>,
    /// The decompressed reply, if it was compressed and `unpacking` is over.
    pub(super) unpacked: Vec<u8>,
}

impl Compression {
    /// Compresses the next part of a request. Returns whether it is finished.
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
            // The request stays uncompressed.
            None => self.packed.clear(),
        }
        self.packing = Stage::Over;
        true
    }

    /// Decompresses the next part of a reply. Returns whether it is finished.
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

    /// Clears the state of a request.
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
