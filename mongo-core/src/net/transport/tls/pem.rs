//! The certificate and key files that options name.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::encrypted;
use crate::auth::Secret;
use crate::error::{Error, Result};

/// The maximum length of a file. A system's whole CA bundle has a quarter of that.
const MAX_SIZE: u64 = 1024 * 1024;

/// An option and the file that it names.
pub(crate) struct Source<'a> {
    option: &'static str,
    path: &'a Path,
}

impl<'a> Source<'a> {
    pub(crate) fn authorities(path: &'a Path) -> Self {
        let option = "tlsCAFile";
        Self { option, path }
    }

    pub(crate) fn identity(path: &'a Path) -> Self {
        let option = "tlsCertificateKeyFile";
        Self { option, path }
    }

    pub(crate) fn error(&self, problem: impl fmt::Display) -> Error {
        let Self { option, path } = self;
        Error::configuration(format!("`{option}`, {path:?}: {problem}"))
    }

    fn read(&self) -> Result<Zeroizing<Vec<u8>>> {
        read(self.path).map_err(|error| self.error(error))
    }

    /// All certificates of the file, at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        self.certificates_in(&self.read()?)
    }

    fn certificates_in(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|_| self.error("a PEM section can't be read"))?;
        match certificates.is_empty() {
            true => Err(self.error("no PEM certificate was found")),
            false => Ok(certificates),
        }
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    // One allocation: a growing buffer would leave copies of the secret behind.
    let size = file.metadata()?.len().min(MAX_SIZE) as usize;
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_SIZE {
        true => Err(io::Error::other("the file is longer than 1 MiB")),
        false => Ok(bytes),
    }
}

/// The client's certificate chain and its private key.
pub(crate) struct Identity {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// A password is ignored if the key is not encrypted.
    pub(crate) fn read(path: &Path, password: Option<&Secret>) -> Result<Self> {
        let source = Source::identity(path);
        let pem = source.read()?;
        let key = match encrypted::decrypt(&pem, password) {
            Some(decrypted) => decrypted.map_err(|problem| source.error(problem))?,
            None => PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| source.error("no readable PEM private key was found"))?,
        };
        Ok(Self {
            certificates: source.certificates_in(&pem)?,
            key,
        })
    }
}
