use zstd::stream::raw::{DParameter, Decoder as Decompress, Operation};
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, compress_bound};

use super::{Fault, Progress, fill};

/// The maximum window of a decoder, as a power of two in bytes: 8 MiB. RFC 8878 recommends that
/// every decoder supports it and no encoder exceeds it.
const WINDOW_LOG_MAX: u32 = 23;

pub(super) struct Encoder(CCtx<'static>);

impl Encoder {
    /// An encoder at the default level, for a frame with a content size.
    pub(super) fn new(_level: i8, size: usize) -> Option<Self> {
        let mut context = CCtx::try_create()?;
        let level = CParameter::CompressionLevel(zstd::DEFAULT_COMPRESSION_LEVEL);
        context.set_parameter(level).ok()?;
        let size = u64::try_from(size).ok()?;
        context.set_pledged_src_size(Some(size)).ok()?;
        Some(Self(context))
    }

    /// Compresses the next piece into `out`. Some output is kept back until the last piece.
    pub(super) fn step(&mut self, piece: &[u8], is_last: bool, out: &mut Vec<u8>) -> Option<()> {
        let directive = match is_last {
            true => ZSTD_EndDirective::ZSTD_e_end,
            false => ZSTD_EndDirective::ZSTD_e_continue,
        };
        let mut piece = InBuffer::around(piece);
        loop {
            let rest = piece.src.len() - piece.pos;
            out.reserve(compress_bound(rest));
            let end = out.len();
            let mut target = OutBuffer::around_pos(out, end);
            let kept = self.0.compress_stream2(&mut target, &mut piece, directive);
            let is_whole = kept.ok()? == 0 || !is_last;
            if is_whole && piece.pos == piece.src.len() {
                return Some(());
            }
        }
    }
}

pub(super) struct Decoder(Decompress<'static>);

impl Decoder {
    pub(super) fn new(_content: &[u8], _size: usize) -> Result<Self, Fault> {
        let mut decoder = Decompress::new().map_err(|_| Fault::Unreadable)?;
        decoder
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(|_| Fault::Unreadable)?;
        Ok(Self(decoder))
    }

    /// Decodes one frame, and refuses more.
    pub(super) fn step(
        &mut self,
        rest: &[u8],
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<Progress, Fault> {
        fill(rest, room, out, |piece, room| {
            let status = self.0.run_on_buffers(piece, room).ok()?;
            let progress = Progress {
                is_end: status.remaining == 0,
                read: status.bytes_read,
            };
            Some((progress, status.bytes_written))
        })
    }
}
