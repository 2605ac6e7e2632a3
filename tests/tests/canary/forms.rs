//! The forms in which output may contain a secret.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

/// Shorter needles would match by chance.
const LEAST: usize = 8;

/// One form of a secret, with a name for it.
pub(crate) struct Needle {
    pub(crate) name: String,
    pub(crate) form: String,
}

/// All forms of a secret.
pub(crate) fn of(name: &str, secret: &[u8]) -> Vec<Needle> {
    let mut forms = vec![
        (
            "percent-encoded",
            percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        ),
        (
            "all percent-encoded",
            each(secret, |byte| format!("%{byte:02X}")),
        ),
        ("hex", each(secret, |byte| format!("{byte:02x}"))),
        ("HEX", each(secret, |byte| format!("{byte:02X}"))),
        ("a list", listed(secret)),
    ];
    if let Ok(text) = std::str::from_utf8(secret) {
        forms.push(("plain", text.to_owned()));
    }
    for offset in 0..3 {
        forms.push(("base64", within_base64(&STANDARD_NO_PAD, secret, offset)));
        forms.push((
            "base64 for URLs",
            within_base64(&URL_SAFE_NO_PAD, secret, offset),
        ));
    }
    forms.retain(|(_, form)| form.len() >= LEAST);
    let needle = |(kind, form)| Needle {
        name: format!("{name}, {kind}"),
        form,
    };
    forms.into_iter().map(needle).collect()
}

fn each(secret: &[u8], show: impl Fn(&u8) -> String) -> String {
    secret.iter().map(show).collect()
}

/// Bytes as `Debug` prints them.
fn listed(secret: &[u8]) -> String {
    let shown = format!("{secret:?}");
    shown.trim_matches(['[', ']']).to_owned()
}

/// The base64 characters that depend only on the secret, within a longer text in which it starts
/// `offset` bytes after the start of a group of three.
fn within_base64(engine: &impl Engine, secret: &[u8], offset: usize) -> String {
    let mut bytes = vec![0; offset];
    bytes.extend(secret);
    let encoded = engine.encode(&bytes);
    let first = (offset * 8).div_ceil(6);
    encoded[first..bytes.len() * 8 / 6].to_owned()
}
