use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use crate::uri::TlsOptions;

/// The name that the certificate of a server behind a Unix socket is to be for.
const LOCAL: &str = "localhost";

/// How long files that were read are not read again.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// TLS 1.2 and 1.3 with servers: whom to trust, and who to be.
///
/// Cloning is cheap, and sessions are resumed among the connections of all clones.
///
/// # Renewed files
/// Where TLS fails, the certificates in `tlsCAFile` and `tlsCertificateKeyFile` are read again, at most
/// every 5 s: later connections use what is there then. Files that can't be used, such as one that is
/// half written, change nothing. [`Pools`](crate::pools::Pools) and their monitors read them together.
/// Connections that are there stay as they are, and so does a
/// configuration of [your own](Self::new).
///
/// # Whom it trusts
/// The certificate authorities in `tlsCAFile`; without it those of the operating system (feature
/// `tls-native-roots`), and where there are none, or without that feature, Mozilla's (feature
/// `tls-webpki-roots`). A certificate must be for the host name or the IP address that the server is
/// known by; for a server behind a Unix socket, for `localhost`. A certificate that itself stands in
/// `tlsCAFile`, as a self-signed one does, needs no issuer. A host name is also sent to the
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
    state: Arc<Mutex<State>>,
    /// Where the configuration comes from, if it is of files that may be renewed.
    files: Option<Arc<TlsOptions>>,
}

struct State {
    config: Arc<ClientConfig>,
    /// When the files were read, or were found not to be usable.
    read: Instant,
}

impl Tls {
    /// With a configuration of your own, for certificates in memory and all else that rustls can do.
    /// The TLS options of a connection string have no part in it.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        let read = Instant::now();
        Self {
            state: Arc::new(Mutex::new(State { config, read })),
            files: None,
        }
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
        let has_files = options.ca_file.is_some() || options.certificate_key_file.is_some();
        Ok(Self {
            files: has_files.then(|| Arc::new(options.clone())),
            ..Self::new(Arc::new(read(options)?))
        })
    }

    /// The configuration of connections that are made now.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.state().config.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// TLS has failed: reads the files again, if that was not just done.
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
        // Files may lie on a slow network: what is read counts also where the attempt has ended.
        let renewed = self.clone();
        let reading = spawn_blocking(move || match read(&options) {
            Ok(config) => renewed.state().config = Arc::new(config),
            Err(error) => tracing::warn!("TLS files are not read again: {error}"),
        });
        // It fails where the runtime shuts down.
        let _ = reading.await;
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

/// The configuration that options and their files ask for.
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
