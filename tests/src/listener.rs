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

/// Connections that the system keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// A place to listen at, now or again.
#[derive(Debug)]
pub(crate) enum Place {
    /// The socket is bound to the address as long as the place lives but never listens: so nobody
    /// else gets the port while the server refuses connections.
    Tcp {
        address: SocketAddr,
        _reserved: Option<RawSocket>,
    },
    #[cfg_attr(not(unix), expect(dead_code, reason = "made on Unix only"))]
    Unix(PathBuf),
    Sim(SimNetwork, String),
    /// The server is handed its connections.
    Nowhere,
}

impl Place {
    /// A port on loopback that nobody has.
    pub(crate) fn loopback() -> io::Result<Self> {
        let socket = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = socket.local_addr()?.as_socket();
        let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        // Where two sockets can't be bound side by side the port is free while nobody listens.
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
                // A socket file that an earlier listener left would be in the way.
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
    // On Windows the option would let others take the port over.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp {
        listener: TcpListener,
        /// A connection of our own that fills the queue.
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

    /// Lets connection attempts go unanswered: the queue has room for one, which is taken. Nobody
    /// must call [`accept`](Self::accept) until the end of it.
    pub(crate) fn choke(&mut self) -> io::Result<()> {
        if let Self::Tcp { listener, choke } = self {
            let address = listener.local_addr()?;
            SockRef::from(&*listener).listen(0)?;
            let filler = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
            filler.set_nonblocking(true)?;
            // It is under way, or others have filled the queue already.
            let _ = filler.connect(&address.into());
            *choke = Some(filler);
        }
        Ok(())
    }

    /// Answers connection attempts again, also those that were made meanwhile: their systems try
    /// again after 1 s and then ever more rarely.
    pub(crate) fn unchoke(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp { listener, .. } => SockRef::from(&*listener).listen(BACKLOG),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
            Self::Sim(_) => Ok(()),
        }
    }
}
