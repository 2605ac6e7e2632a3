//! An HTTP endpoint on loopback, in place of every address of a cloud.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mongo_core::net::{Connector, Stream};
use mongo_core::{Error, Result, ServerAddress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Sends the test's response to each request, and closes.
pub(crate) struct Endpoint {
    address: SocketAddr,
    /// The requests: `169.254.169.254:80 GET /path`, and the whole head.
    seen: Arc<Mutex<Vec<(String, String)>>>,
    /// The addresses of the next connections.
    meant: Mutex<Vec<String>>,
    task: JoinHandle<()>,
}

impl Endpoint {
    pub(crate) async fn start(
        answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a request"));
                }
                let head = String::from_utf8(head).expect("text");
                let line = head.lines().next().expect("a line").to_owned();
                let line = line.trim_end_matches(" HTTP/1.1").to_owned();
                let answer = answer(&line);
                log.lock().expect("not poisoned").push((line, head));
                // The client may have closed the connection before.
                let _ = stream.write_all(&answer).await;
            }
        });
        Arc::new(Self {
            address,
            seen,
            meant: Mutex::default(),
            task,
        })
    }

    /// The addresses and the request lines, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        let meant = self.meant.lock().expect("not poisoned");
        let seen = self.seen.lock().expect("not poisoned");
        let both = meant.iter().zip(seen.iter());
        both.map(|(meant, (line, _))| format!("{meant} {line}"))
            .collect()
    }

    /// The number of requests.
    pub(crate) fn heads(&self) -> usize {
        self.seen.lock().expect("not poisoned").len()
    }

    /// The head of the n-th request.
    pub(crate) fn head(&self, index: usize) -> String {
        self.seen.lock().expect("not poisoned")[index].1.clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects every address to the endpoint.
pub(crate) struct Everywhere(pub(crate) Arc<Endpoint>);

#[async_trait::async_trait]
impl Connector for Everywhere {
    async fn connect(&self, address: &ServerAddress) -> Result<Stream> {
        let meant = address.to_string();
        self.0.meant.lock().expect("not poisoned").push(meant);
        let stream = TcpStream::connect(self.0.address).await;
        stream.map(Stream::Tcp).map_err(Error::network)
    }

    fn is_secure(&self) -> bool {
        true
    }
}

/// A complete response.
pub(crate) fn answer(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}
