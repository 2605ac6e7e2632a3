//! Errors of connection strings, and warnings of ignored options.
//!
//! No message shows a password, a token, an option's value or the whole string. Where a piece of
//! text might be part of a password that was not percent-encoded, the message shows only its
//! position.

use std::fmt;

use crate::auth::CredentialError;
use crate::concern::WriteConcernError;
use crate::read_preference::ReadPreferenceError;

/// Why a connection string, or options from another source, can't be used.
///
/// Messages name the offending part (which option, which host, at which byte) and never show a
/// secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// The string is longer than [`MAX_LENGTH`](super::MAX_LENGTH).
    #[error("the connection string has {length} bytes, more than {max}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The allowed length in bytes.
        max: usize,
    },
    /// It begins with neither `mongodb://` nor `mongodb+srv://`.
    #[error("the connection string begins with neither mongodb:// nor mongodb+srv://")]
    Scheme,
    /// There is no host.
    #[error("there is no host")]
    NoHost,
    /// A host can't be used.
    #[error("{}: {problem}", HostName(.number, .at, .host))]
    Host {
        /// The number of the host, counted from 1.
        number: usize,
        /// Where it begins, in bytes from the start of the string.
        at: usize,
        /// The host without its port, if it can't be part of a password.
        host: Option<String>,
        /// The problem.
        problem: HostProblem,
    },
    /// The user name or the password is not properly percent-encoded.
    #[error("the {part} {problem}; user name and password must be percent-encoded")]
    UserInfo {
        /// `"user name"`, `"password"`, or both.
        part: &'static str,
        /// The problem.
        problem: EncodingProblem,
    },
    /// The database's name can't be used.
    #[error("the database name {0}")]
    Database(EncodingProblem),
    /// An option has no `=`, or no name before it.
    #[error("option {number} (at byte {at}) is not of the form name=value")]
    OptionSyntax {
        /// The number of the option, counted from 1.
        number: usize,
        /// Where it begins, in bytes from the start of the string.
        at: usize,
    },
    /// An option has an invalid value. In a connection string this is an error for `tls` and `ssl`,
    /// the files and the pass phrase of TLS, `replicaSet` and the proxy, because without them a
    /// secret or a write could go to the wrong server. For other options it is a
    /// [`UriWarning::BadValue`].
    #[error("the option {option} is not {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// The expected value.
        expected: &'static str,
    },
    /// An option is repeated, or repeated with different values, which it must not be.
    #[error("the option {0} is given more than once")]
    Repeated(&'static str),
    /// Two options, or an option and the form of the hosts, that exclude each other.
    #[error("{first} and {second} exclude each other")]
    Conflict {
        /// The first one.
        first: &'static str,
        /// The second one.
        second: &'static str,
    },
    /// An option requires another part that is missing.
    #[error("the option {option} needs {needs}")]
    Requires {
        /// The option.
        option: &'static str,
        /// The missing part.
        needs: &'static str,
    },
    /// The credential can't be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The write concern can't be used.
    #[error(transparent)]
    WriteConcern(#[from] WriteConcernError),
    /// The read preference can't be used.
    #[error(transparent)]
    ReadPreference(#[from] ReadPreferenceError),
}

/// A problem with a host of a connection string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostProblem {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// Its port is no number from 1 to 65535, or there are two colons.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// It begins with a bracket, but is not an IPv6 address in brackets.
    #[error("it is not an IPv6 address in brackets")]
    Ipv6,
    /// It contains an invalid character.
    #[error(
        "it contains an invalid character; the path of a Unix socket must be percent-encoded and end in .sock"
    )]
    Character,
    /// Its percent-encoding is invalid.
    #[error("it {0}")]
    Encoding(EncodingProblem),
    /// A `mongodb+srv` string must have exactly one host.
    #[error("a mongodb+srv connection string has one host only")]
    SeveralForSrv,
    /// A `mongodb+srv` string must have no port: the ports come from DNS.
    #[error("a mongodb+srv connection string has no port")]
    PortForSrv,
    /// A `mongodb+srv` string must have a host name, not an address or a socket.
    #[error("a mongodb+srv connection string needs a host name")]
    AddressForSrv,
}

/// A problem with a piece of text of a connection string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodingProblem {
    /// A `%` without two hexadecimal digits after it.
    #[error("holds a percent sign without two hexadecimal digits")]
    Percent,
    /// The decoded text is not UTF-8.
    #[error("is not UTF-8 when decoded")]
    Utf8,
    /// A character that must be percent-encoded is not.
    #[error("holds an unescaped {0:?}")]
    Unescaped(char),
    /// A character that is not allowed.
    #[error("holds the character {0:?}, which is not allowed")]
    Forbidden(char),
}

/// A part of a connection string that is ignored or has a deprecated form.
///
/// All warnings are in [`ClientOptions::warnings`](super::ClientOptions::warnings) and are emitted
/// as `tracing` events of level WARN.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriWarning {
    /// The option is unknown and is ignored.
    UnknownOption {
        /// The number of the option, counted from 1.
        number: usize,
        /// Its name, if it has the form of a name and can't be part of a password.
        name: Option<String>,
    },
    /// The option's value, or a part of it, can't be used and is ignored.
    BadValue {
        /// The option.
        option: &'static str,
        /// The expected value.
        expected: &'static str,
    },
    /// The option is given more than once; the last valid value is used.
    Repeated(&'static str),
    /// The option is deprecated.
    Deprecated {
        /// The deprecated name.
        option: &'static str,
        /// The name to use.
        instead: &'static str,
        /// Whether it was ignored because the other one is given too.
        ignored: bool,
    },
    /// An option's name is preceded by `&amp;`, the ampersand of HTML and XML. It was read as `&`.
    Entity {
        /// The number of the option, counted from 1.
        number: usize,
    },
    /// A boolean is written in a deprecated form.
    LegacyBoolean {
        /// The option.
        option: &'static str,
        /// The value that was read.
        value: bool,
    },
    /// The option has no effect without another one.
    NoEffect {
        /// The option.
        option: &'static str,
        /// The missing option.
        without: &'static str,
    },
}

impl fmt::Display for UriWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOption {
                number,
                name: Some(name),
            } => write!(f, "option {number}, {name:?}, is unknown and ignored"),
            Self::UnknownOption { number, name: None } => {
                write!(f, "option {number} is unknown and ignored")
            }
            Self::BadValue { option, expected } => {
                write!(f, "{option} is ignored: it is not {expected}")
            }
            Self::Repeated(option) => {
                write!(
                    f,
                    "{option} is given more than once; the last valid one is used"
                )
            }
            Self::Deprecated {
                option,
                instead,
                ignored: false,
            } => write!(f, "{option} is deprecated; use {instead}"),
            Self::Deprecated {
                option,
                instead,
                ignored: true,
            } => write!(
                f,
                "{option} is deprecated and ignored because {instead} is given"
            ),
            Self::Entity { number } => {
                write!(f, "option {number} has &amp; before it; write & alone")
            }
            Self::LegacyBoolean { option, value } => {
                write!(f, "{option} has a deprecated form; write {option}={value}")
            }
            Self::NoEffect { option, without } => {
                write!(f, "{option} has no effect without {without}")
            }
        }
    }
}

/// Names a host: its number, its position and, if that is safe, its name.
struct HostName<'a>(&'a usize, &'a usize, &'a Option<String>);

impl fmt::Display for HostName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, at, name) = self;
        match name {
            Some(name) => write!(f, "host {number}, {name:?} (at byte {at})"),
            None => write!(f, "host {number} (at byte {at})"),
        }
    }
}
