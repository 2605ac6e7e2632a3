//! Encrypted private keys.

use rustls::pki_types::PrivateKeyDer;

use crate::auth::Secret;

const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
/// A line of OpenSSL's traditional format.
const TRADITIONAL: &str = "Proc-Type: 4,ENCRYPTED";

/// The file's key, if it is encrypted, or the reason why it can't be decrypted.
pub(crate) fn decrypt(
    pem: &[u8],
    password: Option<&Secret>,
) -> Option<Result<PrivateKeyDer<'static>, &'static str>> {
    let pem = str::from_utf8(pem).ok()?;
    if pem.lines().any(|line| line.trim_end() == TRADITIONAL) {
        return Some(Err(
            "its private key is encrypted in OpenSSL's traditional format, which \
             `tlsCertificateKeyFilePassword` is not supported for: convert it, as \
             `openssl pkcs8 -topk8` does",
        ));
    }
    let begin = pem.find(BEGIN)?;
    let section = &pem[begin + BEGIN.len()..];
    let text = &section[..section.find(END)?];
    Some(match password {
        Some(password) => open(text, password),
        None => Err("its private key is encrypted: `tlsCertificateKeyFilePassword` is needed"),
    })
}

#[cfg(feature = "tls-encrypted-keys")]
fn open(text: &str, password: &Secret) -> Result<PrivateKeyDer<'static>, &'static str> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use pkcs8::EncryptedPrivateKeyInfoRef;
    use rustls::pki_types::PrivatePkcs8KeyDer;

    let text: String = text.split_ascii_whitespace().collect();
    let der = STANDARD
        .decode(text)
        .map_err(|_| "its private key can't be read")?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(&der[..])
        .map_err(|_| "its private key is encrypted in a way that is not supported")?;
    let decrypted = encrypted.decrypt(password.expose()).map_err(|_| {
        "its private key can't be decrypted: `tlsCertificateKeyFilePassword` is wrong, or the \
         encryption is not supported"
    })?;
    let key = PrivatePkcs8KeyDer::from(decrypted.as_bytes().to_vec());
    Ok(key.into())
}

#[cfg(not(feature = "tls-encrypted-keys"))]
fn open(_text: &str, _password: &Secret) -> Result<PrivateKeyDer<'static>, &'static str> {
    Err(
        "its private key is encrypted: `tlsCertificateKeyFilePassword` needs feature \
         `tls-encrypted-keys` of mongo-core",
    )
}
