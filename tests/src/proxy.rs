//! A SOCKS5 proxy on loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A connection that a client requested from the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socks5Request {
    /// The host as the client wrote it: a name, or an address as text.
    pub host: String,
    /// Whether it is a name, which the proxy has to look up.
    pub by_name: bool,
    /// The port.
    pub port: u16,
}

/// The behavior of a proxy.
#[derive(Debug)]
enum Conduct {
    /// Serves as specified. Requires the name and password, if set.
    Serve {
        password: Option<(String, String)>,
        mapped: Vec<((String, u16), SocketAddr)>,
    },
    /// Writes these replies in order, each after a read. Then it stays silent, or closes.
    Play { answers: Vec<Vec<u8>>, closes: bool },
}

/// A SOCKS5 proxy that serves on tasks of the current runtime, and records its requests. Dropping
/// it ends the tasks.
#[derive(Debug)]
pub struct Socks5Proxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Socks5Request>>>,
    task: JoinHandle<()>,
}

impl Socks5Proxy {
    /// Starts a proxy that connects to the requested host, or to the address that a host is mapped
    /// to. It requires a name and a password, if given.
    ///
    /// # Panics
    /// If no loopback port is available, or outside a tokio runtime.
    pub async fn start(
        password: Option<(&str, &str)>,
        mapped: impl IntoIterator<Item = (&str, u16, SocketAddr)>,
    ) -> Self {
        let mapped = mapped.into_iter();
        Self::with(Conduct::Serve {
            password: password.map(|(name, text)| (name.to_owned(), text.to_owned())),
            mapped: mapped
                .map(|(host, port, address)| ((host.to_owned(), port), address))
                .collect(),
        })
        .await
    }

    /// Starts a proxy that sends these replies, whatever it receives, and then stays silent.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn that_answers(answers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let answers = answers.into_iter().collect();
        let closes = false;
        Self::with(Conduct::Play { answers, closes }).await
    }

    /// Starts a proxy that sends these replies, whatever it receives, and then closes.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn that_closes_after(answers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let answers = answers.into_iter().collect();
        let closes = true;
        Self::with(Conduct::Play { answers, closes }).await
    }

    async fn with(conduct: Conduct) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::<Mutex<Vec<Socks5Request>>>::default();
        let (conduct, seen) = (Arc::new(conduct), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (conduct, seen) = (Arc::clone(&conduct), Arc::clone(&seen));
                // An I/O error means that the client ended the connection.
                clients.spawn(async move { drop(conduct.serve(client, &seen).await) });
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// The address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, in order.
    pub fn requests(&self) -> Vec<Socks5Request> {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Socks5Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Conduct {
    async fn serve(
        &self,
        mut client: TcpStream,
        seen: &Mutex<Vec<Socks5Request>>,
    ) -> io::Result<()> {
        match self {
            Self::Serve { password, mapped } => {
                if !greet(&mut client, password.as_ref()).await? {
                    return client.shutdown().await;
                }
                let request = read_request(&mut client).await?;
                let wanted = (request.host.clone(), request.port);
                let mut known = mapped.iter();
                let known = known.find(|(host, _)| *host == wanted);
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(request);
                let server = match known {
                    Some((_, address)) => TcpStream::connect(address).await,
                    None => TcpStream::connect((&*wanted.0, wanted.1)).await,
                };
                let Ok(mut server) = server else {
                    return client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await;
                };
                client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
                copy_bidirectional(&mut client, &mut server).await?;
            }
            Self::Play { answers, closes } => {
                let mut buffer = [0; 1024];
                for answer in answers {
                    if client.read(&mut buffer).await? == 0 {
                        return Ok(());
                    }
                    client.write_all(answer).await?;
                }
                while !closes && client.read(&mut buffer).await? > 0 {}
            }
        }
        Ok(())
    }
}

/// Whether the client may continue.
async fn greet(client: &mut TcpStream, password: Option<&(String, String)>) -> io::Result<bool> {
    let [_, count] = read_array(client).await?;
    let mut methods = vec![0; usize::from(count)];
    client.read_exact(&mut methods).await?;
    let method = if password.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        client.write_all(&[5, 0xff]).await?;
        return Ok(false);
    }
    client.write_all(&[5, method]).await?;
    let Some((name, text)) = password else {
        return Ok(true);
    };
    let [_, length] = read_array(client).await?;
    let given_name = read_text(client, length).await?;
    let [length] = read_array(client).await?;
    let given_text = read_text(client, length).await?;
    let is_right = given_name == *name && given_text == *text;
    client.write_all(&[1, u8::from(!is_right)]).await?;
    Ok(is_right)
}

async fn read_request(client: &mut TcpStream) -> io::Result<Socks5Request> {
    let [_, _, _, kind] = read_array(client).await?;
    let host = match kind {
        1 => IpAddr::from(Ipv4Addr::from(read_array::<4>(client).await?)).to_string(),
        4 => IpAddr::from(Ipv6Addr::from(read_array::<16>(client).await?)).to_string(),
        _ => {
            let [length] = read_array(client).await?;
            read_text(client, length).await?
        }
    };
    let port = u16::from_be_bytes(read_array(client).await?);
    Ok(Socks5Request {
        host,
        by_name: kind == 3,
        port,
    })
}

async fn read_array<const N: usize>(client: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn read_text(client: &mut TcpStream, length: u8) -> io::Result<String> {
    let mut bytes = vec![0; usize::from(length)];
    client.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
