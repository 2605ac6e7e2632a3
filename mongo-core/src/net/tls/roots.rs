//! Which certificate authorities are trusted.

use rustls::RootCertStore;

use super::pem::Source;
use crate::error::{Error, Result};
use crate::uri::TlsOptions;

pub(super) fn roots(options: &TlsOptions) -> Result<RootCertStore> {
    let Some(path) = &options.ca_file else {
        return default_roots();
    };
    let source = Source::authorities(path);
    let mut roots = RootCertStore::empty();
    for certificate in source.certificates()? {
        roots
            .add(certificate)
            .map_err(|error| source.error(error))?;
    }
    Ok(roots)
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

/// The system's, as far as they can be read; `None` if there are none.
#[cfg(feature = "tls-native-roots")]
fn system() -> Option<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have some that are too old or too odd to be used.
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
