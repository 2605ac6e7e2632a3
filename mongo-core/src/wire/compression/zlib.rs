use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Fault, Progress, fill};

pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new(level: i8, _size: usize) -> Option<Self> {
        let level = u32::try_from(level).map_or(Compression::default(), Compression::new);
        Some(Self(Compress::new(level, true)))
    }

    /// Compresses the next piece into `out`. Some output is kept back until the last piece.
    pub(super) fn step(
        &mut self,
        mut piece: &[u8],
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let flush = match is_last {
            true => FlushCompress::Finish,
            false => FlushCompress::None,
        };
        loop {
            // Incompressible content grows by 5 bytes for each 32 KB, plus 6 for header and
            // checksum.
            out.reserve(piece.len() + piece.len() / 4096 + 64);
            let before = self.0.total_in();
            let status = self.0.compress_vec(piece, out, flush).ok()?;
            piece = piece.get(usize::try_from(self.0.total_in() - before).ok()?..)?;
            if status == Status::StreamEnd || (piece.is_empty() && !is_last) {
                return Some(());
            }
        }
    }
}

pub(super) struct Decoder(Decompress);

impl Decoder {
    pub(super) fn new(_content: &[u8], _size: usize) -> Result<Self, Fault> {
        Ok(Self(Decompress::new(true)))
    }

    pub(super) fn step(
        &mut self,
        rest: &[u8],
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Fault> {
        let decoder = &mut self.0;
        fill(rest, room, out, |piece, room| {
            let before = (decoder.total_in(), decoder.total_out());
            let status = decoder.decompress(piece, room, FlushDecompress::None);
            let progress = Progress {
                is_end: status.ok()? == Status::StreamEnd,
                read: usize::try_from(decoder.total_in() - before.0).ok()?,
            };
            let written = usize::try_from(decoder.total_out() - before.1).ok()?;
            Some((progress, written))
        })
    }
}
