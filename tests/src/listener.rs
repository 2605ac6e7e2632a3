//! Where a server listens, and how it stops doing so.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use socket2::{Domain, SockRef, Socket as RawSocket, Type};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::sim::{SimListener, SimNetwork};
use crate::socket::Socket;

/// Connections that the system queues until they are accepted.
const BACKLOG: i32 = 1024;

/// An address to listen at, repeatedly.
#[derive(Debug)]
pub(crate) enum Place {
    /// The socket is bound to the address as long as the place lives, but never listens, so that no
    /// other process gets the port while the server refuses connections.
    Tcp {
        address: SocketAddr,
        _reserved: Option<RawSocket>,
    },
    #[cfg_attr(not(unix), expect(dead_code, reason = "made on Unix only"))]
    Unix(PathBuf),
    Sim(SimNetwork, String),
    /// Connections are passed to the server without a listener.
    Nowhere,
}

impl Place {
    /// A free port on loopback.
    pub(crate) fn loopback() -> io::Result<Self> {
        let socket = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?.as_socket();
        let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        // If two sockets can't be bound to one port, the port is not reserved while nothing
        // listens.
        let keeps = bound(address).is_ok();
        Ok(Self::Tcp {
            address,
            _reserved: keeps.then_some(socket),
        })
    }

    /// As text: `host:port`, or a path.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Tcp { address, .. } => address.to_string(),
            Self::Unix(path) => path.display().to_string(),
            Self::Sim(_, name) => name.clone(),
            Self::Nowhere => "nowhere".to_owned(),
        }
    }

    pub(crate) fn listen(&self) -> io::Result<Option<Listener>> {
        match self {
            Self::Tcp { address, .. } => {
                let socket = bound(*address)?;
                socket.listen(BACKLOG)?;
                socket.set_nonblocking(true)?;
                let listener = TcpListener::from_std(socket.into())?;
                let choke = None;
                Ok(Some(Listener::Tcp { listener, choke }))
            }
            #[cfg(unix)]
            Self::Unix(path) => {
                // Remove the socket file of an earlier listener.
                let _ = std::fs::remove_file(path);
                UnixListener::bind(path).map(|listener| Some(Listener::Unix(listener)))
            }
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Sim(network, address) => Ok(Some(Listener::Sim(network.listen(address)))),
            Self::Nowhere => Ok(None),
        }
    }
}

fn bound(address: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
    // On Windows the option would let other processes take over the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp {
        listener: TcpListener,
        /// The kit's own connection that fills the queue.
        choke: Option<RawSocket>,
    },
    #[cfg(unix)]
    Unix(UnixListener),
    Sim(SimListener),
}

impl Listener {
    pub(crate) async fn accept(&mut self) -> io::Result<Socket> {
        match self {
            Self::Tcp { listener, choke } => loop {
                let (stream, peer) = listener.accept().await?;
                let filler = choke.as_ref().and_then(|filler| filler.local_addr().ok());
                if filler.and_then(|filler| filler.as_socket()) == Some(peer) {
                    *choke = None;
                    continue;
                }
                stream.set_nodelay(true)?;
                return Ok(Socket::Tcp(stream));
            },
            #[cfg(unix)]
            Self::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Socket::Unix(stream)),
            Self::Sim(listener) => Ok(Socket::custom(listener.accept().await)),
        }
    }

    /// Leaves connection attempts unanswered, by filling a queue of length one. Don't call
    /// [`accept`](Self::accept) until [`unchoke`](Self::unchoke).
    pub(crate) fn choke(&mut self) -> io::Result<()> {
        if let Self::Tcp { listener, choke } = self {
            let address = listener.local_addr()?;
            SockRef::from(&*listener).listen(0)?;
            let filler = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
            filler.set_nonblocking(true)?;
            // The attempt is pending, or other connections have filled the queue already.
            let _ = filler.connect(&address.into());
            *choke = Some(filler);
        }
        Ok(())
    }

    /// Answers connection attempts again, including pending ones: their systems retry after 1 s and
    /// then less and less often.
    pub(crate) fn unchoke(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp { listener, .. } => SockRef::from(&*listener).listen(BACKLOG),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
            Self::Sim(_) => Ok(()),
        }
    }
}
