//! Certificates for tests, and TLS for servers.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::temp::TempDir;

/// A certificate authority with a unique name. Only clients that are configured with it trust it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: Arc<TempDir>,
}

/// A certificate, issued by an [`Authority`] or self-signed, and its private key.
#[derive(Clone)]
pub struct Identity {
    certificate: String,
    /// PKCS#8.
    key: String,
    directory: Arc<TempDir>,
}

impl Authority {
    /// Creates an authority.
    ///
    /// # Panics
    /// If no random bytes or no temporary directory are available.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("test authority {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, new_key());
        Self {
            issuer: issuer.expect("a certificate"),
            directory: Arc::new(TempDir::new().expect("a temporary directory")),
        }
    }

    /// The certificate, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A file with the certificate. It exists as long as this authority, or an identity that it
    /// issued.
    pub fn file(&self) -> PathBuf {
        write(&self.directory, "ca.pem", &self.pem())
    }

    /// Issues a certificate for a server on loopback: `localhost`, `127.0.0.1` and `::1`.
    pub fn server(&self) -> Identity {
        self.issue(&["localhost", "127.0.0.1", "::1"], |_| ())
    }

    /// Issues a certificate for a client with this common name.
    pub fn client(&self, name: &str) -> Identity {
        self.issue(&[], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.distinguished_name.push(DnType::CommonName, name);
        })
    }

    /// Issues a certificate for a client with this private key, as PEM of PKCS#8.
    pub fn client_with_key(&self, name: &str, key: &str) -> Identity {
        let mut params = params(&[], |_| ());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::from_pem(key).expect("a key");
        let certificate = params.signed_by(&key, &self.issuer);
        Identity {
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
            directory: self.directory.clone(),
        }
    }

    /// Issues a certificate for names and addresses, modified by `change`.
    pub fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let (params, key) = (params(names, change), new_key());
        let certificate = params.signed_by(&key, &self.issuer);
        Identity {
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
            directory: self.directory.clone(),
        }
    }

    /// Issues a certificate for `names` with a leaf certificate of this authority, which must not
    /// issue any.
    pub fn issue_by_leaf(&self, names: &[&str]) -> Identity {
        let (own, key) = (params(&["leaf.example"], |_| ()), new_key());
        let leaf = own.signed_by(&key, &self.issuer).expect("a certificate");
        let leaf_issuer = Issuer::new(own, key);
        let (params, key) = (params(names, |_| ()), new_key());
        let certificate = params.signed_by(&key, &leaf_issuer).expect("a certificate");
        Identity {
            certificate: certificate.pem() + &leaf.pem(),
            key: key.serialize_pem(),
            directory: self.directory.clone(),
        }
    }

    /// A certificate for `names`, signed by its own key instead of the authority's.
    pub fn self_signed(&self, names: &[&str]) -> Identity {
        self.self_signed_as(names, |_| ())
    }

    /// [`self_signed`](Self::self_signed), modified by `change`.
    pub fn self_signed_as(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let (params, key) = (params(names, change), new_key());
        Identity {
            certificate: params.self_signed(&key).expect("a certificate").pem(),
            key: key.serialize_pem(),
            directory: self.directory.clone(),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

fn params(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    change(&mut params);
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, text).expect("write into a temporary directory");
    path
}

impl Identity {
    /// The certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key, as PEM of PKCS#8.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Writes both to a new file.
    pub fn file(&self) -> PathBuf {
        self.file_of(&format!("{}{}", self.certificate, self.key))
    }

    /// Writes a new file in the same directory.
    pub fn file_of(&self, text: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        write(&self.directory, &format!("{number}.pem"), text)
    }

    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificates = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        (
            certificates
                .collect::<Result<_, _>>()
                .expect("certificates"),
            key.expect("a key"),
        )
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The TLS configuration of a server.
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerTls {
    identity: Identity,
    versions: Vec<&'static SupportedProtocolVersion>,
    clients: Option<CertificateDer<'static>>,
}

impl ServerTls {
    /// TLS 1.2 and 1.3, without client certificates.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            versions: rustls::ALL_VERSIONS.to_vec(),
            clients: None,
        }
    }

    /// Restricts the server to one version: `rustls::version::TLS12` or `TLS13`.
    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Requires client certificates issued by this authority.
    pub fn clients_of(mut self, authority: &Authority) -> Self {
        self.clients = Some(authority.issuer.der().clone());
        self
    }

    /// The configuration for rustls.
    ///
    /// # Panics
    /// If the key does not match the certificate.
    pub fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.versions)
            .expect("versions that the provider has");
        let config = match &self.clients {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots(authority.clone())),
                    provider,
                );
                config.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let (certificates, key) = self.identity.der();
        let config = config.with_single_cert(certificates, key);
        Arc::new(config.expect("a certificate of this key"))
    }
}

/// The configuration of the kit's own client, which trusts one authority.
pub(crate) fn client_config(authority: &str, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions that the provider has")
        .with_root_certificates(roots(authority));
    Arc::new(match identity.map(Identity::der) {
        None => config.with_no_client_auth(),
        Some((certificates, key)) => config
            .with_client_auth_cert(certificates, key)
            .expect("a certificate of this key"),
    })
}

fn roots(authority: CertificateDer<'static>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("an authority");
    roots
}
