//! The secrets, all of them marked, and values derived from them.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use mongo_testkit::Identity;
use pkcs8::PrivateKeyInfoRef;
use pkcs8::pkcs5::pbes2::Parameters;
use sha1::Sha1;
use sha2::Sha256;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::forms::{self, Needle};

/// Part of every secret.
const MARK: &str = "c4n4ryB1rd";

pub(crate) const PASSWORD: &str = "c4n4ryB1rd/p@ss:word";
pub(crate) const WRONG: &str = "c4n4ryB1rd/wr@ng:word";
pub(crate) const NEW: &str = "c4n4ryB1rd/of-a-new-user";
pub(crate) const TOKEN: &str = "eyJhbGciOiJub25lIn0.c4n4ryB1rd.good";
pub(crate) const OTHER_TOKEN: &str = "eyJhbGciOiJub25lIn0.c4n4ryB1rd.other";
pub(crate) const BAD_TOKEN: &str = "eyJhbGciOiJub25lIn0.c4n4ryB1rd.bad";
pub(crate) const AWS_ID: &str = "ASIATEMPORARY";
pub(crate) const AWS_SECRET: &str = "c4n4ryB1rd/secret";
pub(crate) const AWS_TOKEN: &str = "c4n4ryB1rd/session+token==";
pub(crate) const PROXY: &str = "c4n4ryB1rd-pr0xy";
pub(crate) const KEY_PASSWORD: &str = "c4n4ryB1rd-of-a-key";

/// A marked part of a command. Only command events and command logs may show it.
pub(crate) const PAYLOAD: &str = "p4yl04dOfAUser";
pub(crate) const USER: &str = "sylvester";
pub(crate) const SALT: &[u8; 16] = b"salt of the user";
const ITERATIONS: u32 = 4096;

/// All texts that must not appear.
pub(crate) fn needles(client: &Identity) -> Vec<Needle> {
    let mut needles = forms::of("a marked secret", MARK.as_bytes());
    for (name, bytes) in made_of_password(PASSWORD) {
        needles.extend(forms::of(name, &bytes));
    }
    // SCRAM messages contain a proof and a user name, which allow an offline attack on the
    // password.
    for message in ["n,,n=sylvester,r=", "c=biws,r="] {
        needles.extend(forms::of("a message of SCRAM", message.as_bytes()));
    }
    for line in client.key().lines().filter(|line| !line.starts_with('-')) {
        needles.extend(forms::of("a line of the key's PEM", line.as_bytes()));
    }
    // PKCS#8 with a P-256 key: a header of 36 bytes, and the key.
    needles.extend(forms::of("the client's key", &der(client)[36..68]));
    needles
}

/// Values that replace the password.
fn made_of_password(password: &str) -> Vec<(&'static str, Vec<u8>)> {
    let digest = Md5::digest(format!("{USER}:mongo:{password}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut salted_1 = [0; 20];
    pbkdf2::pbkdf2_hmac::<Sha1>(hex.as_bytes(), SALT, ITERATIONS, &mut salted_1);
    let mut salted_256 = [0; 32];
    let prefix = &SALT[..];
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), prefix, ITERATIONS, &mut salted_256);
    let mut made = vec![
        ("the MD5 digest", digest.to_vec()),
        ("the MD5 digest's hex", hex.into_bytes()),
        ("SCRAM-SHA-1's salted password", salted_1.to_vec()),
        ("SCRAM-SHA-256's salted password", salted_256.to_vec()),
    ];
    for name in ["Client Key", "Server Key"] {
        let mut mac = Hmac::<Sha1>::new_from_slice(&salted_1).expect("any length");
        mac.update(name.as_bytes());
        made.push(("a key of SCRAM-SHA-1", mac.finalize().into_bytes().to_vec()));
        let mut mac = Hmac::<Sha256>::new_from_slice(&salted_256).expect("any length");
        mac.update(name.as_bytes());
        made.push((
            "a key of SCRAM-SHA-256",
            mac.finalize().into_bytes().to_vec(),
        ));
    }
    made
}

fn der(identity: &Identity) -> Vec<u8> {
    let lines = identity.key().lines();
    let body: String = lines.filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).expect("base64")
}

/// The client's certificate and its key, which is encrypted.
pub(crate) fn encrypted(identity: &Identity) -> String {
    let params = Parameters::generate_pbkdf2_sha256_aes256cbc(1000, &[7; 16], [9; 16]);
    let der = der(identity);
    let key = PrivateKeyInfoRef::try_from(&der[..]).expect("PKCS#8");
    let key = key.encrypt_with_params(params.expect("parameters"), KEY_PASSWORD);
    let key = STANDARD.encode(key.expect("encrypted").as_bytes());
    let certificate = identity.certificate();
    format!(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n{key}\n-----END ENCRYPTED PRIVATE KEY-----\n{certificate}"
    )
}
