//! The network in memory as a transport whose open ends are counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use mongo_core::error::ErrorKind;
use mongo_core::net::{Connector, Stream};
use mongo_core::{Error, ServerAddress};
use mongo_testkit::{SimNetwork, SimStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Connects a client to the network, in which a member is known by any name that ends in `-` and
/// its own.
pub(super) struct Wire {
    pub(super) network: SimNetwork,
    /// The client's ends that are open now.
    pub(super) open: Arc<AtomicUsize>,
    /// All that were ever opened.
    pub(super) opened: Arc<AtomicUsize>,
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
        let address = address.to_string();
        let stream = self.network.connect(own_name(&address)).await;
        let stream = stream.map_err(|error| ErrorKind::Connect(Arc::new(error)))?;
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Stream::custom(Counted {
            stream,
            open: self.open.clone(),
        }))
    }
}

struct Counted {
    stream: SimStream,
    open: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
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
