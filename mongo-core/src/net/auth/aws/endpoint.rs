//! The endpoints for AWS credentials, as set by environment variables.

use std::net::IpAddr;

use crate::ServerAddress;
use crate::error::{Error, Result};

/// The endpoint of ECS, and those of EKS Pod Identity.
const CONTAINER: &str = "169.254.170.2";
const PLAIN_HOSTS: [&str; 3] = [CONTAINER, "169.254.170.23", "fd00:ec2::23"];

const RELATIVE_URI: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const REGIONAL: &str = "AWS_STS_REGIONAL_ENDPOINTS";

const GLOBAL_TOKEN_SERVICE: &str = "sts.amazonaws.com";

/// The regions that use the global endpoint with `AWS_STS_REGIONAL_ENDPOINTS=legacy`.
const LEGACY_REGIONS: [&str; 16] = [
    "ap-northeast-1",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "aws-global",
    "ca-central-1",
    "eu-central-1",
    "eu-north-1",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
];

/// The domains of regions that are not under `amazonaws.com`.
const PARTITIONS: [(&str, &str); 6] = [
    ("cn-", "amazonaws.com.cn"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("eusc-", "amazonaws.eu"),
];

/// The longest label of a host name.
const MAX_REGION_LENGTH: usize = 63;

/// An HTTP endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Whether it uses TLS.
    pub(crate) is_secure: bool,
    pub(crate) address: ServerAddress,
    /// The host, and the port if the URL names one.
    pub(crate) host: String,
    /// The path and the query.
    pub(crate) target: String,
}

impl Endpoint {
    /// A local endpoint, without TLS.
    pub(crate) fn plain(host: &str, target: impl Into<String>) -> Self {
        Self {
            is_secure: false,
            address: ServerAddress::tcp(host, 80),
            host: host.to_owned(),
            target: target.into(),
        }
    }

    fn secure(host: String) -> Self {
        Self {
            is_secure: true,
            address: ServerAddress::tcp(&host, 443),
            host,
            target: "/".to_owned(),
        }
    }

    /// The container endpoint, if the variables name one.
    ///
    /// # Errors
    /// The variable is not a usable URL. Its value is not shown.
    pub(crate) fn of_container(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        match (variable(RELATIVE_URI), variable(FULL_URI)) {
            (Some(path), _) => {
                let target = format!("/{}", path.trim_start_matches('/'));
                Ok(Some(Self::plain(CONTAINER, target)))
            }
            (None, Some(url)) => Self::of_url(FULL_URI, &url).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The endpoint of the token service (STS).
    ///
    /// # Errors
    /// The variables are invalid.
    pub(crate) fn of_token_service(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let is_true = |name| variable(name).is_some_and(|it| it.eq_ignore_ascii_case("true"));
        if !is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
            for name in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"] {
                if let Some(url) = variable(name) {
                    return Self::of_url(name, &url);
                }
            }
        }
        let is_legacy = match variable(REGIONAL).map(|mode| mode.to_ascii_lowercase()) {
            None => None,
            Some(mode) if mode == "regional" => Some(false),
            Some(mode) if mode == "legacy" => Some(true),
            Some(_) => {
                let text = format!("{REGIONAL} is neither legacy nor regional");
                return Err(Error::credential(text));
            }
        };
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        match (region, is_legacy) {
            (None, Some(false)) => Err(Error::credential(format!(
                "{REGIONAL} is regional, but neither AWS_REGION nor AWS_DEFAULT_REGION is set"
            ))),
            (None, _) => Ok(Self::secure(GLOBAL_TOKEN_SERVICE.to_owned())),
            (Some(region), is_legacy) => {
                let host = token_service(&region, is_legacy == Some(true));
                host.map(Self::secure)
                    .ok_or_else(|| Error::credential("AWS_REGION is not a valid region name"))
            }
        }
    }

    /// The endpoint that a variable names.
    fn of_url(variable: &str, url: &str) -> Result<Self> {
        let wrong = |text| Error::credential(format!("{variable} {text}"));
        let (is_secure, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) | None => return Err(wrong("begins with neither http:// nor https://")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(end);
        // A fragment is not part of a request.
        let (target, _) = target.split_once('#').unwrap_or((target, ""));
        let address = address(host, if is_secure { 443 } else { 80 })
            .ok_or_else(|| wrong("has no valid host and optional port after its scheme"))?;
        if !is_secure && !is_local(&address) {
            return Err(wrong(
                "needs https:// for a host that is neither a loopback address nor an AWS container \
                 endpoint",
            ));
        }
        Ok(Self {
            is_secure,
            address,
            host: host.to_owned(),
            target: match target.starts_with('/') {
                true => target.to_owned(),
                false => format!("/{target}"),
            },
        })
    }
}

/// The host of a region's token service. `None` if the name is not a region, because it becomes
/// part of a host name.
fn token_service(region: &str, is_legacy: bool) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if region.len() > MAX_REGION_LENGTH || !region.bytes().all(fits) {
        return None;
    }
    if region == "aws-global" || is_legacy && LEGACY_REGIONS.contains(&region) {
        return Some(GLOBAL_TOKEN_SERVICE.to_owned());
    }
    let of_partition = PARTITIONS
        .iter()
        .find(|(prefix, _)| region.starts_with(prefix));
    let domain = of_partition.map_or("amazonaws.com", |(_, domain)| domain);
    Some(format!("sts.{region}.{domain}"))
}

/// The host of a URL, with the scheme's default port if it names none.
fn address(host: &str, port: u16) -> Option<ServerAddress> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if !host.bytes().all(fits) {
        return None;
    }
    let has_port = host
        .rsplit_once(']')
        .map_or(host, |(_, after)| after)
        .contains(':');
    match host.parse().ok()? {
        ServerAddress::Tcp { host, .. } if !has_port => Some(ServerAddress::Tcp { host, port }),
        address @ ServerAddress::Tcp { .. } => Some(address),
        ServerAddress::Unix { .. } => None,
    }
}

/// Whether requests to the address stay on the machine.
fn is_local(address: &ServerAddress) -> bool {
    let host = address.host().unwrap_or_default();
    let is_loopback = |address: IpAddr| address.is_loopback();
    host == "localhost" || PLAIN_HOSTS.contains(&host) || host.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> Result<Endpoint> {
        Endpoint::of_token_service(|name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_token_service_is_that_of_the_region() {
        let mode = "AWS_STS_REGIONAL_ENDPOINTS";
        for (variables, host) in [
            (&[][..], "sts.amazonaws.com"),
            (&[(mode, "legacy")], "sts.amazonaws.com"),
            (
                &[("AWS_REGION", "eu-west-1")],
                "sts.eu-west-1.amazonaws.com",
            ),
            (
                &[("AWS_DEFAULT_REGION", "us-east-1"), (mode, "regional")],
                "sts.us-east-1.amazonaws.com",
            ),
            (
                &[("AWS_DEFAULT_REGION", "x"), ("AWS_REGION", "us-gov-west-1")],
                "sts.us-gov-west-1.amazonaws.com",
            ),
            (
                &[("AWS_REGION", "us-east-1"), (mode, "legacy")],
                "sts.amazonaws.com",
            ),
            (
                &[("AWS_REGION", "eu-south-2"), (mode, "Legacy")],
                "sts.eu-south-2.amazonaws.com",
            ),
            (
                &[("AWS_REGION", "aws-global"), (mode, "regional")],
                "sts.amazonaws.com",
            ),
            (
                &[("AWS_REGION", "cn-north-1")],
                "sts.cn-north-1.amazonaws.com.cn",
            ),
        ] {
            let endpoint = told(variables).expect(host);
            assert_eq!(endpoint, Endpoint::secure(host.to_owned()), "{variables:?}");
        }
        for variables in [
            &[(mode, "regional")][..],
            &[(mode, "local"), ("AWS_REGION", "us-east-1")],
            &[("AWS_REGION", "x@evil.example/")],
            &[("AWS_REGION", "evil.example#")],
            &[("AWS_ENDPOINT_URL_STS", "http://sts.example")],
        ] {
            told(variables).expect_err("not to be followed");
        }
        let own = told(&[("AWS_ENDPOINT_URL_STS", "https://vpce.example/x")]).expect("a URL");
        assert_eq!((&*own.host, &*own.target), ("vpce.example", "/x"));
        assert!(own.is_secure);
    }

    #[test]
    fn urls_without_tls_stay_on_the_machine() {
        for (url, address, target) in [
            (
                "http://169.254.170.23/v1/credentials",
                "169.254.170.23:80",
                "/v1/credentials",
            ),
            ("http://[fd00:ec2::23]/v1", "[fd00:ec2::23]:80", "/v1"),
            ("http://169.254.170.2?x=y", "169.254.170.2:80", "/?x=y"),
            ("HTTP://LocalHost:8080", "localhost:8080", "/"),
            ("http://127.0.0.9/#x", "127.0.0.9:80", "/"),
            ("http://[::1]:81/", "[::1]:81", "/"),
            ("https://db.example/x", "db.example:443", "/x"),
            ("https://db.example:444/x", "db.example:444", "/x"),
        ] {
            let endpoint = Endpoint::of_url("V", url).expect(url);
            assert_eq!(endpoint.address.to_string(), address, "{url}");
            assert_eq!(endpoint.target, target, "{url}");
        }
        for url in [
            "",
            "169.254.170.23/m4rked",
            "ftp://127.0.0.1/m4rked",
            "http://m4rked.example/",
            "http://169.254.169.254/m4rked",
            "http://169.254.170.23@m4rked.example/",
            "http://127.0.0.1.m4rked.example/",
            "http:///m4rked",
            "http://localhost:0/m4rked",
            "https://user:m4rked@db.example/",
            "https://a b/m4rked",
            "https://%6c/m4rked",
        ] {
            let error = Endpoint::of_url("V", url).expect_err(url).to_string();
            assert!(!error.contains("m4rked"), "{error}");
        }
    }
}
