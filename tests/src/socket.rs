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

/// Room for at least as many bytes is made before each read.
const READ_SIZE: usize = 8 * 1024;

/// What a server can serve: any two-way stream of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// A stream that can't be looked into without reading, and what was read to see whether
    /// there is something.
    Custom(Box<dyn ByteStream>, Vec<u8>),
}

impl Socket {
    pub(crate) fn custom(stream: impl ByteStream) -> Self {
        Self::Custom(Box::new(stream), Vec::new())
    }

    /// As a stream like any other.
    pub(crate) fn into_stream(self) -> Box<dyn ByteStream> {
        match self {
            Self::Tcp(stream) => Box::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Box::new(stream),
            Self::Custom(stream, _) => stream,
        }
    }

    /// Reads what there is to the end of `buffer`; 0 is the end. Loses nothing when it is dropped.
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

    /// Waits for the client without reading, where that can be done: whether it has sent
    /// something, or else closed.
    pub(crate) async fn has_more(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => stream.peek(&mut [0]).await.map(|count| count > 0),
            #[cfg(unix)]
            Self::Unix(stream) => loop {
                // Readiness alone may be left over from an earlier read.
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

    /// Closes in good order, although the client may have sent more than was read: that alone
    /// would make the kernel reset the connection and take the reply with it.
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
