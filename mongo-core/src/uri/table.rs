//! The table of options: one row each, with its type and its setter.

use std::path::PathBuf;
use std::time::Duration;

use super::draft::Draft;
use super::validate::MAX_APP_NAME;
use super::value::{Kind, Outcome, Pair, Refused, nonzero};
use crate::auth::{CredentialError, Secret};
use crate::concern::Acknowledgment;
use crate::read_preference::TagSet;

/// One option.
pub(super) struct OptionSpec {
    /// The name in the specification.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) repeat: Repeat,
    /// The name that replaces a deprecated one.
    pub(super) instead: Option<&'static str>,
    /// Whether an invalid value is an error in a connection string too, because without the option
    /// a secret or a write could go to the wrong server.
    pub(super) is_strict: bool,
    /// Whether it is left out where secrets are: a password, or what can't be given without one.
    pub(super) is_secret: bool,
}

/// How a repeated option is handled.
#[derive(Clone, Copy)]
pub(super) enum Repeat {
    /// The last one is used, with a warning.
    Warn,
    /// The values form a list, or must agree.
    Collect,
    /// It is an error.
    Refuse,
}

/// Finds an option by its name, ASCII case-insensitively.
pub(super) fn find(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS
        .iter()
        .find(|spec| spec.name.eq_ignore_ascii_case(name))
}

const fn option(name: &'static str, kind: Kind) -> OptionSpec {
    OptionSpec {
        name,
        kind,
        repeat: Repeat::Warn,
        instead: None,
        is_strict: false,
        is_secret: false,
    }
}

impl OptionSpec {
    const fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    const fn strict(mut self) -> Self {
        self.is_strict = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    const fn instead(mut self, name: &'static str) -> Self {
        self.instead = Some(name);
        self
    }
}

const I32: i64 = i32::MAX as i64;

const fn flag(name: &'static str, set: fn(&mut Draft, bool)) -> OptionSpec {
    option(name, Kind::Flag(set))
}

/// A whole number that is at least `min`.
const fn count(name: &'static str, min: i64, set: fn(&mut Draft, u32)) -> OptionSpec {
    option(name, Kind::Count(min, set))
}

const fn millis(name: &'static str, min: i64, set: fn(&mut Draft, Duration)) -> OptionSpec {
    option(name, Kind::Millis(min, I32, set))
}

const fn text(name: &'static str, set: fn(&mut Draft, &str) -> Outcome) -> OptionSpec {
    option(name, Kind::Text(set))
}

/// Every option of the URI options specification.
pub(super) static OPTIONS: &[OptionSpec] = &[
    text("appname", |d, value| {
        if value.len() > MAX_APP_NAME {
            return Err(Refused::Value("at most 128 bytes long"));
        }
        name(&mut d.options.app_name, value)
    }),
    text("authMechanism", |d, value| {
        d.mechanism = Some(value.parse::<crate::auth::AuthMechanism>()?);
        Ok(())
    }),
    option("authMechanismProperties", Kind::Pairs(set_properties)),
    text("authSource", |d, value| {
        if value.is_empty() {
            return Err(CredentialError::SourceEmpty.into());
        }
        name(&mut d.options.auth_source, value)
    }),
    text("gssapiServiceName", |d, value| {
        name(&mut d.gssapi_service_name, value)
    })
    .instead("authMechanismProperties"),
    option(
        "compressors",
        Kind::List(
            |d| d.options.compressors.clear(),
            |d, value| {
                let unknown = "a list of snappy, zlib and zstd";
                let compressor = value.parse().map_err(|_| Refused::Value(unknown))?;
                if !d.options.compressors.contains(&compressor) {
                    d.options.compressors.push(compressor);
                }
                Ok(())
            },
        ),
    ),
    option(
        "zlibCompressionLevel",
        Kind::Level(-1, 9, |d, value| d.options.zlib_compression_level = value),
    ),
    millis("connectTimeoutMS", 0, |d, value| {
        d.options.connect_timeout = nonzero(value)
    }),
    millis("socketTimeoutMS", 0, |d, value| {
        d.options.socket_timeout = nonzero(value)
    }),
    millis("timeoutMS", 0, |d, value| d.options.timeout = Some(value)),
    millis("heartbeatFrequencyMS", 500, |d, value| {
        d.options.heartbeat_frequency = value
    }),
    millis("localThresholdMS", 0, |d, value| {
        d.options.local_threshold = value
    }),
    millis("serverSelectionTimeoutMS", 0, |d, value| {
        d.options.server_selection_timeout = value;
    }),
    flag("serverSelectionTryOnce", |d, value| {
        d.options.server_selection_try_once = Some(value);
    }),
    text("serverMonitoringMode", |d, value| {
        d.options.server_monitoring_mode = value
            .parse()
            .map_err(|_| Refused::Value("stream, poll or auto"))?;
        Ok(())
    }),
    millis("maxIdleTimeMS", 0, |d, value| {
        d.options.max_idle_time = nonzero(value)
    }),
    count("maxPoolSize", 0, |d, value| d.options.max_pool_size = value),
    count("minPoolSize", 0, |d, value| d.options.min_pool_size = value),
    count("maxConnecting", 1, |d, value| {
        d.options.max_connecting = value
    }),
    millis("waitQueueTimeoutMS", 0, |d, value| {
        d.options.wait_queue_timeout = nonzero(value)
    }),
    text("readPreference", |d, value| {
        d.options.read_preference.mode = value.parse().map_err(|_| {
            Refused::Value("primary, primaryPreferred, secondary, secondaryPreferred or nearest")
        })?;
        Ok(())
    }),
    option("readPreferenceTags", Kind::Pairs(add_tag_set)).repeat(Repeat::Collect),
    option(
        "maxStalenessSeconds",
        Kind::Seconds(90, |d, value| {
            d.options.read_preference.max_staleness = value
        }),
    ),
    text("readConcernLevel", |d, value| {
        let level = given(value)?.to_owned();
        d.options.read_concern.level = Some(level.into());
        Ok(())
    }),
    text("w", |d, value| {
        d.options.write_concern.w = Some(Acknowledgment::from_text(given(value)?)?);
        Ok(())
    }),
    flag("journal", |d, value| {
        d.options.write_concern.journal = Some(value)
    }),
    option("wTimeoutMS", Kind::Millis(0, i64::MAX, set_w_timeout)),
    option("wtimeout", Kind::Millis(0, i64::MAX, set_w_timeout)).instead("wTimeoutMS"),
    text("replicaSet", |d, value| {
        name(&mut d.options.replica_set, value)
    })
    .strict(),
    flag("directConnection", |d, value| {
        d.options.direct_connection = Some(value)
    }),
    flag("loadBalanced", |d, value| {
        d.options.load_balanced = Some(value)
    }),
    flag("retryReads", |d, value| d.options.retry_reads = value),
    flag("retryWrites", |d, value| d.options.retry_writes = value),
    count("maxAdaptiveRetries", 0, |d, value| {
        d.options.max_adaptive_retries = value
    }),
    flag("enableOverloadRetargeting", |d, value| {
        d.options.enable_overload_retargeting = value;
    }),
    text("srvServiceName", set_service_name),
    count("srvMaxHosts", 0, |d, value| d.srv_max_hosts = Some(value)),
    flag("tls", set_tls).repeat(Repeat::Collect).strict(),
    flag("ssl", set_tls).repeat(Repeat::Collect).strict(),
    flag("tlsInsecure", |d, value| {
        d.options.tls.insecure = Some(value)
    }),
    flag("tlsAllowInvalidCertificates", |d, value| {
        d.options.tls.allow_invalid_certificates = Some(value);
    }),
    flag("tlsAllowInvalidHostnames", |d, value| {
        d.options.tls.allow_invalid_hostnames = Some(value);
    }),
    text("tlsCAFile", |d, value| {
        path(&mut d.options.tls.ca_file, value)
    })
    .strict(),
    text("tlsCertificateKeyFile", |d, value| {
        path(&mut d.options.tls.certificate_key_file, value)
    })
    .strict(),
    text("tlsCertificateKeyFilePassword", |d, value| {
        secret(&mut d.options.tls.certificate_key_file_password, value)
    })
    .strict()
    .secret(),
    flag("tlsDisableCertificateRevocationCheck", |d, value| {
        d.options.tls.disable_certificate_revocation_check = Some(value);
    }),
    flag("tlsDisableOCSPEndpointCheck", |d, value| {
        d.options.tls.disable_ocsp_endpoint_check = Some(value);
    }),
    text("proxyHost", |d, value| name(&mut d.proxy_host, value))
        .repeat(Repeat::Refuse)
        .strict(),
    option(
        "proxyPort",
        Kind::Port(|d, value| d.proxy_port = Some(value)),
    )
    .repeat(Repeat::Refuse)
    .strict(),
    text("proxyUsername", |d, value| {
        name(&mut d.proxy_username, value)
    })
    .repeat(Repeat::Refuse)
    .strict()
    .secret(),
    text("proxyPassword", |d, value| {
        secret(&mut d.proxy_password, value)
    })
    .repeat(Repeat::Refuse)
    .strict()
    .secret(),
];

fn given(value: &str) -> Result<&str, Refused> {
    match value {
        "" => Err(Refused::Value("a text that is not empty")),
        _ => Ok(value),
    }
}

fn name(place: &mut Option<String>, value: &str) -> Outcome {
    *place = Some(given(value)?.to_owned());
    Ok(())
}

fn path(place: &mut Option<PathBuf>, value: &str) -> Outcome {
    *place = Some(given(value)?.into());
    Ok(())
}

fn secret(place: &mut Option<Secret>, value: &str) -> Outcome {
    *place = Some(given(value)?.into());
    Ok(())
}

fn set_tls(draft: &mut Draft, value: bool) {
    draft.tls_differs |= draft.options.tls.enabled == Some(!value);
    draft.options.tls.enabled = Some(value);
}

fn set_w_timeout(draft: &mut Draft, value: Duration) {
    draft.options.write_concern.w_timeout = Some(value);
}

/// A service name becomes a DNS label, after an underscore.
fn set_service_name(draft: &mut Draft, value: &str) -> Outcome {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match value.bytes().all(fits) && (1..=62).contains(&value.len()) {
        true => name(&mut draft.srv_service_name, value),
        false => Err(Refused::Value(
            "a service name of at most 62 letters, digits and hyphens",
        )),
    }
}

/// A tag set with an invalid part is ignored as a whole; without that part it would match more
/// servers.
fn add_tag_set(draft: &mut Draft, pairs: Vec<Pair<'_>>) -> Outcome {
    let tags: TagSet = pairs
        .into_iter()
        .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect::<Result<_, _>>()
        .map_err(|_| Refused::Value("of the form name:value,name:value"))?;
    draft.options.read_preference.tag_sets.push(tags);
    Ok(())
}

/// A comma in a value can't be distinguished from one between properties. Parts without a colon are
/// ignored, with a warning.
fn set_properties(draft: &mut Draft, pairs: Vec<Pair<'_>>) -> Outcome {
    let mut outcome = Ok(());
    for pair in pairs {
        match pair {
            Ok((name, value)) => draft.properties.push((name.to_owned(), value.into())),
            Err(_) => {
                outcome = Err(Refused::Value(
                    "in all its parts of the form NAME:value (a value with a comma can't be \
                     given in a connection string)",
                ));
            }
        }
    }
    outcome
}
