use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

/// The most that one byte can stand for: a copy of 64 bytes takes 3.
const MAX_RATIO: usize = 22;

/// Appends `content`, compressed.
pub(super) fn compress(content: &[u8], _level: i8, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    out.resize(start + max_compress_len(content.len()), 0);
    let written = Encoder::new().compress(content, &mut out[start..]).ok()?;
    out.truncate(start + written);
    Some(())
}

/// Appends what `content` stands for, and says whether that is `size` bytes; `None` if it can't be
/// read.
pub(super) fn decompress(content: &[u8], size: usize, out: &mut Vec<u8>) -> Option<bool> {
    if decompress_len(content).ok()? != size {
        return Some(false);
    }
    // All room is made at once: not more than what has come can fill.
    if size / MAX_RATIO > content.len() {
        return None;
    }
    let start = out.len();
    out.resize(start + size, 0);
    let written = Decoder::new().decompress(content, &mut out[start..]);
    Some(written.ok()? == size)
}
