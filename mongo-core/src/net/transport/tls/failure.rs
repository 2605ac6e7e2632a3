//! The interpretation of rustls' errors.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error as RustlsError};

use crate::error::{CertificateProblem, Error, ErrorKind, TlsError};

/// Distinguishes a TLS failure from a network error, as both are I/O errors. Only for errors during
/// establishment: later, a broken stream is a network error, whatever the cause.
pub(crate) fn explain(error: Error) -> Error {
    let ErrorKind::Network(io) = error.kind() else {
        return error;
    };
    match io
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<RustlsError>())
    {
        Some(inner) => TlsError::from(inner).into(),
        None if io.kind() == io::ErrorKind::UnexpectedEof => Error::server_closed(),
        None => error,
    }
}

/// Whether a server's certificate was rejected because it is a CA certificate.
pub(crate) fn is_of_authority(error: &RustlsError) -> bool {
    let problem = match error {
        RustlsError::InvalidCertificate(error) => CertificateProblem::from(error),
        _ => return false,
    };
    problem == CertificateProblem::OfAuthority
}

/// The problem of a certificate or key in the client's own files. rustls' texts call it the peer's.
pub(crate) fn own_certificate(error: &RustlsError) -> impl fmt::Display {
    match error {
        RustlsError::InvalidCertificate(error) => {
            format!("a certificate {}", CertificateProblem::from(error))
        }
        RustlsError::InconsistentKeys(_) => {
            "the private key does not belong to the certificate".to_owned()
        }
        other => other.to_string(),
    }
}

/// Describes a server's alert; in plain words if it is about the client's certificate.
fn refusal(alert: AlertDescription) -> String {
    let problem = match alert {
        AlertDescription::CertificateRequired => {
            return format!(
                "{alert:?}: it requires a client certificate (`tlsCertificateKeyFile`)"
            );
        }
        AlertDescription::BadCertificate => "is not accepted",
        AlertDescription::UnsupportedCertificate => "is of a kind that it does not support",
        AlertDescription::CertificateRevoked => "was revoked",
        AlertDescription::CertificateExpired => "has expired, or is not valid yet",
        AlertDescription::CertificateUnknown => "is not accepted",
        AlertDescription::UnknownCA => "was issued by an authority that it does not trust",
        other => return format!("{other:?}"),
    };
    format!("{alert:?}: the client's certificate {problem}")
}

impl From<&RustlsError> for TlsError {
    fn from(error: &RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(error) => Self::Certificate(error.into()),
            RustlsError::NoCertificatesPresented => {
                Self::Certificate(CertificateProblem::Malformed)
            }
            RustlsError::AlertReceived(alert) => Self::Refused(refusal(*alert)),
            // Their texts are rustls' own and contain nothing from the server.
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// Leaves out the names and times in rustls' own texts, which the server can choose.
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
            CertificateError::UnhandledCriticalExtension => {
                Self::Other("it has a critical extension that is not supported".to_owned())
            }
            CertificateError::Other(other) => match webpki_name(other) {
                Some("CaUsedAsEndEntity") => Self::OfAuthority,
                Some("UnsupportedCertVersion") => Self::OldVersion,
                _ => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

/// The name of a webpki error that has no equivalent in rustls.
fn webpki_name(error: &rustls::OtherError) -> Option<&'static str> {
    let text = error.to_string();
    ["CaUsedAsEndEntity", "UnsupportedCertVersion"]
        .into_iter()
        .find(|name| text.contains(name))
}
