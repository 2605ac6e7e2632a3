//! An HTTP endpoint in memory, which says what the fuzzer wants.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use mongo_core::net::{Connector, Stream};
use mongo_core::{Error, Result, ServerAddress};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// What no error may show.
pub const SECRET: &str = "m4rked-Secret";

/// Gives the same answer to each request, in pieces of a size.
pub struct Endpoint {
    answer: Arc<[u8]>,
    piece: usize,
}

impl Endpoint {
    /// `piece`: in bytes, at least one.
    pub fn new(answer: &[u8], piece: usize) -> Arc<Self> {
        Arc::new(Self {
            answer: answer.into(),
            piece: piece.max(1),
        })
    }
}

#[async_trait]
impl Connector for Endpoint {
    async fn connect(&self, _: &ServerAddress) -> Result<Stream> {
        Ok(Stream::custom(Answer {
            bytes: self.answer.clone(),
            at: 0,
            piece: self.piece,
        }))
    }

    fn is_secure(&self) -> bool {
        true
    }
}

struct Answer {
    bytes: Arc<[u8]>,
    at: usize,
    piece: usize,
}

impl AsyncRead for Answer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.bytes[self.at..];
        let length = rest.len().min(self.piece).min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Answer {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A runtime of one thread.
///
/// # Panics
/// If there can be none.
pub fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
}

/// The text of an error and of its causes.
///
/// # Panics
/// If it shows a secret, ends a line, or is long.
pub fn check(error: &Error) {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    assert!(!text.contains(SECRET), "{text}");
    assert!(!text.contains(char::is_control), "{text}");
    assert!(text.len() < 1024, "{text}");
}
