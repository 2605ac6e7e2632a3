use std::fmt;

use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::uri::{ClientOptions, ConnectionString};

/// The client options of an adapter's `Config`: from its `url` or its `options`, else those of
/// `mongodb://localhost:27017`.
///
/// # Errors
/// Both are given, or the URL can't be used.
pub fn client_options(url: Option<&str>, options: Option<&ClientOptions>) -> Result<ClientOptions> {
    match (url, options) {
        (Some(_), Some(_)) => Err(Error::configuration("both `url` and `options` are given")),
        (Some(url), None) => Ok(ClientOptions::parse(url)?),
        (None, Some(options)) => Ok(options.clone()),
        (None, None) => Ok(ClientOptions::new([ServerAddress::tcp(
            "localhost",
            crate::address::DEFAULT_PORT,
        )])),
    }
}

/// A connection string for `Debug`: only its hosts, and nothing where it can't be parsed, because
/// any part of it may then be one of the password.
#[derive(Clone, Copy)]
pub struct RedactedUrl<'a>(pub &'a str);

impl fmt::Debug for RedactedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ConnectionString::parse(self.0) {
            Ok(parsed) => f
                .debug_list()
                .entries(parsed.srv_host)
                .entries(parsed.hosts)
                .finish(),
            Err(_) => f.write_str(".."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_url_is_shown() {
        let shown = |url| format!("{:?}", RedactedUrl(url));
        assert!(shown("mongodb://user:hid@a:1/db").contains("\"a\""));
        assert_eq!(shown("mongodb+srv://user:hid@c.d.e/db"), "[\"c.d.e\"]");
        for url in [
            "mongodb://u:hid@a:1/db?x=hid",
            "mongodb://u:hid@hid@a",
            "mongodb+srv://u:hid@hid@a",
            "mongodb://u:hid?hid@a",
            "mongodb://a/?authMechanismProperties=T:s@hid",
            "u:hid",
        ] {
            assert!(!shown(url).contains("hid"), "{url}");
        }
    }
}
