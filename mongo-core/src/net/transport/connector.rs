use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;

use super::stream::Stream;
use super::together::Together;
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, Wait};
use crate::net::deadline::sleep_until;
use crate::net::runtime::check_io;

/// Opens the transport to a server. Implement it for proxies, in-memory networks and a framework's
/// own sockets. If the options ask for TLS, it runs on top of the stream that the connector opens.
///
/// The caller bounds the call with `connectTimeoutMS` and then drops the future. So an
/// implementation needs no time-out of its own, but must leave nothing behind when dropped. A panic
/// in it is caught and logged, and fails the attempt with [`ErrorKind::Connect`].
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use async_trait::async_trait;
/// use mongo_core::net::{Connector, SocketConnector, Stream};
/// use mongo_core::{Result, ServerAddress};
///
/// /// Sockets, counted.
/// #[derive(Default)]
/// struct Counting {
///     sockets: SocketConnector,
///     attempts: AtomicU64,
/// }
///
/// #[async_trait]
/// impl Connector for Counting {
///     async fn connect(&self, address: &ServerAddress) -> Result<Stream> {
///         self.attempts.fetch_add(1, Ordering::Relaxed);
///         // Or `Stream::custom` of whatever reads and writes.
///         self.sockets.connect(address).await
///     }
/// }
/// ```
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Opens a stream to `address`.
    ///
    /// # Errors
    /// Preferably [`ErrorKind::Connect`]; the caller adds the server's address.
    async fn connect(&self, address: &ServerAddress) -> Result<Stream>;

    /// Whether its streams are already encrypted and the servers verified. If so, no TLS is added,
    /// even if the options ask for it. Default: false.
    fn is_secure(&self) -> bool {
        false
    }

    /// What [`connect`](Self::connect) waits for, named in the error of a time-out. Default:
    /// [`Wait::Connect`]. If it calls a [`SocketConnector`] on the same task, that connector's DNS
    /// lookups are still reported as [`Wait::Dns`].
    fn waits_for(&self) -> Wait {
        Wait::Connect
    }
}

tokio::task_local! {
    /// The current wait of the connector that is being polled. Task-local, because an application's
    /// connector may be in between.
    static WAITS: Cell<Option<Wait>>;
}

/// Sets the current wait, for [`telling`].
pub(crate) fn waits_for(wait: Wait) {
    let _ = WAITS.try_with(|own| own.set(Some(wait)));
}

/// Runs a future, and calls `tell` with its current wait. It is passed pinned, because an `async fn`
/// would store it twice.
pub(crate) async fn telling<F: Future + ?Sized>(
    mut future: Pin<&mut F>,
    mut tell: impl FnMut(Wait),
) -> F::Output {
    poll_fn(|context| {
        WAITS.sync_scope(Cell::new(None), || {
            let polled = future.as_mut().poll(context);
            if let Some(wait) = WAITS.with(Cell::get) {
                tell(wait);
            }
            polled
        })
    })
    .await
}

/// TCP and Unix domain sockets.
///
/// A host name's addresses are tried in turns of IPv6 and IPv4, the next one 250 ms after the one
/// before or as soon as that has failed (happy eyeballs, RFC 8305); the first to answer wins. If
/// it closes or resets the connection before TLS is agreed on, or before the first byte of the answer to
/// the hello, the others are tried, within the same time; where this connector is used by itself, not
/// in another one.
///
/// TCP sockets have `TCP_NODELAY` set and are kept alive: probes begin after 120 s of silence and follow
/// each other every 10 s, and after 9 without an answer the socket is closed. (Where the system has
/// no such settings for a single socket, its own hold.)
///
/// On a runtime without an I/O driver (`enable_io`), it fails with [`ErrorKind::Configuration`].
///
/// Host names are looked up by the system (`getaddrinfo`) on Tokio's blocking threads. A lookup
/// that times out is reported as [`Wait::Dns`].
#[derive(Clone, Debug)]
pub struct SocketConnector {
    keep_alive: TcpKeepalive,
    attempt_delay: Duration,
}

/// The addresses of a host that are still to be tried: at first all of them, then those to which no
/// connection was opened yet.
#[derive(Debug, Default)]
pub(crate) struct Untried(Option<Vec<SocketAddr>>);

impl Untried {
    #[cfg(test)]
    pub(crate) fn of(addresses: Vec<SocketAddr>) -> Self {
        Self(Some(addresses))
    }

    /// Whether an address is left after the peer closed or reset a connection before the first byte
    /// of its answer. In that case the peer accepts connections, but is not a server.
    pub(crate) fn is_left_after(&self, error: &Error) -> bool {
        let is_left = self.0.as_ref().is_some_and(|left| !left.is_empty());
        is_left && is_cut_off(error)
    }
}

/// Whether the peer closed or reset the connection.
pub(crate) fn is_cut_off(error: &Error) -> bool {
    let ErrorKind::Network(error) = error.kind() else {
        return false;
    };
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

impl Default for SocketConnector {
    fn default() -> Self {
        Self {
            keep_alive: keep_alive(),
            attempt_delay: Duration::from_millis(250),
        }
    }
}

impl SocketConnector {
    /// A connector with the defaults [above](Self).
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        check_io().map_err(io::Error::other)?;
        let addresses = lookup_host((host, port)).await?;
        Ok(self.open(in_turns(addresses)).await?.0)
    }

    /// Like [`connect`](Connector::connect), to one of the addresses that are still to be tried.
    pub(crate) async fn connect_untried(
        &self,
        address: &ServerAddress,
        untried: &mut Untried,
    ) -> Result<Stream> {
        check_io()?;
        match address {
            ServerAddress::Tcp { host, port } => {
                let addresses = match untried.0.take() {
                    Some(left) => left,
                    None => {
                        waits_for(Wait::Dns);
                        let addresses = lookup_host((&**host, *port)).await;
                        in_turns(addresses.map_err(|error| ErrorKind::Dns(Arc::new(error)))?)
                    }
                };
                waits_for(Wait::Connect);
                let (stream, left) = self.open(addresses).await.map_err(not_connected)?;
                untried.0 = Some(left);
                Ok(Stream::Tcp(stream))
            }
            #[cfg(unix)]
            ServerAddress::Unix { path } => tokio::net::UnixStream::connect(path)
                .await
                .map(Stream::Unix)
                .map_err(not_connected),
            #[cfg(not(unix))]
            ServerAddress::Unix { .. } => {
                Err(not_connected(io::Error::from(io::ErrorKind::Unsupported)))
            }
        }
    }

    /// Returns a stream to the first address that connects, and the addresses whose attempts did
    /// not finish.
    async fn open(&self, addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, Vec<SocketAddr>)> {
        let (stream, left) = self.race(addresses).await?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&self.keep_alive)?;
        Ok((stream, left))
    }

    /// Dropping this future ends all running attempts. Nothing is spawned, because a caller may not
    /// want background tasks.
    async fn race(&self, addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, Vec<SocketAddr>)> {
        let mut attempts = Together::new();
        let mut addresses = addresses.into_iter();
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no addresses");
        loop {
            match addresses.next() {
                Some(address) => attempts.push(address, TcpStream::connect(address)),
                None if attempts.is_empty() => return Err(failure),
                None => {}
            }
            let more = !addresses.as_slice().is_empty();
            // Both branches are safe to drop: the attempts are kept, and the sleep restarts only
            // for the next address. One that is over comes first.
            tokio::select! {
                biased;
                Some((_, attempt)) = attempts.next() => match attempt {
                    Ok(stream) => {
                        let left = attempts.keys().copied().chain(addresses).collect();
                        return Ok((stream, left));
                    }
                    Err(error) => failure = error,
                },
                () = sleep_until(Instant::now() + self.attempt_delay), if more => {}
            }
        }
    }
}

#[async_trait]
impl Connector for SocketConnector {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream> {
        self.connect_untried(address, &mut Untried::default()).await
    }
}

/// MongoDB's recommendation for clients. With the system's own interval and count, 75 s and 9 on
/// Linux, it would take eleven minutes more.
fn keep_alive() -> TcpKeepalive {
    let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(120));
    #[cfg(any(
        target_os = "android",
        target_os = "freebsd",
        target_os = "ios",
        target_os = "linux",
        target_os = "macos",
        target_os = "netbsd",
        target_os = "windows",
    ))]
    let keep_alive = keep_alive
        .with_interval(Duration::from_secs(10))
        .with_retries(9);
    keep_alive
}

fn not_connected(error: io::Error) -> Error {
    Error::new(ErrorKind::Connect(Arc::new(error)))
}

/// Alternates the families, IPv6 first, and keeps the resolver's order within each.
fn in_turns(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.partition(SocketAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut turns = Vec::with_capacity(v6.len() + v4.len());
    loop {
        match (v6.next(), v4.next()) {
            (None, None) => return turns,
            (first, second) => turns.extend(first.into_iter().chain(second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let given = ["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "3.3.3.3:1"].map(parse);
        let wanted = ["[::1]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"].map(parse);
        assert_eq!(in_turns(given.into_iter()), wanted);
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_hide_a_good_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let good = listener.local_addr().expect("bound");
        let refusing = {
            let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            closed.local_addr().expect("bound")
        };
        let raced = SocketConnector::new().race(vec![refusing, good]).await;
        let (stream, left) = raced.expect("connected");
        assert_eq!(stream.peer_addr().expect("peer"), good);
        assert!(left.is_empty(), "{left:?}");
        let raced = SocketConnector::new().race(vec![good, refusing]).await;
        let (stream, left) = raced.expect("connected");
        assert_eq!(stream.peer_addr().expect("peer"), good);
        assert_eq!(left, [refusing]);
        let error = SocketConnector::new().race(vec![refusing]).await;
        assert_eq!(
            error.expect_err("refused").kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(SocketConnector::new().race(Vec::new()).await.is_err());
    }

    #[tokio::test]
    async fn a_connect_spawns_no_task() {
        use std::future::Future;

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connector = SocketConnector::new();
        let mut race = std::pin::pin!(connector.race(vec![address]));
        let begun = std::future::poll_fn(|context| {
            std::task::Poll::Ready(race.as_mut().poll(context).is_pending())
        });
        assert!(begun.await, "a connect takes a turn of the reactor");
        let metrics = tokio::runtime::Handle::current().metrics();
        assert_eq!(metrics.num_alive_tasks(), 0);
        race.await.expect("connected");
    }

    #[tokio::test]
    async fn sockets_are_set_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stream = SocketConnector::new()
            .connect_tcp("127.0.0.1", address.port())
            .await
            .expect("connected");
        assert!(stream.nodelay().expect("an option"));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("an option"));
        #[cfg(target_os = "linux")]
        {
            let time = socket.tcp_keepalive_time().expect("an option");
            let interval = socket.tcp_keepalive_interval().expect("an option");
            let retries = socket.tcp_keepalive_retries().expect("an option");
            let seconds = (time.as_secs(), interval.as_secs());
            assert_eq!((seconds, retries), ((120, 10), 9));
        }
    }
}
