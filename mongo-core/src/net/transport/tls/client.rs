use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::WantsClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::failure;
use super::pem::Identity;
use super::roots::Trusted;
use super::verify::{AnyCertificate, Verifier};
use crate::ServerAddress;
use crate::error::{Error, ErrorKind, Result, TlsError};
use crate::net::Stream;
use crate::sync::lock;
use crate::uri::TlsOptions;

/// The name in the certificate of a server behind a Unix socket.
const LOCAL: &str = "localhost";

/// The minimum time between two reads of the files.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// The TLS configuration for connections to servers (TLS 1.2 and 1.3): trusted certificates and the
/// client's identity.
///
/// Cloning is cheap. Sessions are resumed across the connections of all clones.
///
/// # Renewed files
/// After a failure of TLS, `tlsCAFile` and `tlsCertificateKeyFile` are read again, at most every 5 s.
/// Later connections use the new certificates. Invalid files, such as a partly written one, change
/// nothing. [`Pools`](crate::pools::Pools) share the files with their monitors. Existing connections
/// and a configuration of [your own](Self::new) do not change.
///
/// # Trusted certificates
/// The certificate authorities in `tlsCAFile`. Without it, those of the operating system (feature
/// `tls-native-roots`); if there are none, or without that feature, Mozilla's (feature
/// `tls-webpki-roots`). A certificate must match the host name or IP address of the server; for a
/// server behind a Unix socket, it must match `localhost`. A certificate that is itself in
/// `tlsCAFile`, such as a self-signed one, needs no issuer. A host name is also sent to the server
/// (SNI). Until a certificate is verified, only the TLS handshake is sent.
///
/// Certificate revocation is not checked: OCSP responders are not asked, and stapled responses and
/// revocation lists are not read. So `tlsDisableOCSPEndpointCheck` and
/// `tlsDisableCertificateRevocationCheck` have no effect.
///
/// # Relaxed verification
/// - `tlsAllowInvalidHostnames=true`: the certificate may be for any host. Everything else is
///   verified.
/// - `tlsAllowInvalidCertificates=true`: any certificate is accepted, so that its host name proves
///   nothing either. An attacker between client and server can read everything.
/// - `tlsInsecure=true`: the same.
///
/// Specification: URI options.
#[derive(Clone)]
pub struct Tls {
    state: Arc<Mutex<State>>,
    /// The source of the configuration, if it consists of files that may be renewed.
    files: Option<Arc<TlsOptions>>,
}

struct State {
    config: Arc<ClientConfig>,
    /// The last time that the files were read, successfully or not.
    read: Instant,
}

impl Tls {
    /// Whether it was made from these options, and not set by the application.
    pub(crate) fn is_of(&self, options: &TlsOptions) -> bool {
        self.files.as_deref() == Some(options)
    }

    /// Uses a custom configuration, for certificates in memory and other features of rustls. The
    /// TLS options of a connection string do not apply to it.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        let read = Instant::now();
        Self {
            state: Arc::new(Mutex::new(State { config, read })),
            files: None,
        }
    }

    /// Creates the configuration from options. Reads their files, of at most 1 MiB each, and the
    /// system's roots.
    ///
    /// The crypto provider is aws-lc-rs with feature `tls-aws-lc-rs`, else ring with feature
    /// `tls-ring`. rustls' process-wide default provider is neither used nor set.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`], which names the option and the file that can't be used, or the
    /// missing feature.
    pub fn from_options(options: &TlsOptions) -> Result<Self> {
        options.validate()?;
        warn_of_revocation(options);
        let has_files = options.ca_file.is_some() || options.certificate_key_file.is_some();
        Ok(Self {
            files: has_files.then(|| Arc::new(options.clone())),
            ..Self::new(Arc::new(read(options)?))
        })
    }

    /// The current configuration for new connections.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.state().config.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Reads the files again after a TLS failure, unless they were just read.
    pub(crate) async fn renew(&self) {
        let Some(options) = self.files.clone() else {
            return;
        };
        let is_due = {
            let state = &mut *self.state();
            let is_due = state.read.elapsed() >= RENEWAL_PAUSE;
            if is_due {
                state.read = Instant::now();
            }
            is_due
        };
        if !is_due {
            return;
        }
        // Files may be on a slow network. The result counts even if the attempt has ended.
        let renewed = self.clone();
        let reading = spawn_blocking(move || match read(&options) {
            Ok(config) => renewed.state().config = Arc::new(config),
            Err(error) => tracing::warn!("failed to reload TLS files: {error}"),
        });
        // It fails if the runtime is shutting down.
        let _ = reading.await;
    }

    /// Does the TLS handshake over an open transport to `address`. If the future is dropped, the
    /// transport is closed.
    ///
    /// # Errors
    /// [`ErrorKind::Tls`] if the server's certificate or its TLS is not accepted;
    /// [`ErrorKind::Network`] if the transport fails.
    pub async fn secure(&self, stream: Stream, address: &ServerAddress) -> Result<Stream> {
        let name = ServerName::try_from(address.host().unwrap_or(LOCAL))
            .map_err(|_| TlsError::HostName)?
            .to_owned();
        let connector = TlsConnector::from(self.config());
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

/// Creates the configuration from options and their files.
fn read(options: &TlsOptions) -> Result<ClientConfig> {
    let provider = Arc::new(provider()?);
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::configuration(format!("TLS versions: {error}")))?;
    let any_certificate =
        options.insecure == Some(true) || options.allow_invalid_certificates == Some(true);
    let verifier: Arc<dyn ServerCertVerifier> = match any_certificate {
        true => Arc::new(AnyCertificate::new(&provider)),
        false => {
            let any_host = options.allow_invalid_hostnames == Some(true);
            Arc::new(Verifier::new(Trusted::read(options)?, any_host, &provider))
        }
    };
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    with_identity(config, options)
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
                .map_err(|error| {
                    let problem = failure::own_certificate(&error);
                    super::pem::Source::identity(path).error(problem)
                })
        }
    }
}

/// Warns if the options ask for revocation checks, which are not supported.
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
            tracing::warn!("`{name}=false` has no effect: certificate revocation is not checked");
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
        "TLS needs feature `tls-ring` or `tls-aws-lc-rs` of mongo-core, or a custom configuration",
    ))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
