//! The application's code in transports: its own streams, and the callbacks of its TLS configuration.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The name of the application's own streams in logs and errors.
pub(crate) const STREAM: &str = "transport stream";

/// The name of the callbacks of a TLS configuration in logs and errors.
pub(crate) const TLS_CONFIG: &str = "TLS configuration";

/// The replacement of a dropped stream.
pub(super) struct Broken;

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
