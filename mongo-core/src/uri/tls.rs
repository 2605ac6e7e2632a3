//! The TLS options.

use std::path::PathBuf;

use super::UriError;
use crate::auth::Secret;

/// The TLS options. An option that is `None` was not given.
///
/// TLS is used where `enabled` says so; where it says nothing, for a `mongodb+srv` connection
/// string, or if any other option here is set to anything but `false`; in a connection string also to
/// what can't be read.
///
/// Specification: URI options, OCSP support.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TlsOptions {
    /// Whether TLS is used (`tls`, `ssl`).
    pub enabled: Option<bool>,
    /// Relaxes all that can be relaxed (`tlsInsecure`): the same as allowing invalid certificates
    /// and invalid host names. Default false.
    pub insecure: Option<bool>,
    /// Takes any certificate of a server (`tlsAllowInvalidCertificates`), whomever it is for.
    /// Default false.
    pub allow_invalid_certificates: Option<bool>,
    /// Takes a certificate of another host (`tlsAllowInvalidHostnames`). Default false.
    pub allow_invalid_hostnames: Option<bool>,
    /// A PEM file of trusted certificate authorities (`tlsCAFile`), of at most 1 MiB. Default: the
    /// system's, see `net::Tls`.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the client's certificate and private key (`tlsCertificateKeyFile`), of at
    /// most 1 MiB. The key may be in the format of PKCS#8, PKCS#1 or SEC 1.
    pub certificate_key_file: Option<PathBuf>,
    /// The pass phrase of the private key (`tlsCertificateKeyFilePassword`), if it is an encrypted
    /// one of PKCS#8. For that feature `tls-encrypted-keys` is needed.
    pub certificate_key_file_password: Option<Secret>,
    /// Doesn't check whether a certificate was revoked (`tlsDisableCertificateRevocationCheck`).
    /// That is never checked; `false` gets a warning.
    pub disable_certificate_revocation_check: Option<bool>,
    /// Doesn't ask OCSP responders (`tlsDisableOCSPEndpointCheck`). None is ever asked; `false` gets
    /// a warning.
    pub disable_ocsp_endpoint_check: Option<bool>,
}

impl TlsOptions {
    /// Whether any option but `tls` asks for TLS.
    pub(crate) fn implied(&self) -> bool {
        self.ca_file.is_some()
            || self.certificate_key_file.is_some()
            || self.certificate_key_file_password.is_some()
            || self.flags().iter().any(|(_, flag)| *flag == Some(true))
    }

    /// The options that weaken what TLS checks, with their names.
    fn flags(&self) -> [(&'static str, Option<bool>); 5] {
        [
            ("tlsInsecure", self.insecure),
            (
                "tlsAllowInvalidCertificates",
                self.allow_invalid_certificates,
            ),
            ("tlsAllowInvalidHostnames", self.allow_invalid_hostnames),
            (
                "tlsDisableOCSPEndpointCheck",
                self.disable_ocsp_endpoint_check,
            ),
            (
                "tlsDisableCertificateRevocationCheck",
                self.disable_certificate_revocation_check,
            ),
        ]
    }

    /// The specification's conflicts: both options of a pair present, whatever their values. The
    /// eighth, `tls` against `ssl`, can only be seen while options are read.
    pub(crate) fn validate(&self) -> Result<(), UriError> {
        let flags = self.flags();
        // Indices into `flags`.
        const CONFLICTS: [(usize, usize); 7] =
            [(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (3, 4)];
        for (one, other) in CONFLICTS {
            if let ((first, Some(_)), (second, Some(_))) = (flags[one], flags[other]) {
                return Err(UriError::Conflict { first, second });
            }
        }
        Ok(())
    }
}
