use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Progress, decode};

/// Appends `content`, compressed.
pub(super) fn compress(content: &[u8], level: i8, out: &mut Vec<u8>) -> Option<()> {
    let level = u32::try_from(level).map_or(Compression::default(), Compression::new);
    let mut encoder = Compress::new(level, true);
    // Incompressible content gets 5 bytes for each 32 KB, and 6 for header and checksum.
    out.reserve(content.len() + content.len() / 4096 + 64);
    let status = encoder.compress_vec(content, out, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(())
}

/// Appends what `content` stands for, and says whether that is `size` bytes; `None` if it can't be
/// read.
pub(super) fn decompress(content: &[u8], size: usize, out: &mut Vec<u8>) -> Option<bool> {
    let mut decoder = Decompress::new(true);
    decode(content, size, out, |content, room| {
        let before = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(content, room, FlushDecompress::None);
        Some(Progress {
            is_end: status.ok()? == Status::StreamEnd,
            read: usize::try_from(decoder.total_in() - before.0).ok()?,
            written: usize::try_from(decoder.total_out() - before.1).ok()?,
        })
    })
}
