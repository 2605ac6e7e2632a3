//! The network in memory as a transport that counts its open streams.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use mongo_core::error::ErrorKind;
use mongo_core::net::{Connector, Stream};
use mongo_core::{Error, ServerAddress};
use mongo_testkit::{SimNetwork, SimStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Connects a client to the network. Any name that ends in `-` and a member's own name leads to
/// that member.
pub(super) struct Wire {
    pub(super) network: SimNetwork,
    pub(super) ends: Ends,
}

/// Counts the client's ends of the streams. A handle: clones share the count.
#[derive(Clone, Default)]
pub(super) struct Ends(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    open: BTreeMap<ServerAddress, usize>,
    opened: u64,
}

impl Ends {
    /// The number of open ends.
    pub(super) fn open(&self) -> usize {
        self.lock().open.values().sum()
    }

    /// The number of open ends to one address.
    pub(super) fn open_to(&self, address: &ServerAddress) -> usize {
        self.lock().open.get(address).copied().unwrap_or_default()
    }

    /// The number of ends opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.lock().opened
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name under which a member listens.
pub(super) fn own_name(address: &str) -> &str {
    address.rsplit_once('-').map_or(address, |(_, own)| own)
}

/// The number of the member that an address leads to.
pub(super) fn member_at(address: &ServerAddress) -> Option<usize> {
    let address = address.to_string();
    let number = own_name(&address).strip_prefix('m')?;
    number.split_once('.')?.0.parse().ok()
}

#[async_trait]
impl Connector for Wire {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream, Error> {
        let stream = self.network.connect(own_name(&address.to_string())).await;
        let stream = stream.map_err(|error| ErrorKind::Connect(Arc::new(error)))?;
        let mut counts = self.ends.lock();
        *counts.open.entry(address.clone()).or_default() += 1;
        counts.opened += 1;
        Ok(Stream::custom(Counted {
            stream,
            address: address.clone(),
            ends: self.ends.clone(),
        }))
    }
}

struct Counted {
    stream: SimStream,
    address: ServerAddress,
    ends: Ends,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(open) = self.ends.lock().open.get_mut(&self.address) {
            *open -= 1;
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
