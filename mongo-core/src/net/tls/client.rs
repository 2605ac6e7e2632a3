use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::failure;
use super::pem::Identity;
use super::roots::roots;
use super::verify::{AnyCertificate, AnyHost};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, TlsError};
use crate::net::Stream;
use crate::uri::TlsOptions;

/// The name that the certificate of a server behind a Unix socket is to be for.
const LOCAL: &str = "localhost";

/// TLS 1.2 and 1.3 with servers: whom to trust, and who to be.
///
/// Cloning is cheap, and sessions are resumed among the connections of all clones.
///
/// # Whom it trusts
/// The certificate authorities in `tlsCAFile`; without it those of the operating system (feature
/// `tls-native-roots`), and where there are none, or without that feature, Mozilla's (feature
/// `tls-webpki-roots`). A certificate must be for the host name or the IP address that the server is
/// known by; for a server behind a Unix socket, for `localhost`. A host name is also sent to the
/// server (SNI). Until a certificate is verified nothing is sent but the TLS handshake.
///
/// Whether a certificate was revoked is not looked at: neither are OCSP responders asked nor stapled
/// answers or revocation lists read. So `tlsDisableOCSPEndpointCheck` and
/// `tlsDisableCertificateRevocationCheck` have nothing to turn off.
///
/// # What `true` relaxes
/// - `tlsAllowInvalidHostnames`: the certificate may be for any host. All else is verified.
/// - `tlsAllowInvalidCertificates`: the server may have any certificate, so that whom it is for
///   means nothing, either. Whoever is in between can read all.
/// - `tlsInsecure`: the same.
///
/// Specification: URI options.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// With a configuration of your own, for certificates in memory and all else that rustls can do.
    /// The TLS options of a connection string have no part in it.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self { config }
    }

    /// As the options say. Reads their files, of at most 1 MiB each, and the system's roots.
    ///
    /// The provider of cryptography is aws-lc-rs with feature `tls-aws-lc-rs`, else ring with
    /// feature `tls-ring`; rustls' default for the process is neither used nor set.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] names the option and the file of what can't be used, or the
    /// feature that is missing.
    pub fn from_options(options: &TlsOptions) -> Result<Self> {
        options.validate()?;
        warn_of_revocation(options);
        let provider = Arc::new(provider()?);
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::configuration(format!("TLS versions: {error}")))?;
        let any_certificate =
            options.insecure == Some(true) || options.allow_invalid_certificates == Some(true);
        let config = if any_certificate {
            config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(&provider)))
        } else if options.allow_invalid_hostnames == Some(true) {
            let verifier = AnyHost::new(roots(options)?, &provider);
            config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            config.with_root_certificates(roots(options)?)
        };
        Ok(Self::new(Arc::new(with_identity(config, options)?)))
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Agrees on TLS over an open transport to `address`. Dropped meanwhile, it closes the
    /// transport.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] if the server's certificate is not accepted, or it speaks no TLS that is;
    /// [`ErrorKind::Network`] if the transport fails.
    pub async fn secure(&self, stream: Stream, address: &ServerAddress) -> Result<Stream> {
        let name = ServerName::try_from(address.host().unwrap_or(LOCAL))
            .map_err(|_| TlsError::HostName)?
            .to_owned();
        let connector = TlsConnector::from(self.config.clone());
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(failure::explain(Error::network(error))),
        }
    }
}

impl From<Arc<ClientConfig>> for Tls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self::new(config)
    }
}

fn with_identity(
    config: rustls::ConfigBuilder<ClientConfig, WantsClientCert>,
    options: &TlsOptions,
) -> Result<ClientConfig> {
    const PASSWORD: &str = "tlsCertificateKeyFilePassword";
    match (
        &options.certificate_key_file,
        &options.certificate_key_file_password,
    ) {
        (None, None) => Ok(config.with_no_client_auth()),
        (None, Some(_)) => Err(ErrorKind::Configuration(format!(
            "`{PASSWORD}` without `tlsCertificateKeyFile`"
        ))
        .into()),
        (Some(path), password) => {
            let identity = Identity::read(path, password.as_ref())?;
            config
                .with_client_auth_cert(identity.certificates, identity.key)
                .map_err(|error| super::pem::Source::identity(path).error(error))
        }
    }
}

/// Who says that revocation is to be checked has to hear that it is not.
fn warn_of_revocation(options: &TlsOptions) {
    for (name, disabled) in [
        (
            "tlsDisableOCSPEndpointCheck",
            options.disable_ocsp_endpoint_check,
        ),
        (
            "tlsDisableCertificateRevocationCheck",
            options.disable_certificate_revocation_check,
        ),
    ] {
        if disabled == Some(false) {
            tracing::warn!("`{name}=false`: whether a certificate was revoked is not checked");
        }
    }
}

#[cfg(feature = "tls-aws-lc-rs")]
fn provider() -> Result<CryptoProvider> {
    Ok(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(all(feature = "tls-ring", not(feature = "tls-aws-lc-rs")))]
fn provider() -> Result<CryptoProvider> {
    Ok(rustls::crypto::ring::default_provider())
}

#[cfg(not(any(feature = "tls-ring", feature = "tls-aws-lc-rs")))]
fn provider() -> Result<CryptoProvider> {
    Err(Error::configuration(
        "TLS needs feature `tls-ring` or `tls-aws-lc-rs` of mongo-core, or a configuration of your own",
    ))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
