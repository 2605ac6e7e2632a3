//! A network in memory, by tokio's clock and a random seed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::payload::random_bytes;
use crate::pipe::{Pipe, SimStream};

/// The most connections that wait for an accept. Further ones are refused.
const BACKLOG: usize = 1024;

/// A network in memory. Written bytes arrive in order after a latency that the seed chooses, by
/// tokio's clock. With a paused clock no real time passes, and on one thread the same seed gives
/// the same run.
///
/// It identifies servers by name, `host:port`. Clients have no name. Links to a server can be cut
/// like a cable: bytes in flight arrive after the links are healed. This is a handle: clones share
/// the network.
#[derive(Clone)]
pub struct SimNetwork(Arc<Shared>);

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Wakes waiters in the order of waiting, unlike a watch.
    healed: Notify,
}

struct State {
    seed: u64,
    draws: u64,
    latency: (Duration, Duration),
    servers: BTreeMap<String, Server>,
}

#[derive(Default)]
struct Server {
    listener: Option<mpsc::Sender<SimStream>>,
    is_cut: bool,
    pipes: Vec<Weak<Mutex<Pipe>>>,
}

impl SimNetwork {
    /// Creates a network with 0.1 to 2 ms latency each way.
    pub fn new(seed: u64) -> Self {
        let latency = (Duration::from_micros(100), Duration::from_millis(2));
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                seed,
                draws: 0,
                latency,
                servers: BTreeMap::new(),
            }),
            healed: Notify::new(),
        }))
    }

    /// Sets the minimum and maximum latency each way, for bytes written from now on.
    pub fn set_latency(&self, least: Duration, most: Duration) {
        self.0.lock().latency = (least, most.max(least));
    }

    /// Draws a number below `bound` (0 if that is 0) from the network's seed, so that a test's
    /// choices replay with the network's.
    pub fn draw(&self, bound: u64) -> u64 {
        self.0.lock().draw(bound)
    }

    /// Connects to a server. Takes a round trip, or hangs while its links are cut.
    ///
    /// # Errors
    /// `ConnectionRefused` if nothing listens there.
    pub async fn connect(&self, address: &str) -> io::Result<SimStream> {
        sleep(self.0.latency()).await;
        loop {
            // Created before the check, so that no heal between the two is missed.
            let healed = self.0.healed.notified();
            if !self.0.lock().server(address).is_cut {
                break;
            }
            healed.await;
        }
        let accepted = self.hand_over(address);
        sleep(self.0.latency()).await;
        accepted
    }

    fn hand_over(&self, address: &str) -> io::Result<SimStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = self.0.lock().server(address).listener.clone();
        let listener = listener.ok_or_else(refused)?;
        let (near, far, pipes) = SimStream::pair(&self.0);
        listener.try_send(far).map_err(|_| refused())?;
        let mut state = self.0.lock();
        let server = state.server(address);
        server.pipes.retain(|pipe| pipe.strong_count() > 0);
        server.pipes.extend(pipes);
        Ok(near)
    }

    /// Cuts all links to a server: nothing arrives, and connection attempts hang.
    pub fn cut(&self, address: &str) {
        self.set_cut(address, true);
    }

    /// Heals the links: bytes in flight arrive.
    pub fn heal(&self, address: &str) {
        self.set_cut(address, false);
        self.0.healed.notify_waiters();
    }

    fn set_cut(&self, address: &str, is_cut: bool) {
        let mut state = self.0.lock();
        let server = state.server(address);
        server.is_cut = is_cut;
        for pipe in server.pipes.iter().filter_map(Weak::upgrade) {
            lock(&pipe).hold(is_cut);
        }
    }

    /// How many streams to a server have not been dropped at both ends.
    pub fn open_streams(&self, address: &str) -> usize {
        let mut state = self.0.lock();
        let pipes = &mut state.server(address).pipes;
        pipes.retain(|pipe| pipe.strong_count() > 0);
        pipes.len() / 2
    }

    pub(crate) fn listen(&self, address: &str) -> SimListener {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        self.0.lock().server(address).listener = Some(sender);
        SimListener {
            network: self.clone(),
            address: address.to_owned(),
            incoming,
        }
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("SimNetwork")
            .field("seed", &state.seed)
            .field("servers", &state.servers.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn latency(&self) -> Duration {
        let mut state = self.lock();
        let (least, most) = state.latency;
        let spread = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX);
        least + Duration::from_micros(state.draw(spread.saturating_add(1)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn server(&mut self, address: &str) -> &mut Server {
        self.servers.entry(address.to_owned()).or_default()
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.draws += 1;
        let mut word = [0; 8];
        let mixed = self.seed ^ self.draws.wrapping_mul(0x2545_f491_4f6c_dd1d);
        word.copy_from_slice(&random_bytes(mixed, 8));
        u64::from_le_bytes(word).checked_rem(bound).unwrap_or(0)
    }
}

pub(crate) fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(crate) struct SimListener {
    network: SimNetwork,
    address: String,
    incoming: mpsc::Receiver<SimStream>,
}

impl SimListener {
    pub(crate) async fn accept(&mut self) -> SimStream {
        match self.incoming.recv().await {
            Some(stream) => stream,
            // Another listener has taken the address.
            None => std::future::pending().await,
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.network.0.lock();
        let server = state.server(&self.address);
        // Closed here: the next one may listen already.
        self.incoming.close();
        if server
            .listener
            .as_ref()
            .is_some_and(mpsc::Sender::is_closed)
        {
            server.listener = None;
        }
    }
}
