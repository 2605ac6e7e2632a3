use std::fmt;

/// Why TLS could not be agreed on with a server. Nothing but TLS itself was sent to it.
///
/// That the socket failed meanwhile, or the time was over, is not among it: those are
/// [`ErrorKind::Network`](super::ErrorKind::Network) and [`Wait::Tls`](super::Wait::Tls).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server's certificate is not accepted.
    #[error("the server's certificate {0}")]
    Certificate(CertificateProblem),
    /// The server's host name is none that a certificate can be for.
    #[error("the host name is none that a certificate can be for")]
    HostName,
    /// The server refused, and said why by a TLS alert: that it wants a client's certificate
    /// (`tlsCertificateKeyFile`), for one, or another.
    #[error("the server refused: {0}")]
    Refused(String),
    /// What the server sent is no TLS, or is TLS as it must not be: also where it has no version or
    /// cipher suite in common.
    #[error("{0}")]
    Protocol(String),
}

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// It is not valid any more.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It is for another host.
    WrongHost,
    /// Nobody who is trusted has issued it; self-signed ones are among it.
    UnknownIssuer,
    /// It is not for servers.
    WrongPurpose,
    /// It was revoked.
    Revoked,
    /// Its signature, or that of one above it, is wrong.
    BadSignature,
    /// It can't be read.
    Malformed,
    /// It is one of a certificate authority, and does not itself stand in `tlsCAFile`.
    OfAuthority,
    /// It has a version of X.509 before 3.
    OldVersion,
    /// Anything else.
    Other(String),
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "has expired",
            Self::NotYetValid => "is not valid yet",
            Self::WrongHost => "is for another host",
            Self::UnknownIssuer => "was issued by nobody who is trusted",
            Self::WrongPurpose => "is not for servers",
            Self::Revoked => "was revoked",
            Self::BadSignature => "has a wrong signature",
            Self::Malformed => "can't be read",
            Self::OfAuthority => {
                "is one of a certificate authority, which a server's must not be unless it stands in \
                 `tlsCAFile` itself"
            }
            Self::OldVersion => {
                "has a version of X.509 before 3, which is not supported"
            }
            Self::Other(text) => return write!(f, "is not accepted: {text}"),
        })
    }
}
