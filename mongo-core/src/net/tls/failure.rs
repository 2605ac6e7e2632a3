//! What rustls' errors mean.

use rustls::{CertificateError, Error as RustlsError};

use crate::error::{CertificateProblem, Error, ErrorKind, TlsError};

/// Tells a failure of TLS from one of the network: both come as I/O errors. For errors of the
/// establishment; later a stream that breaks is a network that does, whatever breaks it.
pub(in crate::net) fn explain(error: Error) -> Error {
    let ErrorKind::Network(io) = error.kind() else {
        return error;
    };
    match io
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<RustlsError>())
    {
        Some(inner) => TlsError::from(inner).into(),
        None => error,
    }
}

impl From<&RustlsError> for TlsError {
    fn from(error: &RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(error) => Self::Certificate(error.into()),
            RustlsError::NoCertificatesPresented => {
                Self::Certificate(CertificateProblem::Malformed)
            }
            RustlsError::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            // Their texts are rustls' own: nothing in them comes from the server.
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// Without the names and times in rustls' own texts, which are the server's to choose.
impl From<&CertificateError> for CertificateProblem {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongHost
            }
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongPurpose
            }
            CertificateError::Revoked => Self::Revoked,
            CertificateError::BadSignature => Self::BadSignature,
            CertificateError::BadEncoding => Self::Malformed,
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                Self::Other("its signature algorithm is not supported".to_owned())
            }
            other => Self::Other(other.to_string()),
        }
    }
}
