//! A placeholder for a compressor that is not in this build. It is never used.

use super::{Fault, Progress};

pub(super) enum Encoder {}

impl Encoder {
    pub(super) fn new(_level: i8, _size: usize) -> Option<Self> {
        None
    }

    pub(super) fn step(&mut self, _piece: &[u8], _is_last: bool, _out: &mut Vec<u8>) -> Option<()> {
        match *self {}
    }
}

pub(super) enum Decoder {}

impl Decoder {
    pub(super) fn new(_content: &[u8], _size: usize) -> Result<Self, Fault> {
        Err(Fault::Unreadable)
    }

    pub(super) fn step(
        &mut self,
        _rest: &[u8],
        _room: usize,
        _out: &mut Vec<u8>,
    ) -> Result<Progress, Fault> {
        match *self {}
    }
}
