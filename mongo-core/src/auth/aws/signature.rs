//! AWS Signature Version 4 for the request that the server sends on the client's behalf.

use std::fmt::Write as _;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{AwsCredentials, Secret};

/// The request only asks AWS for the owner of the credentials.
const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "sts";
const DEFAULT_REGION: &str = "us-east-1";

pub(super) struct Signed {
    pub(super) authorization: String,
    pub(super) date: String,
}

/// Signs the request; `None` if there is no region or no date.
pub(super) fn sign(
    host: &str,
    nonce: &[u8],
    credentials: &AwsCredentials,
    now: SystemTime,
) -> Option<Signed> {
    let date = timestamp(now)?;
    let day = date.get(..8)?;
    let region = region(host)?;
    let scope = format!("{day}/{region}/{SERVICE}/aws4_request");
    let token = credentials.session_token.as_ref();
    let length = BODY.len().to_string();
    let nonce = STANDARD.encode(nonce);
    // Sorted by name, as AWS requires.
    let headers = [
        ("content-length", Some(&*length)),
        ("content-type", Some("application/x-www-form-urlencoded")),
        ("host", Some(host)),
        ("x-amz-date", Some(&*date)),
        ("x-amz-security-token", token.map(|token| token.expose())),
        ("x-mongodb-gs2-cb-flag", Some("n")),
        ("x-mongodb-server-nonce", Some(&*nonce)),
    ];
    let headers = || {
        headers
            .iter()
            .filter_map(|(name, value)| Some((name, (*value)?)))
    };
    let names: Vec<&str> = headers().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut request = Zeroizing::new(String::from("POST\n/\n\n"));
    for (name, value) in headers() {
        let _ = writeln!(request, "{name}:{value}");
    }
    let _ = write!(request, "\n{names}\n{}", hex(&Sha256::digest(BODY)));
    let request = hex(&Sha256::digest(request.as_bytes()));
    let text = format!("{ALGORITHM}\n{date}\n{scope}\n{request}");
    let key = signing_key(&credentials.secret_access_key, day, region, SERVICE);
    let signature = hex(&*hmac(&*key, &text));
    let id = &credentials.access_key_id;
    Some(Signed {
        authorization: format!(
            "{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        ),
        date,
    })
}

fn signing_key(secret: &Secret, day: &str, region: &str, service: &str) -> Zeroizing<[u8; 32]> {
    let secret = Zeroizing::new(format!("AWS4{}", secret.expose()));
    let key = hmac(secret.as_bytes(), day);
    let key = hmac(&*key, region);
    let key = hmac(&*key, service);
    hmac(&*key, "aws4_request")
}

/// The region of an AWS token service host: its second label, as the specification requires.
fn region(host: &str) -> Option<&str> {
    match host {
        "" => None,
        "sts.amazonaws.com" | "aws.amazonaws.com" => Some(DEFAULT_REGION),
        host => Some(host.split('.').nth(1).unwrap_or(DEFAULT_REGION)),
    }
}

/// `20191107T002607Z`.
fn timestamp(now: SystemTime) -> Option<String> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let millis = i64::try_from(seconds).ok()?.checked_mul(1000)?;
    let text = bson::DateTime::from_millis(millis)
        .try_to_rfc3339_string()
        .ok()?;
    Some(
        text.chars()
            .filter(|char| !matches!(char, '-' | ':'))
            .collect(),
    )
}

fn hmac(key: &[u8], text: &str) -> Zeroizing<[u8; 32]> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(text.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The example of AWS's documentation.
    #[test]
    fn the_documented_key_is_derived() {
        let secret = Secret::from("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let key = signing_key(&secret, "20150830", "us-east-1", "iam");
        let expected = "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9";
        assert_eq!(hex(&*key), expected);
    }

    /// The authentication specification's example, with a key from AWS's documentation. The
    /// signatures were computed with Python's `hmac`.
    #[test]
    fn the_request_is_signed() {
        let nonce = "dzw1U2IwSEtgaWI0IUxZMVJqc2xuQzNCcUxBc05wZjIGS0J9EgLwzEZ9dIzr/hnnK2mgd4D7F52t8g9yTC5cIA==";
        let nonce = STANDARD.decode(nonce).expect("base64");
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_573_086_367_999);
        let key = AwsCredentials::new("AKID", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let temporary = key.clone().with_session_token("AQoDYXdzEJr");
        for (credentials, names, signature) in [
            (
                key,
                "content-length;content-type;host;x-amz-date;x-mongodb-gs2-cb-flag;x-mongodb-server-nonce",
                "f60d862c17eaeed2d2e8703a2e7d288147decf14c0e18a3f0e1ff4650de968d1",
            ),
            (
                temporary,
                "content-length;content-type;host;x-amz-date;x-amz-security-token;x-mongodb-gs2-cb-flag;x-mongodb-server-nonce",
                "cb02bd5700acce59033270e7189b228cb0acbd9ca4f04c10e2224f89a9121cad",
            ),
        ] {
            let signed = sign("sts.amazonaws.com", &nonce, &credentials, now).expect("signed");
            assert_eq!(signed.date, "20191107T002607Z");
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKID/20191107/us-east-1/sts/aws4_request, \
                 SignedHeaders={names}, Signature={signature}"
            );
            assert_eq!(signed.authorization, expected);
        }
    }

    /// The specification's table. Invalid host names are rejected earlier.
    #[test]
    fn regions() {
        for (host, expected) in [
            ("sts.amazonaws.com", "us-east-1"),
            ("sts.us-west-2.amazonaws.com", "us-west-2"),
            ("sts.us-west-2.amazonaws.com.ch", "us-west-2"),
            ("example.com", "com"),
            ("localhost", "us-east-1"),
        ] {
            assert_eq!(region(host), Some(expected), "{host}");
        }
        assert_eq!(region(""), None);
    }
}
