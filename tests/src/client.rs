//! A blocking client, for the kit's own commands to a real server.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::codec::{self, Reply};
use crate::scram::{attribute, random_text};
use crate::user::Mechanism;

/// How long a single connect, read or write may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// The address of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A name, or an IP address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let number = port.parse().map_err(|_| "a bad port".to_owned())?;
                (host, number)
            }
            _ => (text, 27017),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['%', '/']) {
            return Err("a bad host".to_owned());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A user, with the password.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) name: String,
    pub(crate) password: String,
    /// The user's database.
    pub(crate) source: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct BlockingClient {
    stream: Transport,
    last_id: i32,
}

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes),
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.read_exact(bytes),
            Self::Tls(stream) => stream.read_exact(bytes),
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    #[error("{command} failed: {reply}")]
    Command { command: String, reply: Document },
    #[error("the server's part of SCRAM is wrong: {0}")]
    Scram(&'static str),
}

type Result<T> = std::result::Result<T, ClientError>;

impl BlockingClient {
    pub(crate) fn connect(endpoint: &Endpoint, tls: Option<Arc<ClientConfig>>) -> Result<Self> {
        let stream = open(endpoint)?;
        stream.set_read_timeout(Some(STEP_LIMIT))?;
        stream.set_write_timeout(Some(STEP_LIMIT))?;
        stream.set_nodelay(true)?;
        let stream = match tls {
            None => Transport::Tcp(stream),
            Some(config) => {
                let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
                let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
                Transport::Tls(Box::new(StreamOwned::new(connection, stream)))
            }
        };
        Ok(Self { stream, last_id: 0 })
    }

    /// The socket of a connection without TLS, which is used no further here.
    pub(crate) fn into_socket(self) -> io::Result<TcpStream> {
        match self.stream {
            Transport::Tcp(stream) => Ok(stream),
            Transport::Tls(_) => Err(io::Error::other("the kit's proxies have no TLS upstream")),
        }
    }

    /// Runs a command; `ok: 0` is an error.
    pub(crate) fn run(&mut self, database: &str, mut command: Document) -> Result<Document> {
        command.insert("$db", database);
        self.last_id += 1;
        self.stream
            .write_all(&codec::encode_command(self.last_id, 0, &command))?;
        let mut message = vec![0; codec::HEADER_LENGTH];
        self.stream.read_exact(&mut message)?;
        let length = codec::message_length(&message)?.unwrap_or(codec::HEADER_LENGTH);
        message.resize(length, 0);
        self.stream
            .read_exact(&mut message[codec::HEADER_LENGTH..])?;
        let reply = Reply::decode(&message)?.body;
        if codec::is_ok(&reply) {
            return Ok(reply);
        }
        let command = command.keys().next().cloned().unwrap_or_default();
        Err(ClientError::Command { command, reply })
    }

    /// SCRAM-SHA-256.
    pub(crate) fn authenticate(&mut self, credential: &Credential) -> Result<()> {
        let mechanism = Mechanism::ScramSha256;
        let (source, password) = (&credential.source, &credential.password);
        let user = credential.name.replace('=', "=3D").replace(',', "=2C");
        let nonce = random_text();
        let first_bare = format!("n={user},r={nonce}");
        let reply = self.run(
            source,
            doc! {
                "saslStart": 1,
                "mechanism": mechanism.name(),
                "payload": binary(&format!("n,,{first_bare}")),
                "options": {"skipEmptyExchange": true},
            },
        )?;
        let server_first = text(&reply)?;
        let find = |name| attribute(&server_first, name).ok_or(ClientError::Scram("first message"));
        let (combined, salt, iterations) = (find("r")?, find("s")?, find("i")?);
        if !combined.starts_with(&nonce) {
            return Err(ClientError::Scram("nonce"));
        }
        let salt = BASE64
            .decode(salt)
            .map_err(|_| ClientError::Scram("salt"))?;
        let iterations = iterations
            .parse()
            .map_err(|_| ClientError::Scram("iterations"))?;
        let prepared = mechanism.prepared(&user, password);
        let salted = mechanism.salted(prepared.as_bytes(), &salt, iterations);
        let without_proof = format!("c=biws,r={combined}");
        let auth_message = format!("{first_bare},{server_first},{without_proof}");
        let client_key = mechanism.hmac(&salted, b"Client Key");
        let signature = mechanism.hmac(&mechanism.hash(&client_key), auth_message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(k, s)| k ^ s)
            .collect();
        let id = reply
            .get("conversationId")
            .cloned()
            .unwrap_or(bson::Bson::Int32(1));
        let reply = self.run(
            source,
            doc! {
                "saslContinue": 1,
                "conversationId": id,
                "payload": binary(&format!("{without_proof},p={}", BASE64.encode(proof))),
            },
        )?;
        let server_key = mechanism.hmac(&salted, b"Server Key");
        let expected = BASE64.encode(mechanism.hmac(&server_key, auth_message.as_bytes()));
        if attribute(&text(&reply)?, "v") != Some(&expected) {
            return Err(ClientError::Scram("signature"));
        }
        Ok(())
    }
}

fn open(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let mut last = io::Error::other(format!("{endpoint} has no address"));
    for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn binary(text: &str) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.as_bytes().to_vec(),
    }
}

fn text(reply: &Document) -> Result<String> {
    let payload = reply
        .get_binary_generic("payload")
        .map_err(|_| ClientError::Scram("payload"))?;
    String::from_utf8(payload.clone()).map_err(|_| ClientError::Scram("payload"))
}
