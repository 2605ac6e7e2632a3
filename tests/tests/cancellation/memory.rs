//! A network in memory, with a scripted MongoDB at the other end of each stream.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use mongo_core::ServerAddress;
use mongo_core::net::{BlockingExecutor, Connector, KeyService, Stream};
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::peer::Peer;

/// The network, with counters of its streams and bytes.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The most bytes that move at a time; 0 is no limit.
    piece: AtomicUsize,
    mute: AtomicBool,
    opened: AtomicUsize,
    open: AtomicUsize,
    unread: AtomicUsize,
    faults: Mutex<Vec<String>>,
    listeners: Mutex<Vec<Waker>>,
}

impl Network {
    /// Sets whether each byte needs a poll of its own, with another poll in between that moves
    /// nothing. Otherwise all available bytes move at once.
    pub(crate) fn bytewise(&self, bytewise: bool) {
        self.in_pieces(bytewise.then_some(1));
    }

    /// The same with more bytes at a time, for long sweeps: they still cover every wait, but not
    /// every byte of a message.
    pub(crate) fn in_pieces(&self, bytes: Option<usize>) {
        self.0.piece.store(bytes.unwrap_or(0), SeqCst);
    }

    /// Sets whether the servers' replies are held back.
    pub(crate) fn mute(&self, mute: bool) {
        self.0.mute.store(mute, SeqCst);
        for waker in std::mem::take(&mut *lock(&self.0.listeners)) {
            waker.wake();
        }
    }

    /// The number of streams opened so far.
    pub(crate) fn opened(&self) -> usize {
        self.0.opened.load(SeqCst)
    }

    /// The number of open streams.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(SeqCst)
    }

    /// The number of unread bytes on open streams.
    pub(crate) fn unread(&self) -> usize {
        self.0.unread.load(SeqCst)
    }

    /// Checks that no server has received an invalid message.
    pub(crate) fn assert_no_faults(&self) {
        assert_eq!(*lock(&self.0.faults), Vec::<String>::new());
    }

    /// A factory of connections over this network.
    pub(crate) fn factory(
        &self,
        uri: &str,
        config: ManagerConfig,
        keys: Arc<KeyService>,
    ) -> ConnectionFactory {
        let options = mongo_core::ClientOptions::parse(uri).expect("a connection string");
        ConnectionFactory::builder(options)
            .config(config)
            .connector(Arc::new(self.clone()))
            .keys(keys)
            .build()
            .expect("a factory")
    }
}

/// Without a credential.
pub(crate) const PLAIN: &str = "mongodb://memory/?directConnection=true";
/// With compression of all messages that allow it.
pub(crate) const COMPRESSED: &str = "mongodb://memory/?directConnection=true&compressors=snappy";
/// With a credential.
pub(crate) const SCRAM: &str =
    "mongodb://app:pencil@memory/?directConnection=true&authMechanism=SCRAM-SHA-256";

#[async_trait]
impl Connector for Network {
    async fn connect(&self, _: &ServerAddress) -> mongo_core::Result<Stream> {
        tokio::task::yield_now().await;
        let pipe = Pipe::new(self.0.clone());
        tokio::task::yield_now().await;
        Ok(Stream::custom(pipe))
    }
}

/// Derives keys in a task of the test's runtime, so that the time does not depend on a thread.
struct OnTheRuntime;

impl BlockingExecutor for OnTheRuntime {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::spawn(async move { work() }));
    }
}

pub(crate) fn keys() -> Arc<KeyService> {
    Arc::new(KeyService::new(Arc::new(OnTheRuntime)))
}

/// One stream. The server answers within the client's write, as soon as a request is complete.
struct Pipe {
    shared: Arc<Shared>,
    peer: Peer,
    /// The server's replies that the client has not read.
    replies: VecDeque<u8>,
    /// Whether the last poll moved a byte.
    moved: bool,
}

impl Pipe {
    fn new(shared: Arc<Shared>) -> Self {
        shared.opened.fetch_add(1, SeqCst);
        shared.open.fetch_add(1, SeqCst);
        Self {
            shared,
            peer: Peer::default(),
            replies: VecDeque::new(),
            moved: false,
        }
    }

    /// How many of `wanted` bytes may move now: every other call gives none.
    fn turn(&mut self, context: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        let piece = self.shared.piece.load(SeqCst);
        if piece == 0 {
            return Poll::Ready(wanted);
        }
        self.moved = !self.moved;
        if self.moved {
            return Poll::Ready(wanted.min(piece));
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, SeqCst);
        self.shared.unread.fetch_sub(self.replies.len(), SeqCst);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.replies.is_empty() || self.shared.mute.load(SeqCst) {
            lock(&self.shared.listeners).push(context.waker().clone());
            return Poll::Pending;
        }
        let wanted = self.replies.len().min(buf.remaining());
        let Poll::Ready(count) = self.turn(context, wanted) else {
            return Poll::Pending;
        };
        for byte in self.replies.drain(..count) {
            buf.put_slice(&[byte]);
        }
        self.shared.unread.fetch_sub(count, SeqCst);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(count) = self.turn(context, bytes.len()) else {
            return Poll::Pending;
        };
        let this = &mut *self;
        match this.peer.receive(&bytes[..count]) {
            Ok(replies) => {
                this.shared.unread.fetch_add(replies.len(), SeqCst);
                this.replies.extend(replies);
            }
            Err(fault) => lock(&this.shared.faults).push(fault),
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As with TLS: the bytes are written, but not yet sent.
        self.turn(context, 1).map(|_| Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
