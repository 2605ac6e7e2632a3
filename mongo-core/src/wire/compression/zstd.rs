use zstd::stream::raw::{DParameter, Decoder, Operation};
use zstd::{bulk, zstd_safe};

use super::{Progress, decode};

/// Bytes of the window that a decoder may have to keep, as a power of two: 8 MiB, which RFC 8878
/// asks every decoder for, and every encoder to stay within.
const WINDOW_LOG_MAX: u32 = 23;

/// Appends `content`, compressed at the default level.
pub(super) fn compress(content: &[u8], _level: i8, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    out.resize(start + zstd_safe::compress_bound(content.len()), 0);
    let level = zstd::DEFAULT_COMPRESSION_LEVEL;
    let written = bulk::compress_to_buffer(content, &mut out[start..], level).ok()?;
    out.truncate(start + written);
    Some(())
}

/// Appends what `content` stands for, and says whether that is `size` bytes; `None` if it can't be
/// read,
/// or is no single frame.
pub(super) fn decompress(content: &[u8], size: usize, out: &mut Vec<u8>) -> Option<bool> {
    let mut decoder = Decoder::new().ok()?;
    decoder
        .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
        .ok()?;
    decode(content, size, out, |content, room| {
        let status = decoder.run_on_buffers(content, room).ok()?;
        Some(Progress {
            is_end: status.remaining == 0,
            read: status.bytes_read,
            written: status.bytes_written,
        })
    })
}
