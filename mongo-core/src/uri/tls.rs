//! The TLS options.

use std::path::PathBuf;

use super::UriError;
use crate::auth::Secret;

/// The TLS options. An option that is `None` was not given.
///
/// `enabled` says whether TLS is used. Without it, TLS is used for a `mongodb+srv` connection
/// string, and if any other option here is set to anything but `false`; in a connection string even
/// if that value is invalid.
///
/// Specification: URI options, OCSP support.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TlsOptions {
    /// Whether TLS is used (`tls`, `ssl`).
    pub enabled: Option<bool>,
    /// Disables all checks that can be disabled (`tlsInsecure`): it allows invalid certificates
    /// and invalid host names. Default false.
    pub insecure: Option<bool>,
    /// Accepts any certificate of a server (`tlsAllowInvalidCertificates`), for any host.
    /// Default false.
    pub allow_invalid_certificates: Option<bool>,
    /// Accepts a certificate for another host (`tlsAllowInvalidHostnames`). Default false.
    pub allow_invalid_hostnames: Option<bool>,
    /// A PEM file of trusted certificate authorities (`tlsCAFile`), of at most 1 MiB. Default: the
    /// system's, see `net::Tls`.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the client's certificate and private key (`tlsCertificateKeyFile`), of at
    /// most 1 MiB. The key may be in PKCS#8, PKCS#1 or SEC 1 format.
    pub certificate_key_file: Option<PathBuf>,
    /// The pass phrase of an encrypted PKCS#8 private key (`tlsCertificateKeyFilePassword`). It
    /// requires the feature `tls-encrypted-keys`.
    pub certificate_key_file_password: Option<Secret>,
    /// Disables the check whether a certificate was revoked
    /// (`tlsDisableCertificateRevocationCheck`). This crate never checks it; `false` gives a
    /// warning.
    pub disable_certificate_revocation_check: Option<bool>,
    /// Disables requests to OCSP responders (`tlsDisableOCSPEndpointCheck`). This crate makes none;
    /// `false` gives a warning.
    pub disable_ocsp_endpoint_check: Option<bool>,
}

impl TlsOptions {
    /// Whether any option but `tls` implies TLS.
    pub(crate) fn implied(&self) -> bool {
        self.ca_file.is_some()
            || self.certificate_key_file.is_some()
            || self.certificate_key_file_password.is_some()
            || self.flags().iter().any(|(_, flag)| *flag == Some(true))
    }

    /// The options that weaken the checks of TLS, with their names.
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

    /// Checks the specification's conflicts: pairs of options that must not both be given, with any
    /// values. The eighth, `tls` and `ssl`, can be detected only while options are read.
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
