//! Transports of the application's own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard;
use crate::net::AsyncStream;

const STREAM: &str = "transport stream";

/// Calls a method of a stream. Where it panics the stream is dropped, and fails from then on.
pub(crate) fn guard_stream<R>(
    stream: &mut Box<dyn AsyncStream>,
    call: impl FnOnce(&mut dyn AsyncStream) -> Poll<io::Result<R>>,
) -> Poll<io::Result<R>> {
    match guard(STREAM, || call(&mut **stream)) {
        Ok(polled) => polled,
        Err(panicked) => {
            discard_stream(stream);
            Poll::Ready(Err(panicked.into_io()))
        }
    }
}

/// Drops a stream, and leaves one in its place that fails.
pub(crate) fn discard_stream(stream: &mut Box<dyn AsyncStream>) {
    let stream = std::mem::replace(stream, Box::new(Broken));
    let _ = guard(STREAM, || drop(stream));
}

/// A stream that is gone.
struct Broken;

impl Broken {
    fn fail<T>() -> Poll<io::Result<T>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
}

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Self::fail()
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Self::fail()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::fail()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::fail()
    }
}
