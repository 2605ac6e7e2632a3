//! The syntax of a connection string: pure, in one pass. Options are not interpreted here.

use std::borrow::Cow;
use std::fmt;

use super::error::{EncodingProblem, HostProblem, UriError, UriWarning};
use crate::address::{AddressError, ServerAddress};
use crate::auth::Secret;
use crate::settings::shown_key;

/// The longest allowed connection string, in bytes: 64 KiB. A longer one is [`UriError::TooLong`].
pub const MAX_LENGTH: usize = 64 * 1024;

/// The decoded parts of a connection string, with uninterpreted options.
///
/// [`ClientOptions::parse`](super::ClientOptions::parse) interprets them. Specification:
/// connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionString {
    /// The hosts; empty for `mongodb+srv`.
    pub hosts: Vec<ServerAddress>,
    /// The host name of a `mongodb+srv` connection string.
    pub srv_host: Option<String>,
    /// The user name. Empty if there is nothing before the `@`.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The database after the hosts.
    pub default_database: Option<String>,
    /// The options in their order.
    pub options: Vec<RawOption>,
}

/// One `name=value` of a connection string. `Debug` never shows the value.
#[derive(Clone, PartialEq, Eq)]
pub struct RawOption {
    name: String,
    value: Result<Secret, EncodingProblem>,
    /// Whether the name can be shown because it can't be part of a password.
    showable: bool,
    /// Whether the name is preceded by `&amp;`, the ampersand of HTML and XML.
    after_entity: bool,
}

impl ConnectionString {
    /// Parses a connection string. White space and control characters at its end, such as the
    /// newline of a file, are ignored.
    ///
    /// # Errors
    /// Invalid syntax by the specification, and a string longer than [`MAX_LENGTH`].
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        let uri = uri.trim_end_matches(is_blank);
        if uri.len() > MAX_LENGTH {
            return Err(UriError::TooLong {
                length: uri.len(),
                max: MAX_LENGTH,
            });
        }
        let (rest, is_srv) = match (
            uri.strip_prefix("mongodb://"),
            uri.strip_prefix("mongodb+srv://"),
        ) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return Err(UriError::Scheme),
        };
        let (authority, tail) = split_before(rest, |byte| matches!(byte, b'/' | b'?'));
        let (path, query) = split_before(tail, |byte| byte == b'?');
        // An unescaped @ in the tail may mean that a password was split at its / or ?. Any piece of
        // text may then be part of it.
        let showable = !tail.contains('@');
        let (user_info, host_list) = match authority.rsplit_once('@') {
            Some((user_info, host_list)) => (Some(user_info), host_list),
            None => (None, authority),
        };
        let (username, password) = match user_info {
            Some(text) => parse_user_info(text)?,
            None => (None, None),
        };
        let hosts = HostList {
            text: host_list,
            at: uri.len() - rest.len() + (authority.len() - host_list.len()),
            // Without an @ before it, a password may be in place of the hosts.
            showable: match (showable, user_info) {
                (false, _) => Showable::None,
                (true, None) => Showable::First,
                (true, Some(_)) => Showable::All,
            },
        };
        let (hosts, srv_host) = match is_srv {
            false => (hosts.parse()?, None),
            true => (Vec::new(), Some(hosts.parse_srv()?)),
        };
        Ok(Self {
            hosts,
            srv_host,
            username,
            password,
            default_database: parse_database(path.strip_prefix('/').unwrap_or(path))?,
            options: parse_query(query, uri.len() - query.len(), showable)?,
        })
    }
}

impl RawOption {
    /// The name as it is written. Names are ASCII case-insensitive.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The decoded value.
    ///
    /// # Errors
    /// Invalid percent-encoding.
    pub fn value(&self) -> Result<&Secret, EncodingProblem> {
        self.value.as_ref().map_err(|problem| *problem)
    }

    /// Whether no part of the connection string can be part of the password by mistake.
    pub(super) fn is_showable(&self) -> bool {
        self.showable
    }

    /// Whether the name is preceded by `&amp;` instead of `&`.
    pub(super) fn is_after_entity(&self) -> bool {
        self.after_entity
    }

    /// The warning that this option, the `number`th, is unknown.
    pub(super) fn unknown(&self, number: usize) -> UriWarning {
        // The text after an unescaped `&` of a value may be a secret; `amp;` is not part of the
        // name.
        let bare = self.name.strip_prefix("amp;").unwrap_or(&self.name);
        let is_shown = self.showable && shown_key(bare).is_some();
        UriWarning::UnknownOption {
            number,
            name: is_shown.then(|| self.name.clone()),
        }
    }
}

impl fmt::Debug for RawOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.showable { &*self.name } else { ".." };
        f.debug_struct("RawOption")
            .field("name", &name)
            .field("value", &self.value)
            .finish()
    }
}

/// Characters that are ignored at the end of a connection string and not allowed in an option's
/// name: white space, control characters, the byte order mark.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || character.is_control() || character == '\u{feff}'
}

/// Splits before the first matching byte, which is the first byte of the second part.
fn split_before(text: &str, is_end: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(is_end).unwrap_or(text.len());
    text.split_at(end)
}

fn parse_user_info(text: &str) -> Result<(Option<String>, Option<Secret>), UriError> {
    let wrong = |part| move |problem| UriError::UserInfo { part, problem };
    let unescaped = |character| {
        let problem = EncodingProblem::Unescaped(character);
        Err(wrong("user name or password")(problem))
    };
    if text.contains('@') {
        return unescaped('@');
    }
    let (username, password) = match text.split_once(':') {
        Some((_, password)) if password.contains(':') => return unescaped(':'),
        Some((username, password)) => (username, Some(password)),
        None => (text, None),
    };
    let username = decode(username).map_err(wrong("user name"))?.into_owned();
    let password = password
        .map(|password| decode(password).map_err(wrong("password")))
        .transpose()?
        .map(|password| Secret::new(password.into_owned()));
    Ok((Some(username), password))
}

/// The comma-separated hosts of a connection string and where they begin.
struct HostList<'a> {
    text: &'a str,
    at: usize,
    showable: Showable,
}

/// The hosts whose names can't be part of a password.
#[derive(Clone, Copy)]
enum Showable {
    None,
    First,
    All,
}

/// Parses the host name of a `mongodb+srv` connection string on its own.
pub(super) fn srv_host(text: &str) -> Result<String, UriError> {
    let hosts = HostList {
        text,
        at: 0,
        // It may be a whole connection string with its password.
        showable: Showable::None,
    };
    hosts.parse_srv()
}

impl HostList<'_> {
    fn parse(&self) -> Result<Vec<ServerAddress>, UriError> {
        if self.text.is_empty() {
            return Err(UriError::NoHost);
        }
        let mut at = self.at;
        let mut hosts = Vec::new();
        for (index, raw) in self.text.split(',').enumerate() {
            hosts.push(parse_host(raw).map_err(|problem| self.wrong(index, at, raw, problem))?);
            at += raw.len() + 1;
        }
        Ok(hosts)
    }

    fn parse_srv(&self) -> Result<String, UriError> {
        let problem = match (self.parse()?.as_slice(), self.text) {
            ([_, _, ..], _) => HostProblem::SeveralForSrv,
            ([ServerAddress::Tcp { host, .. }], _) if is_ip_address(host) => {
                HostProblem::AddressForSrv
            }
            ([ServerAddress::Tcp { .. }], text) if text.contains(':') => HostProblem::PortForSrv,
            ([ServerAddress::Tcp { host, .. }], _) => return Ok(host.to_string()),
            ([ServerAddress::Unix { .. }] | [], _) => HostProblem::AddressForSrv,
        };
        Err(self.wrong(0, self.at, self.text, problem))
    }

    fn wrong(&self, index: usize, at: usize, raw: &str, problem: HostProblem) -> UriError {
        // Never the port: if the @ is missing, the password is in its place.
        let (name, _) = split_before(raw, |byte| matches!(byte, b':' | b','));
        let shown = match self.showable {
            Showable::None => false,
            Showable::First => index == 0,
            Showable::All => true,
        };
        UriError::Host {
            number: index + 1,
            at,
            host: (shown && !name.is_empty()).then(|| name.chars().take(64).collect()),
            problem,
        }
    }
}

fn is_ip_address(host: &str) -> bool {
    host.contains(':') || host.parse::<std::net::Ipv4Addr>().is_ok()
}

fn parse_host(raw: &str) -> Result<ServerAddress, HostProblem> {
    let host = decode(raw).map_err(HostProblem::Encoding)?;
    let colons = |text: &str| text.bytes().filter(|byte| *byte == b':').count();
    // A colon between host and port must not be percent-encoded.
    if host.contains(|character: char| character.is_control() || character == ',')
        || colons(raw) != colons(&host)
    {
        return Err(HostProblem::Character);
    }
    host.parse().map_err(|error| match error {
        AddressError::EmptyHost => HostProblem::Empty,
        AddressError::Port => HostProblem::Port,
        AddressError::Ipv6 => HostProblem::Ipv6,
        AddressError::Host => HostProblem::Character,
    })
}

fn parse_database(raw: &str) -> Result<Option<String>, UriError> {
    if raw.is_empty() {
        return Ok(None);
    }
    // If a password has an unescaped slash, its beginning is in place of a port, and the rest, with
    // the @, in place of the database.
    if raw.contains('@') {
        return Err(UriError::Database(EncodingProblem::Unescaped('@')));
    }
    let name = decode(raw).map_err(UriError::Database)?;
    match name
        .chars()
        .find(|character| matches!(character, '/' | '\\' | ' ' | '"' | '$' | '\0'))
    {
        Some(character) => Err(UriError::Database(EncodingProblem::Forbidden(character))),
        None => Ok(Some(name.into_owned())),
    }
}

/// Parses the options of a query that begins with its question mark, at byte `at`.
fn parse_query(query: &str, at: usize, showable: bool) -> Result<Vec<RawOption>, UriError> {
    parse_pairs(
        query.strip_prefix('?').unwrap_or_default(),
        at + 1,
        showable,
    )
}

/// Parses `name=value` pairs between ampersands, beginning at byte `at`.
pub(super) fn parse_pairs(
    pairs: &str,
    mut at: usize,
    showable: bool,
) -> Result<Vec<RawOption>, UriError> {
    let mut options = Vec::new();
    for pair in pairs.split('&') {
        let number = options.len() + 1;
        match pair.split_once('=') {
            None if pair.is_empty() => {}
            None | Some(("", _)) => return Err(UriError::OptionSyntax { number, at }),
            // Otherwise a name after a newline would be unknown, and its option ignored.
            Some((name, _)) if name.contains(is_blank) => {
                return Err(UriError::OptionSyntax { number, at });
            }
            Some((name, value)) => {
                let own = name.strip_prefix("amp;");
                options.push(RawOption {
                    name: own.unwrap_or(name).to_owned(),
                    value: decode(value).map(|value| Secret::new(value.into_owned())),
                    showable,
                    after_entity: own.is_some(),
                });
            }
        }
        at += pair.len() + 1;
    }
    Ok(options)
}

/// Percent-decodes. A `+` stays a plus.
fn decode(text: &str) -> Result<Cow<'_, str>, EncodingProblem> {
    let mut pieces = text.split('%');
    pieces.next();
    let is_escape = |piece: &str| {
        matches!(piece.as_bytes(), [one, two, ..]
            if one.is_ascii_hexdigit() && two.is_ascii_hexdigit())
    };
    if !pieces.all(is_escape) {
        return Err(EncodingProblem::Percent);
    }
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| EncodingProblem::Utf8)
}
