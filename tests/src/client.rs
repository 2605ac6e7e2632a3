//! A blocking client, for the kit's own commands to a real server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::codec::{self, Reply};
use crate::scram::{attribute, random_text};
use crate::user::Mechanism;

/// How long a single connect, read or write may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct BlockingClient {
    stream: Box<dyn Transport>,
    last_id: i32,
}

trait Transport: Read + Write + Send + std::fmt::Debug {}

impl<T: Read + Write + Send + std::fmt::Debug> Transport for T {}

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
    pub(crate) fn connect(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, STEP_LIMIT)?;
        stream.set_read_timeout(Some(STEP_LIMIT))?;
        stream.set_write_timeout(Some(STEP_LIMIT))?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Transport> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let connection = ClientConnection::new(config, address.ip().into());
                Box::new(StreamOwned::new(
                    connection.map_err(io::Error::other)?,
                    stream,
                ))
            }
        };
        Ok(Self { stream, last_id: 0 })
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
        let is_ok = reply.get_f64("ok").is_ok_and(|ok| ok == 1.0)
            || reply.get_i32("ok").is_ok_and(|ok| ok == 1);
        if is_ok {
            return Ok(reply);
        }
        let command = command.keys().next().cloned().unwrap_or_default();
        Err(ClientError::Command { command, reply })
    }

    /// SCRAM-SHA-256 against `admin`.
    pub(crate) fn authenticate(&mut self, user: &str, password: &str) -> Result<()> {
        let mechanism = Mechanism::ScramSha256;
        let nonce = random_text();
        let first_bare = format!("n={user},r={nonce}");
        let reply = self.run(
            "admin",
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
        let prepared = mechanism.prepared(user, password);
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
            "admin",
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
