//! What stands for a compressor that is not in this build, and is never asked.

pub(super) fn compress(_content: &[u8], _level: i8, _out: &mut Vec<u8>) -> Option<()> {
    None
}

pub(super) fn decompress(_content: &[u8], _size: usize, _out: &mut Vec<u8>) -> Option<bool> {
    None
}
