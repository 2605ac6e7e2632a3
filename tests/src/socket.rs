//! A server's end of a connection.

use std::io;
#[cfg(unix)]
use std::mem::MaybeUninit;
use std::path::PathBuf;

#[cfg(unix)]
use socket2::SockRef;
#[cfg(unix)]
use tokio::io::Interest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

/// Room for at least as many bytes is made before each read.
const READ_SIZE: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Reads what there is to the end of `buffer`; 0 is the end. Loses nothing when it is dropped.
    pub(crate) async fn read_to(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(READ_SIZE);
        match self {
            Self::Tcp(stream) => stream.read_buf(buffer).await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.read_buf(buffer).await,
        }
    }

    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    /// Waits for the client without reading: whether it has sent something, or else closed.
    pub(crate) async fn has_more(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => stream.peek(&mut [0]).await.map(|count| count > 0),
            #[cfg(unix)]
            Self::Unix(stream) => loop {
                // Readiness alone may be left over from an earlier read.
                stream.readable().await?;
                let peek = || SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
                match stream.try_io(Interest::READABLE, peek) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result.map(|count| count > 0),
                }
            },
        }
    }

    /// Closes in good order, although the client may have sent more than was read: that alone
    /// would make the kernel reset the connection and take the reply with it.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown().await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown().await,
        }
    }

    /// Closes so that the client's next read or write fails.
    pub(crate) fn reset(self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_zero_linger(),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
        }
    }
}

/// Where a server listens. Remembers the place, so that it can listen there again.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Tcp(std::net::SocketAddr),
    #[cfg_attr(not(unix), expect(dead_code, reason = "made on Unix only"))]
    Unix(PathBuf),
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    pub(crate) async fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            #[cfg(unix)]
            Place::Unix(path) => {
                // A socket file that an earlier listener left would be in the way.
                let _ = std::fs::remove_file(path);
                UnixListener::bind(path).map(Self::Unix)
            }
            #[cfg(not(unix))]
            Place::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The place with the port that the system chose.
    pub(crate) fn place(&self, asked: &Place) -> io::Result<Place> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Place::Tcp),
            #[cfg(unix)]
            Self::Unix(_) => Ok(asked.clone()),
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Socket::Unix(stream)),
        }
    }
}
