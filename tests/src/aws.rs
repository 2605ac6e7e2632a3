//! The server side of MONGODB-AWS. It checks the signature itself; for a real server, AWS does.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::action::ErrorReply;
use crate::external::{failed, sasl_reply};

const HOST: &str = "sts.eu-north-1.amazonaws.com";
const REGION: &str = "eu-north-1";
const BODY: &[u8] = b"Action=GetCallerIdentity&Version=2011-06-15";

/// An access key, and the session token of a temporary one.
#[derive(Clone)]
pub(crate) struct AwsKey {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

impl fmt::Debug for AwsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AwsKey").field(&self.id).finish()
    }
}

/// A conversation after the client's first message.
#[derive(Debug)]
pub(crate) struct AwsConversation {
    nonce: Vec<u8>,
}

impl AwsConversation {
    pub(crate) fn start(payload: &[u8]) -> Result<(Self, Document), ErrorReply> {
        let first = Document::from_reader(payload).map_err(|_| failed())?;
        let nonce = first.get_binary_generic("r").map_err(|_| failed())?;
        if nonce.len() != 32 || first.get_i32("p").ok() != Some(i32::from(b'n')) {
            return Err(failed());
        }
        let mut nonce = nonce.clone();
        nonce.resize(64, 0);
        getrandom::fill(&mut nonce[32..]).expect("the operating system gives random bytes");
        let bytes = Binary {
            subtype: BinarySubtype::Generic,
            bytes: nonce.clone(),
        };
        let answer = doc! {"s": bytes, "h": HOST};
        let answer = crate::codec::document_bytes(&answer);
        Ok((Self { nonce }, sasl_reply(false, answer)))
    }

    /// Returns the id of the key that signed the request in the client's second message.
    pub(crate) fn finish(&self, keys: &[AwsKey], payload: &[u8]) -> Result<String, ErrorReply> {
        let second = Document::from_reader(payload).map_err(|_| failed())?;
        let date = second.get_str("d").map_err(|_| failed())?;
        let header = second.get_str("a").map_err(|_| failed())?;
        let token = second.get_str("t").ok();
        let is_signer = |key: &&AwsKey| {
            key.token.as_deref() == token && self.header(key, date).as_deref() == Some(header)
        };
        let key = keys.iter().find(is_signer).ok_or_else(failed)?;
        Ok(key.id.clone())
    }

    fn header(&self, key: &AwsKey, date: &str) -> Option<String> {
        let mut headers = vec![
            ("content-length", BODY.len().to_string()),
            (
                "content-type",
                "application/x-www-form-urlencoded".to_owned(),
            ),
            ("host", HOST.to_owned()),
            ("x-amz-date", date.to_owned()),
            ("x-mongodb-gs2-cb-flag", "n".to_owned()),
            ("x-mongodb-server-nonce", BASE64.encode(&self.nonce)),
        ];
        headers.extend(
            key.token
                .clone()
                .map(|token| ("x-amz-security-token", token)),
        );
        headers.sort();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let request = format!(
            "POST\n/\n\n{lines}\n{names}\n{}",
            hex(&Sha256::digest(BODY))
        );
        let scope = format!("{}/{REGION}/sts/aws4_request", date.get(..8)?);
        let request = hex(&Sha256::digest(request));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{request}");
        let first = format!("AWS4{}", key.secret).into_bytes();
        let signing = scope.split('/').fold(first, |key, part| mac(&key, part));
        let signature = hex(&mac(&signing, &text));
        Some(format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            key.id
        ))
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
