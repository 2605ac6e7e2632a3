//! The trusted certificate authorities.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::failure::own_certificate;
use super::pem::Source;
use crate::error::{Error, Result};
use crate::uri::TlsOptions;

/// The trusted certificates.
#[derive(Debug)]
pub(crate) struct Trusted {
    pub(crate) roots: RootCertStore,
    /// The certificates of `tlsCAFile`.
    named: Vec<CertificateDer<'static>>,
}

impl Trusted {
    pub(crate) fn read(options: &TlsOptions) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &options.ca_file else {
            let (roots, named) = (default_roots()?, Vec::new());
            return Ok(Self { roots, named });
        };
        let source = Source::authorities(path);
        let named = source.certificates()?;
        for certificate in &named {
            roots
                .add(certificate.clone())
                .map_err(|error| source.error(own_certificate(&error)))?;
        }
        Ok(Self { roots, named })
    }

    /// Whether `tlsCAFile` contains exactly this certificate.
    pub(crate) fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        self.named.iter().any(|named| named == certificate)
    }
}

fn default_roots() -> Result<RootCertStore> {
    match system().or_else(mozilla) {
        Some(roots) => Ok(roots),
        None => Err(Error::configuration(
            "TLS without `tlsCAFile` needs roots to trust: those of the system (feature \
             `tls-native-roots` of mongo-core), which has none, or Mozilla's (feature \
             `tls-webpki-roots`)",
        )),
    }
}

/// The system's roots, as far as they can be read; `None` if there are none.
#[cfg(feature = "tls-native-roots")]
fn system() -> Option<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems contain some roots that can't be used.
    roots.add_parsable_certificates(found.certs);
    (!roots.is_empty()).then_some(roots)
}

#[cfg(not(feature = "tls-native-roots"))]
fn system() -> Option<RootCertStore> {
    None
}

#[cfg(feature = "tls-webpki-roots")]
fn mozilla() -> Option<RootCertStore> {
    Some(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())
}

#[cfg(not(feature = "tls-webpki-roots"))]
fn mozilla() -> Option<RootCertStore> {
    None
}
