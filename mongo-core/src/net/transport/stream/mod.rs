use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::{fmt, io};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::callback::{Panicked, guard};
use crate::error::ClosedReason;

mod guarded;

use guarded::Broken;
pub(crate) use guarded::{STREAM, TLS_CONFIG};

/// The maximum number of reads, of a few KiB each, for TLS records sent to an idle client: mostly
/// session tickets.
#[cfg(feature = "tls-rustls")]
const MAX_UNASKED_READS: usize = 16;

/// The bounds of a custom stream.
pub trait AsyncStream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> AsyncStream for S {}

/// The transport under a connection.
///
/// The two most important kinds are called without indirection; a custom stream is boxed.
#[non_exhaustive]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix domain socket.
    #[cfg(unix)]
    Unix(UnixStream),
    /// TLS, over any other kind. A panic in a callback of its configuration is caught and logged,
    /// and fails the stream.
    #[cfg(feature = "tls-rustls")]
    Tls(Box<tokio_rustls::client::TlsStream<Stream>>),
    /// Anything else: a proxy's tunnel, an in-memory pipe.
    Custom(Box<dyn AsyncStream>),
}

impl Stream {
    /// Boxes a custom stream. A panic in it is caught and logged, and fails the stream.
    pub fn custom(stream: impl AsyncStream) -> Self {
        Self::Custom(Box::new(stream))
    }

    /// Writes the whole of `message`.
    pub(crate) async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        // Nearly always a socket accepts all of it at once.
        let written = match self {
            Self::Tcp(stream) => stream.try_write(message),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_write(message),
            #[cfg(feature = "tls-rustls")]
            Self::Tls(_) => {
                let sent = write_out(self, message).await;
                return sent.map_err(|error| pending_alert(self).unwrap_or(error));
            }
            Self::Custom(_) => Ok(0),
        };
        let written = match written {
            Ok(written) if written == message.len() => return Ok(()),
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        write_out(self, &message[written..]).await
    }

    /// Checks an idle stream: it must be open, with nothing to read, and its runtime must be alive.
    /// The error is the reason why the connection can't be used.
    ///
    /// This checks the descriptor itself. tokio answers with the last state that its reactor has
    /// seen, which may be outdated: on a busy runtime, on one that nothing has driven, or after the
    /// process was suspended. One system call costs fewer instructions than the two clock readings
    /// needed to skip it for a recently used connection. Custom streams are checked with a
    /// non-blocking read.
    ///
    /// `runs`: the stream's runtime is known to be alive and need not be checked.
    pub(crate) fn check_idle(&mut self, runs: bool) -> Result<(), ClosedReason> {
        if !runs && self.has_lost_runtime() {
            return Err(ClosedReason::RuntimeEnded);
        }
        let is_quiet = match self {
            // TLS's own messages, such as session tickets, do not count as bytes to read.
            #[cfg(feature = "tls-rustls")]
            Self::Tls(_) => take_in(self) && peek_idle(try_read(self, &mut [0])),
            Self::Custom(_) => peek_idle(try_read(self, &mut [0])),
            Self::Tcp(stream) => peek_idle(peek(&SockRef::from(&*stream))),
            #[cfg(unix)]
            Self::Unix(stream) => peek_idle(peek(&SockRef::from(&*stream))),
        };
        match is_quiet {
            true => Ok(()),
            false => Err(ClosedReason::Network),
        }
    }

    /// Whether the descriptor is readable, end of stream and errors included, regardless of the
    /// reactor's state. Never true of custom streams.
    pub(crate) fn is_readable(&self) -> bool {
        self.socket()
            .is_some_and(|socket| !peek_idle(peek(&socket)))
    }

    /// The socket underneath all layers.
    fn socket(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(stream) => Some(SockRef::from(stream)),
            #[cfg(unix)]
            Self::Unix(stream) => Some(SockRef::from(stream)),
            #[cfg(feature = "tls-rustls")]
            Self::Tls(stream) => stream.get_ref().0.socket(),
            Self::Custom(_) => None,
        }
    }

    /// Whether the runtime that the socket is registered with has shut down. Never true of custom
    /// streams.
    fn has_lost_runtime(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        // An idle socket is writable, so that no waker is registered. A readiness error only
        // results from a shutdown.
        let ready = match self {
            Self::Tcp(stream) => stream.poll_write_ready(&mut context),
            #[cfg(unix)]
            Self::Unix(stream) => stream.poll_write_ready(&mut context),
            #[cfg(feature = "tls-rustls")]
            Self::Tls(stream) => return stream.get_ref().0.has_lost_runtime(),
            Self::Custom(_) => return false,
        };
        matches!(ready, Poll::Ready(Err(_)))
    }

    /// Over TLS, sends `close_notify`, so that the server can distinguish the end from a truncation
    /// attack. Nothing waits for a dropped stream, so what can't be written at once is not sent.
    pub(crate) fn start_tls_shutdown(&mut self) {
        #[cfg(feature = "tls-rustls")]
        if let Self::Tls(_) = self {
            let mut context = Context::from_waker(Waker::noop());
            let _ = Pin::new(self).poll_shutdown(&mut context);
        }
    }

    /// Drops a custom stream and the TLS state. The destructors of application code may panic.
    pub(crate) fn discard(&mut self) {
        match self {
            #[cfg(feature = "tls-rustls")]
            Self::Tls(_) => self.replace(),
            Self::Custom(_) => self.replace(),
            Self::Tcp(_) => {}
            #[cfg(unix)]
            Self::Unix(_) => {}
        }
    }

    /// Discards a stream in which application code has panicked.
    #[cold]
    fn fail(&mut self, panicked: Panicked) -> io::Error {
        self.replace();
        panicked.into_io()
    }

    /// Drops the stream, and replaces it by one that fails. A panic in the stream may have left it
    /// in an inconsistent state.
    fn replace(&mut self) {
        let stream = std::mem::replace(self, Self::Custom(Box::new(Broken)));
        let _ = guard(STREAM, || drop(stream));
    }
}

async fn write_out(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    stream.write_all(message).await?;
    // Sockets have nothing to flush; other streams may.
    stream.flush().await
}

/// Whether a non-blocking read found nothing: no byte, no end of stream, and no error.
#[inline]
fn peek_idle(read: io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Peeks at the next byte without waiting.
#[inline]
fn peek(socket: &SockRef<'_>) -> io::Result<usize> {
    socket.peek(&mut [MaybeUninit::uninit()])
}

/// Processes the TLS records in the socket, and returns whether they are valid. Needed because the
/// stream itself only reads after the reactor has reported readiness.
#[cfg(feature = "tls-rustls")]
fn take_in(stream: &mut Stream) -> bool {
    let Stream::Tls(tls) = stream else {
        return true;
    };
    match guard(TLS_CONFIG, || take_records_in(tls)) {
        Ok(is_sound) => is_sound,
        Err(panicked) => {
            stream.fail(panicked);
            false
        }
    }
}

#[cfg(feature = "tls-rustls")]
fn take_records_in(stream: &mut tokio_rustls::client::TlsStream<Stream>) -> bool {
    let (transport, session) = stream.get_mut();
    let Some(socket) = transport.socket() else {
        return true;
    };
    for _ in 0..MAX_UNASKED_READS {
        match session.read_tls(&mut &*socket) {
            Ok(0) => return false,
            Ok(_) if session.process_new_packets().is_ok() => {}
            Ok(_) => return false,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Reads available bytes without waiting, like `try_read` of sockets.
fn try_read(stream: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> io::Result<usize> {
    let mut buf = ReadBuf::new(bytes);
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(stream).poll_read(&mut context, &mut buf) {
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        Poll::Ready(outcome) => outcome.map(|()| buf.filled().len()),
    }
}

/// The alert of a server that has closed the connection, if there is one.
#[cfg(feature = "tls-rustls")]
fn pending_alert(stream: &mut Stream) -> Option<io::Error> {
    let error = try_read(stream, &mut [0]).err()?;
    error.get_ref()?.is::<rustls::Error>().then_some(error)
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(stream) => f.debug_tuple("Tcp").field(stream).finish(),
            #[cfg(unix)]
            Self::Unix(stream) => f.debug_tuple("Unix").field(stream).finish(),
            #[cfg(feature = "tls-rustls")]
            Self::Tls(stream) => f.debug_tuple("Tls").field(stream.get_ref().0).finish(),
            Self::Custom(_) => f.write_str("Custom(..)"),
        }
    }
}

macro_rules! delegate {
    ($self:expr, $stream:ident => $call:expr) => {{
        let this = $self;
        let polled = match this {
            Stream::Tcp($stream) => return $call,
            #[cfg(unix)]
            Stream::Unix($stream) => return $call,
            #[cfg(feature = "tls-rustls")]
            Stream::Tls($stream) => guard(TLS_CONFIG, || $call),
            Stream::Custom($stream) => guard(STREAM, || $call),
        };
        polled.unwrap_or_else(|panicked| Poll::Ready(Err(this.fail(panicked))))
    }};
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls-rustls")]
            Self::Tls(stream) => stream.is_write_vectored(),
            // A wire message is written from one buffer.
            Self::Custom(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests;
