use std::fmt;

/// Why the TLS handshake with a server failed. Nothing but TLS itself was sent to the server.
///
/// A failed socket is [`ErrorKind::Network`](super::ErrorKind::Network) instead, and a time-out is
/// [`Wait::Tls`](super::Wait::Tls).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server's certificate is not accepted.
    #[error("the server's certificate {0}")]
    Certificate(CertificateProblem),
    /// The server's host name is not a valid name for a certificate.
    #[error("the host name is not a valid name for a certificate")]
    HostName,
    /// The server refused with a TLS alert, for instance because it requires a client certificate
    /// (`tlsCertificateKeyFile`) or another one.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The server does not speak TLS, violated the protocol, or has no version or cipher suite in
    /// common with the client.
    #[error("{0}")]
    Protocol(String),
}

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// It is no longer valid.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It is for another host.
    WrongHost,
    /// No trusted authority has issued it; also a self-signed certificate.
    UnknownIssuer,
    /// It is not for servers.
    WrongPurpose,
    /// It was revoked.
    Revoked,
    /// Its signature, or that of an issuer in its chain, is invalid.
    BadSignature,
    /// It can't be read.
    Malformed,
    /// It is a CA certificate, and is not itself in `tlsCAFile`.
    OfAuthority,
    /// Its X.509 version is below 3.
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
            Self::UnknownIssuer => "was not issued by a trusted authority",
            Self::WrongPurpose => "is not for servers",
            Self::Revoked => "was revoked",
            Self::BadSignature => "has an invalid signature",
            Self::Malformed => "can't be read",
            Self::OfAuthority => {
                "is a CA certificate, which a server may present only if `tlsCAFile` contains it"
            }
            Self::OldVersion => "has an X.509 version below 3, which is not supported",
            Self::Other(text) => return write!(f, "is not accepted: {text}"),
        })
    }
}
