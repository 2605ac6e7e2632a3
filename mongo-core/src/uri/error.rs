//! What can be wrong with a connection string: errors, and warnings that leave an option out.
//!
//! Nothing here shows a password, a token, an option's value or the whole string. Where a piece of
//! text might be part of a password that was not percent-encoded, only its place is told.

use std::fmt;

use crate::auth::CredentialError;
use crate::concern::WriteConcernError;
use crate::select::ReadPreferenceError;

/// Why a connection string, or options set otherwise, can't be used.
///
/// Messages name the offending part (which option, which host, at which byte) and never show a
/// secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// The string is longer than [`MAX_LENGTH`](super::MAX_LENGTH).
    #[error("the connection string has {length} bytes, of which {max} are allowed")]
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
        /// Which host, counted from 1.
        number: usize,
        /// Where it begins, in bytes from the start of the string.
        at: usize,
        /// The host without its port, where it can't be part of a password.
        host: Option<String>,
        /// What is wrong with it.
        problem: HostProblem,
    },
    /// The user name or the password is not percent-encoded as it must be.
    #[error("the {part} {problem}; user name and password must be percent-encoded")]
    UserInfo {
        /// `"user name"`, `"password"`, or both.
        part: &'static str,
        /// What is wrong with it.
        problem: EncodingProblem,
    },
    /// The database's name can't be used.
    #[error("the database name {0}")]
    Database(EncodingProblem),
    /// An option has no `=`, or no name before it.
    #[error("option {number} (at byte {at}) is not of the form name=value")]
    OptionSyntax {
        /// Which option, counted from 1.
        number: usize,
        /// Where it begins, in bytes from the start of the string.
        at: usize,
    },
    /// An option has a value that it can't have. In a connection string most of these are
    /// [`UriWarning::BadValue`], but for `tls` and `ssl`, the files and the pass phrase of TLS,
    /// `replicaSet` and the proxy: without them a secret or a write could go where it must not.
    #[error("the option {option} is not {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An option is given twice, or twice with different values, and must not be.
    #[error("the option {0} is given more than once")]
    Repeated(&'static str),
    /// Two options, or an option and the form of the hosts, that exclude each other.
    #[error("{first} and {second} exclude each other")]
    Conflict {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// An option works only together with something that is missing.
    #[error("the option {option} needs {needs}")]
    Requires {
        /// The option.
        option: &'static str,
        /// What is missing.
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

/// What is wrong with a host of a connection string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostProblem {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// Its port is no number from 1 to 65535, or there are two colons.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// It begins with a bracket and is no IPv6 address in brackets.
    #[error("it is not an IPv6 address in brackets")]
    Ipv6,
    /// It holds a character that no host can hold.
    #[error(
        "it holds a character that a host can't have; the path of a Unix socket must be percent-encoded and end in .sock"
    )]
    Character,
    /// Its percent-encoding is broken.
    #[error("it {0}")]
    Encoding(EncodingProblem),
    /// A `mongodb+srv` string names one host, no more.
    #[error("a mongodb+srv connection string has one host only")]
    SeveralForSrv,
    /// A `mongodb+srv` string has no port: it comes from DNS.
    #[error("a mongodb+srv connection string has no port")]
    PortForSrv,
    /// A `mongodb+srv` string names a host in DNS, no address and no socket.
    #[error("a mongodb+srv connection string needs a host name")]
    AddressForSrv,
}

/// What is wrong with a piece of text of a connection string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodingProblem {
    /// A `%` without two hexadecimal digits after it.
    #[error("holds a percent sign without two hexadecimal digits")]
    Percent,
    /// What is decoded is not UTF-8.
    #[error("is not UTF-8 when decoded")]
    Utf8,
    /// A character that must be percent-encoded stands there as it is.
    #[error("holds an unescaped {0:?}")]
    Unescaped(char),
    /// A character that may not be there at all.
    #[error("holds the character {0:?}, which is not allowed")]
    Forbidden(char),
}

/// Something in a connection string that was left out, or that should be written otherwise.
///
/// All are readable from [`ClientOptions::warnings`](super::ClientOptions::warnings) and emitted
/// as `tracing` events of level WARN.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriWarning {
    /// The option is not known and is ignored.
    UnknownOption {
        /// Which option, counted from 1.
        number: usize,
        /// Its name, where it looks like one and can't be part of a password.
        name: Option<String>,
    },
    /// The option's value, or a part of it, can't be used and is ignored.
    BadValue {
        /// The option.
        option: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The option is given more than once; the last usable value counts.
    Repeated(&'static str),
    /// The option is deprecated.
    Deprecated {
        /// The deprecated name.
        option: &'static str,
        /// The name to use.
        instead: &'static str,
        /// Whether it was ignored because the other is given too.
        ignored: bool,
    },
    /// `&amp;`, as HTML and XML write an ampersand, stands before an option's name. It was read as
    /// `&`.
    Entity {
        /// Which option, counted from 1.
        number: usize,
    },
    /// A truth value is written in a deprecated form.
    LegacyBoolean {
        /// The option.
        option: &'static str,
        /// How it was understood.
        value: bool,
    },
    /// The option does nothing without another one.
    NoEffect {
        /// The option.
        option: &'static str,
        /// What is missing.
        without: &'static str,
    },
}

impl fmt::Display for UriWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOption {
                number,
                name: Some(name),
            } => write!(f, "option {number}, {name:?}, is not known and is ignored"),
            Self::UnknownOption { number, name: None } => {
                write!(f, "option {number} is not known and is ignored")
            }
            Self::BadValue { option, expected } => {
                write!(f, "{option} is ignored: it is not {expected}")
            }
            Self::Repeated(option) => {
                write!(
                    f,
                    "{option} is given more than once; the last usable one counts"
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
                "{option} is deprecated and ignored, as {instead} is given"
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

/// Which host: its number, its place and, where that is safe, its name.
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
