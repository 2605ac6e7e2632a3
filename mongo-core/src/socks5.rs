//! The client's side of SOCKS5: the handshake with a proxy that connects to a server.
//!
//! Everything here is pure. [`Negotiation`] returns the bytes to write and the number of bytes to
//! read next: at most 257, and never past the end of the proxy's replies.
//!
//! Specifications: SOCKS5 support, RFC 1928, RFC 1929.

use std::mem::discriminant;
use std::net::IpAddr;
use std::sync::Arc;
use std::{fmt, io};

use zeroize::Zeroizing;

use crate::auth::Secret;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xFF;
/// The version of the subnegotiation for user name and password.
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The failure of a proxy to connect to a server.
///
/// It names the proxy; the [`Error`](crate::Error) that contains it names the server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProxyError {
    /// The proxy's host and port.
    pub proxy: Arc<str>,
    /// The problem.
    pub problem: ProxyProblem,
}

/// A problem with a proxy.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyProblem {
    /// The proxy could not be reached.
    #[error("could not connect: {0}")]
    Connect(Arc<io::Error>),
    /// The connection to the proxy failed, or the proxy closed it, before it connected to the
    /// server.
    #[error("network: {0}")]
    Network(Arc<io::Error>),
    /// It speaks another protocol: its reply begins with this byte.
    #[error("its reply begins with {0}: it is no SOCKS5 proxy")]
    Version(u8),
    /// It accepts none of the offered authentication methods: it requires a user name and password
    /// (`proxyUsername`, `proxyPassword`), or another method.
    #[error("it accepts none of the offered authentication methods")]
    NoMethod,
    /// It chose an authentication method that was not offered.
    #[error("it chose authentication method {0}, which was not offered")]
    Method(u8),
    /// It refused the user name and password.
    #[error("it refused the user name and password")]
    Password,
    /// It did not connect to the server; with its reply code.
    #[error("{}", refusal(*.0))]
    Refused(u8),
    /// Its reply has an address of an unknown type.
    #[error("its reply has an address of unknown type {0}")]
    AddressType(u8),
    /// The server's host name is too long for SOCKS5.
    #[error("the host name has {0} bytes, more than 255")]
    HostName(usize),
    /// The user name or the password has no valid length for SOCKS5.
    #[error("the user name and the password must have 1 to 255 bytes each")]
    Credential,
}

fn refusal(code: u8) -> String {
    let text = match code {
        1 => "it failed",
        2 => "its rules do not allow the connection",
        3 => "it can't reach the server's network",
        4 => "it can't reach the server's host",
        5 => "the server refused its connection",
        6 => "the time to live of its connection attempt expired",
        7 => "it does not support the CONNECT command",
        8 => "it does not support this type of address",
        _ => "it refused",
    };
    format!("{text} (code {code})")
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.proxy, self.problem)
    }
}

impl std::error::Error for ProxyError {}

impl ProxyProblem {
    /// Allocates and formats nothing.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Connect(one), Self::Connect(other))
            | (Self::Network(one), Self::Network(other)) => same_system_error(one, other),
            (Self::Version(one), Self::Version(other))
            | (Self::Method(one), Self::Method(other))
            | (Self::Refused(one), Self::Refused(other))
            | (Self::AddressType(one), Self::AddressType(other)) => one == other,
            (Self::HostName(one), Self::HostName(other)) => one == other,
            _ => discriminant(self) == discriminant(other),
        }
    }
}

/// The part that is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The authentication method that the proxy chose.
    Method,
    /// Whether it accepts the password.
    Password,
    /// Whether it has connected, and the type of the address that follows.
    Reply,
    /// The length of a name.
    NameLength,
    /// An address of this many bytes, and a port. Read and ignored.
    Address(usize),
}

/// One negotiation with a proxy.
pub struct Negotiation {
    state: State,
    output: Zeroizing<Vec<u8>>,
    /// The message with the user name and the password, if there is a credential.
    password: Option<Zeroizing<Vec<u8>>>,
    request: Vec<u8>,
}

impl Negotiation {
    /// The most bytes of one read.
    pub const MAX_WANTED: usize = u8::MAX as usize + 2;

    /// Begins the negotiation of a connection to a host. The host name is sent as it is: only the
    /// proxy looks it up.
    ///
    /// # Errors
    /// [`ProxyProblem::HostName`], [`ProxyProblem::Credential`].
    pub fn new(
        host: &str,
        port: u16,
        credential: Option<&(String, Secret)>,
    ) -> Result<Self, ProxyProblem> {
        let password = credential
            .map(|(name, password)| password_message(name, password))
            .transpose()?;
        let greeting = match &password {
            Some(_) => vec![VERSION, 2, NO_AUTHENTICATION, PASSWORD],
            None => vec![VERSION, 1, NO_AUTHENTICATION],
        };
        Ok(Self {
            state: State::Method,
            output: greeting.into(),
            password,
            request: request(host, port)?,
        })
    }

    /// The bytes to write before the next read; may be empty.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The exact number of bytes to read for [`handle`](Self::handle).
    pub fn wanted(&self) -> usize {
        match self.state {
            State::Method | State::Password => 2,
            State::Reply => 4,
            State::NameLength => 1,
            State::Address(length) => length + 2,
        }
    }

    /// Handles the [`wanted`](Self::wanted) bytes. Returns `true` at the end of the negotiation:
    /// the next byte is the server's.
    ///
    /// # Errors
    /// The proxy refused, or speaks another protocol. The connection must be closed.
    pub fn handle(&mut self, bytes: &[u8]) -> Result<bool, ProxyProblem> {
        self.output = Zeroizing::default();
        match (self.state, bytes) {
            (State::Method, [VERSION, NO_AUTHENTICATION]) => self.ask(),
            (State::Method, [VERSION, PASSWORD]) => {
                self.output = self.password.take().ok_or(ProxyProblem::Method(PASSWORD))?;
                self.state = State::Password;
            }
            (State::Method, [VERSION, NO_METHOD]) => return Err(ProxyProblem::NoMethod),
            (State::Method, [VERSION, other]) => return Err(ProxyProblem::Method(*other)),
            (State::Password, [PASSWORD_VERSION, 0]) => self.ask(),
            (State::Password, [PASSWORD_VERSION, _]) => return Err(ProxyProblem::Password),
            (State::Reply, [VERSION, 0, _, kind]) => {
                self.state = match *kind {
                    IPV4 => State::Address(4),
                    IPV6 => State::Address(16),
                    NAME => State::NameLength,
                    other => return Err(ProxyProblem::AddressType(other)),
                };
            }
            (State::Reply, [VERSION, code, ..]) => return Err(ProxyProblem::Refused(*code)),
            (State::NameLength, [length]) => self.state = State::Address(usize::from(*length)),
            (State::Address(_), _) => return Ok(true),
            (State::Method | State::Password | State::Reply | State::NameLength, other) => {
                let first = other.first().copied().unwrap_or_default();
                return Err(ProxyProblem::Version(first));
            }
        }
        Ok(false)
    }

    fn ask(&mut self) {
        self.output = std::mem::take(&mut self.request).into();
        self.state = State::Reply;
    }
}

/// Omits the password.
impl fmt::Debug for Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Negotiation")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

fn password_message(name: &str, password: &Secret) -> Result<Zeroizing<Vec<u8>>, ProxyProblem> {
    let length = |text: &str| match u8::try_from(text.len()) {
        Ok(0) | Err(_) => Err(ProxyProblem::Credential),
        Ok(length) => Ok(length),
    };
    let password = password.expose();
    // With the final capacity, so that reallocation leaves no copy behind.
    let mut message = Zeroizing::new(Vec::with_capacity(3 + name.len() + password.len()));
    message.extend_from_slice(&[PASSWORD_VERSION, length(name)?]);
    message.extend_from_slice(name.as_bytes());
    message.push(length(password)?);
    message.extend_from_slice(password.as_bytes());
    Ok(message)
}

fn request(host: &str, port: u16) -> Result<Vec<u8>, ProxyProblem> {
    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend_from_slice(&address.octets());
        }
        Err(_) => {
            let length = u8::try_from(host.len());
            let length = length.map_err(|_| ProxyProblem::HostName(host.len()))?;
            request.extend_from_slice(&[NAME, length]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    Ok(request)
}

pub(crate) fn same_system_error(one: &io::Error, other: &io::Error) -> bool {
    one.kind() == other.kind() && one.raw_os_error() == other.raw_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiation(credential: Option<(&str, &str)>) -> Negotiation {
        let credential = credential.map(|(name, text)| (name.to_owned(), Secret::new(text)));
        Negotiation::new("db.example", 27018, credential.as_ref()).expect("short")
    }

    /// Plays the proxy; returns the written bytes and the number of unread bytes.
    fn play(mut own: Negotiation, mut proxy: &[u8]) -> Result<(Vec<Vec<u8>>, usize), ProxyProblem> {
        let mut written = Vec::new();
        loop {
            if !own.output().is_empty() {
                written.push(own.output().to_vec());
            }
            assert!((1..=Negotiation::MAX_WANTED).contains(&own.wanted()));
            let (bytes, rest) = proxy.split_at(own.wanted());
            proxy = rest;
            if own.handle(bytes)? {
                return Ok((written, proxy.len()));
            }
        }
    }

    const GRANTED: [u8; 10] = [5, 0, 0, 1, 127, 0, 0, 1, 0, 80];
    const REQUEST: &[u8] = b"\x05\x01\x00\x03\x0adb.example\x69\x8a";

    #[test]
    fn without_a_password_the_name_is_asked_for_at_once() {
        let proxy = [&[5, 0][..], &GRANTED, b"server"].concat();
        let (written, left) = play(negotiation(None), &proxy).expect("granted");
        assert_eq!(written, [&[5, 1, 0][..], REQUEST]);
        assert_eq!(left, 6, "the server's part is not touched");
    }

    #[test]
    fn a_password_is_offered_and_given_only_if_it_is_asked_for() {
        let own = || negotiation(Some(("user", "p4ss")));
        let proxy = [&[5, 2, 1, 0][..], &GRANTED].concat();
        let (written, _) = play(own(), &proxy).expect("granted");
        assert_eq!(
            written,
            [&[5, 2, 0, 2][..], b"\x01\x04user\x04p4ss", REQUEST]
        );
        let proxy = [&[5, 0][..], &GRANTED].concat();
        let (written, _) = play(own(), &proxy).expect("granted");
        assert_eq!(written, [&[5, 2, 0, 2][..], REQUEST]);
        assert!(!format!("{:?}", own()).contains("112"), "no bytes");
    }

    #[test]
    fn addresses_of_any_type_are_read_away() {
        let name = [&[5, 0, 0, 3, 255][..], &[b'x'; 255], &[0, 80]].concat();
        let v6 = [&[5, 0, 0, 4][..], &[0; 18]].concat();
        for reply in [name, v6, vec![5, 0, 0, 3, 0, 0, 80], GRANTED.to_vec()] {
            let proxy = [&[5, 0][..], &reply, b"!"].concat();
            assert_eq!(play(negotiation(None), &proxy).expect("granted").1, 1);
        }
    }

    #[test]
    fn literals_are_asked_for_as_addresses() {
        let first = |host| request(host, 1).expect("short");
        assert_eq!(first("10.0.0.1"), [5, 1, 0, 1, 10, 0, 0, 1, 0, 1]);
        assert_eq!(first("::1")[..4], [5, 1, 0, 4]);
        let long = "x".repeat(256);
        assert!(matches!(
            request(&long, 1),
            Err(ProxyProblem::HostName(256))
        ));
        for (name, password) in [("", "x"), ("x", ""), (&*long, "x"), ("x", &*long)] {
            let credential = (name.to_owned(), Secret::new(password));
            let refused = Negotiation::new("h", 1, Some(&credential));
            assert!(matches!(refused, Err(ProxyProblem::Credential)));
        }
    }

    #[test]
    fn each_refusal_has_its_error() {
        let with = |proxy: &[u8]| {
            let own = negotiation(Some(("user", "p4ss")));
            play(own, proxy).expect_err("refused").to_string()
        };
        assert!(with(&[5, 0xFF]).contains("none of the offered"));
        assert!(with(&[5, 1]).contains("method 1,"));
        assert!(with(&[4, 0]).contains("begins with 4"));
        assert!(with(b"HT").contains("no SOCKS5"));
        assert!(with(&[5, 2, 1, 9]).contains("refused the user name"));
        assert!(with(&[5, 2, 5, 0]).contains("begins with 5"));
        assert!(with(&[5, 0, 5, 4, 0, 1]).contains("host (code 4)"));
        assert!(with(&[5, 0, 5, 99, 0, 1]).contains("code 99"));
        assert!(with(&[5, 0, 5, 0, 0, 9]).contains("type 9"));
        // A proxy that chooses the password method, which was not offered.
        let refused = play(negotiation(None), &[5, 2]);
        assert!(matches!(refused, Err(ProxyProblem::Method(2))));
    }

    #[test]
    fn any_reply_of_a_proxy_ends_the_negotiation() {
        for first in 0..=255 {
            for second in 0..=255 {
                let filler = [second; 600];
                let proxy = [&[5, 2, 1, 0, 5, 0, 0, first][..], &filler].concat();
                let _ = play(negotiation(Some(("u", "p"))), &proxy);
                let proxy = [&[first, second][..], &filler].concat();
                let _ = play(negotiation(None), &proxy);
            }
        }
    }
}
