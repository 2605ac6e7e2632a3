//! The streams of a [`SimNetwork`](crate::SimNetwork).

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::sim::{Shared, lock};

/// One direction of a stream.
pub(crate) struct Pipe {
    /// The bytes in flight, with their time of arrival. An empty chunk is the end.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    last_arrival: Instant,
    /// Nothing arrives while this is set.
    is_held: bool,
    /// The reading end was dropped.
    is_abandoned: bool,
    is_ended: bool,
    reader: Option<Waker>,
}

impl Pipe {
    fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            last_arrival: Instant::now(),
            is_held: false,
            is_abandoned: false,
            is_ended: false,
            reader: None,
        }
    }

    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
        self.wake();
    }

    fn send(&mut self, latency: Duration, bytes: &[u8]) {
        if self.is_ended {
            return;
        }
        self.is_ended = bytes.is_empty();
        // In order, regardless of the latencies.
        self.last_arrival = self.last_arrival.max(Instant::now() + latency);
        self.chunks.push_back((self.last_arrival, bytes.to_vec()));
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// One end of a connection over a [`SimNetwork`](crate::SimNetwork). Dropping it closes it.
pub struct SimStream {
    network: Arc<Shared>,
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl SimStream {
    /// Returns both ends, and both directions.
    pub(crate) fn pair(network: &Arc<Shared>) -> (Self, Self, [Weak<Mutex<Pipe>>; 2]) {
        let pipes = [Pipe::new(), Pipe::new()].map(|pipe| Arc::new(Mutex::new(pipe)));
        let end = |incoming: &Arc<Mutex<Pipe>>, outgoing: &Arc<Mutex<Pipe>>| Self {
            network: Arc::clone(network),
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            timer: None,
        };
        let [one, other] = &pipes;
        let (near, far) = (end(one, other), end(other, one));
        (near, far, pipes.each_ref().map(Arc::downgrade))
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let mut pipe = lock(&this.incoming);
            pipe.reader = Some(cx.waker().clone());
            if pipe.is_held {
                return Poll::Pending;
            }
            let Some((arrival, bytes)) = pipe.chunks.front_mut() else {
                return Poll::Pending;
            };
            let arrival = *arrival;
            if arrival <= Instant::now() {
                let count = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..count]);
                // The end stays in the queue, so that every later read finds it.
                if !bytes.is_empty() {
                    bytes.drain(..count);
                    if bytes.is_empty() {
                        pipe.chunks.pop_front();
                    }
                }
                return Poll::Ready(Ok(()));
            }
            drop(pipe);
            let timer = this
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(arrival)));
            if timer.deadline() != arrival {
                timer.as_mut().reset(arrival);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let latency = self.network.latency();
        let mut pipe = lock(&self.outgoing);
        // The other end has closed, and no cut hides it.
        if pipe.is_ended || (pipe.is_abandoned && !pipe.is_held) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !bytes.is_empty() {
            pipe.send(latency, bytes);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let latency = self.network.latency();
        lock(&self.outgoing).send(latency, &[]);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let latency = self.network.latency();
        lock(&self.outgoing).send(latency, &[]);
        let mut incoming = lock(&self.incoming);
        incoming.is_abandoned = true;
        incoming.chunks.clear();
    }
}

impl fmt::Debug for SimStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimStream").finish_non_exhaustive()
    }
}
