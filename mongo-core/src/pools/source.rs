use std::fmt;
use std::time::Duration;

use super::{DEFAULT_MAX_SIZE, DEFAULT_WAIT_TIMEOUT, LARGEST_SIZE, UNLIMITED_SIZE};
use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::text::Rounded;
use crate::uri::{ClientOptions, ConnectionString};

/// The client options of an adapter's `Config`: its `url` or its `options`, else those of
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

/// The largest size of an adapter's pool: the one in its own configuration, else the URI's
/// `maxPoolSize`, of which 0, "no limit", is [`UNLIMITED_SIZE`]. If both are set and differ, a
/// warning names the one that is used (`tracing`, level WARN): the configuration's, unless that is
/// the `default` of its type, which counts as unset.
pub fn max_size(configured: Option<u32>, default: Option<u32>, options: &ClientOptions) -> u32 {
    let of_uri = match options.max_pool_size {
        0 => UNLIMITED_SIZE,
        max_size => max_size,
    };
    let Some(max_size) = configured else {
        return of_uri;
    };
    if options.max_pool_size == DEFAULT_MAX_SIZE || max_size == of_uri {
        return max_size;
    }
    let used = match configured == default {
        true => of_uri,
        false => max_size,
    };
    tracing::warn!(
        "`pool.max_size` is {max_size}, and the URI's maxPoolSize is {}: {used} is used",
        options.max_pool_size
    );
    used
}

/// [`max_size`], from 1 to [`LARGEST_SIZE`].
///
/// # Errors
/// It is 0 or larger.
pub fn checked_max_size(
    configured: Option<u32>,
    default: Option<u32>,
    options: &ClientOptions,
) -> Result<u32> {
    match max_size(configured, default, options) {
        max_size @ 1..=LARGEST_SIZE => Ok(max_size),
        max_size => Err(Error::configuration(format!(
            "`pool.max_size` is {max_size}, not from 1 to {LARGEST_SIZE}"
        ))),
    }
}

/// The bound of an adapter's check-out: the one in its own configuration, else the URI's
/// `timeoutMS` or `waitQueueTimeoutMS`, else [`DEFAULT_WAIT_TIMEOUT`]. If both are set and differ,
/// a warning says so (`tracing`, level WARN).
pub fn wait_timeout(configured: Option<Duration>, options: &ClientOptions) -> Duration {
    let of_uri = options.wait_timeout();
    if let (Some(configured), Some(of_uri)) = (configured, of_uri)
        && configured != of_uri
    {
        tracing::warn!(
            "`pool.timeouts.wait` is {}, and the URI's bound of a check-out is {}: `pool.timeouts.wait` is used",
            Rounded(configured),
            Rounded(of_uri)
        );
    }
    configured.or(of_uri).unwrap_or(DEFAULT_WAIT_TIMEOUT)
}

/// Checks a connection string. Logs no warnings: those come when it is used.
///
/// # Errors
/// It can't be used.
pub fn check_url(url: &str) -> Result<()> {
    ClientOptions::parse_quietly(url)?;
    Ok(())
}

/// A connection string for `Debug`: shows only its hosts, and nothing if it can't be parsed,
/// because any part of it may then belong to the password.
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
