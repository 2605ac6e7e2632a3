//! A server's end of a connection.

use std::io;
#[cfg(unix)]
use std::mem::MaybeUninit;

#[cfg(unix)]
use socket2::SockRef;
#[cfg(unix)]
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// The least free buffer space before each read.
const READ_SIZE: usize = 8 * 1024;

/// A two-way stream of bytes that a server can serve.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// A stream that can't be peeked, and the bytes that were read to check for data.
    Custom(Box<dyn ByteStream>, Vec<u8>),
}

impl Socket {
    pub(crate) fn custom(stream: impl ByteStream) -> Self {
        Self::Custom(Box::new(stream), Vec::new())
    }

    /// Converts into a boxed stream.
    pub(crate) fn into_stream(self) -> Box<dyn ByteStream> {
        match self {
            Self::Tcp(stream) => Box::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Box::new(stream),
            Self::Custom(stream, _) => stream,
        }
    }

    /// Appends available bytes to `buffer`; 0 is the end of the stream. Cancellation safe.
    pub(crate) async fn read_to(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(READ_SIZE);
        match self {
            Self::Tcp(stream) => stream.read_buf(buffer).await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.read_buf(buffer).await,
            Self::Custom(stream, ahead) if ahead.is_empty() => stream.read_buf(buffer).await,
            Self::Custom(_, ahead) => {
                let count = ahead.len();
                buffer.append(ahead);
                Ok(count)
            }
        }
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.write_all(bytes).await,
            Self::Custom(stream, _) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Waits for data from the client, if possible without reading it. `false` if the client
    /// closed.
    pub(crate) async fn has_more(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => stream.peek(&mut [0]).await.map(|count| count > 0),
            #[cfg(unix)]
            Self::Unix(stream) => loop {
                // Readiness may be stale from an earlier read.
                stream.readable().await?;
                let peek = || SockRef::from(&*stream).peek(&mut [MaybeUninit::uninit()]);
                match stream.try_io(Interest::READABLE, peek) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result.map(|count| count > 0),
                }
            },
            Self::Custom(stream, ahead) => {
                if ahead.is_empty() {
                    stream.read_buf(ahead).await?;
                }
                Ok(!ahead.is_empty())
            }
        }
    }

    /// Closes in an orderly way, even if the client has sent more than was read. Otherwise the
    /// kernel would reset the connection and discard the reply.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown().await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown().await,
            Self::Custom(stream, _) => stream.shutdown().await,
        }
    }

    /// Closes so that the client's next read or write fails.
    pub(crate) fn reset(self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_zero_linger(),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
            Self::Custom(..) => Ok(()),
        }
    }
}
