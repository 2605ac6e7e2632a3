//! Serialization of options without their secrets: the table that `de` reads.

use std::path::Path;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{ClientOptions, ProxyOptions, SrvOptions, TlsOptions};
use crate::auth::Credential;
use crate::concern::Acknowledgment;
use crate::settings::Value;

/// A table of the options that differ from the defaults, and of the hosts. Passwords are left out:
/// see the [module](super).
impl Serialize for ClientOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown(&Value::Table(self.fields())).serialize(serializer)
    }
}

/// A value without secrets.
struct Shown<'a>(&'a Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Flag(flag) => serializer.serialize_bool(*flag),
            Value::Number(number) => serializer.serialize_i64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => serializer.collect_seq(items.iter().map(Shown)),
            Value::Table(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, &Shown(value))?;
                }
                map.end()
            }
            Value::Null | Value::Other(_) => serializer.serialize_none(),
        }
    }
}

/// The fields of a table.
#[derive(Default)]
struct Fields(Vec<(String, Value)>);

impl Fields {
    fn push(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }

    fn text(&mut self, name: &str, text: Option<impl ToString>) {
        if let Some(text) = text {
            self.push(name, Value::Text(text.to_string()));
        }
    }

    fn path(&mut self, name: &str, path: Option<&Path>) {
        self.text(name, path.map(Path::display));
    }

    fn flag(&mut self, name: &str, flag: Option<bool>) {
        if let Some(flag) = flag {
            self.push(name, Value::Flag(flag));
        }
    }

    /// A flag that has a default.
    fn switch(&mut self, name: &str, flag: bool, default: bool) {
        self.flag(name, (flag != default).then_some(flag));
    }

    fn number(&mut self, name: &str, number: impl Into<i64>, default: impl Into<i64>) {
        let number = number.into();
        if number != default.into() {
            self.push(name, Value::Number(number));
        }
    }

    fn millis(&mut self, name: &str, duration: Option<Duration>) {
        if let Some(duration) = duration {
            self.push(name, in_units(duration, duration.as_millis(), 1_000_000));
        }
    }

    /// A duration that has a default, and for which none is no limit.
    fn limit(&mut self, name: &str, limit: Option<Duration>, default: Option<Duration>) {
        if limit != default {
            self.millis(name, Some(limit.unwrap_or_default()));
        }
    }
}

/// A whole number of units, each of so many nanoseconds, or else a table of `secs` and `nanos`.
fn in_units(duration: Duration, units: u128, nanos: u32) -> Value {
    let number = i64::try_from(units).unwrap_or(i64::MAX);
    match duration.subsec_nanos() % nanos {
        0 => Value::Number(number),
        _ => {
            let secs = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
            Value::Table(vec![
                ("secs".to_owned(), Value::Number(secs)),
                (
                    "nanos".to_owned(),
                    Value::Number(duration.subsec_nanos().into()),
                ),
            ])
        }
    }
}

fn texts(texts: impl IntoIterator<Item = impl ToString>) -> Value {
    let texts = texts.into_iter().map(|text| Value::Text(text.to_string()));
    Value::List(texts.collect())
}

impl ClientOptions {
    fn fields(&self) -> Vec<(String, Value)> {
        let (mut fields, default) = (Fields::default(), Self::default());
        match &self.srv {
            // The hosts come from the records.
            Some(srv) => fields.srv(srv),
            None => fields.push("hosts", texts(&self.hosts)),
        }
        if let Some(credential) = &self.credential {
            fields.push("credential", Value::Table(credential.public_fields()));
        }
        fields.switch(
            "allow_plain_without_tls",
            self.allow_plain_without_tls,
            false,
        );
        fields.text("authSource", self.auth_source.as_ref());
        fields.text("database", self.default_database.as_ref());
        if let Some(api) = &self.server_api {
            let mut own = Fields::default();
            own.text("version", Some(api.version.as_str()));
            own.flag("strict", api.strict);
            own.flag("deprecation_errors", api.deprecation_errors);
            fields.push("server_api", Value::Table(own.0));
        }
        fields.text("appname", self.app_name.as_ref());
        if !self.compressors.is_empty() {
            fields.push("compressors", texts(&self.compressors));
        }
        let level = "zlibCompressionLevel";
        fields.number(
            level,
            self.zlib_compression_level,
            default.zlib_compression_level,
        );
        fields.times(self, &default);
        fields.pooling(self, &default);
        fields.concerns(self);
        fields.text("replicaSet", self.replica_set.as_ref());
        fields.flag("directConnection", self.direct_connection);
        fields.flag("loadBalanced", self.load_balanced);
        fields.switch("retryReads", self.retry_reads, default.retry_reads);
        fields.switch("retryWrites", self.retry_writes, default.retry_writes);
        let retries = "maxAdaptiveRetries";
        fields.number(
            retries,
            self.max_adaptive_retries,
            default.max_adaptive_retries,
        );
        let retargeting = "enableOverloadRetargeting";
        fields.switch(retargeting, self.enable_overload_retargeting, false);
        fields.tls(&self.tls);
        if let Some(proxy) = &self.proxy {
            fields.proxy(proxy);
        }
        fields.0
    }
}

impl Fields {
    fn srv(&mut self, srv: &SrvOptions) {
        let default = SrvOptions::new("");
        self.text("srvHost", Some(&srv.host_name));
        let name = Some(&srv.service_name).filter(|name| **name != default.service_name);
        self.text("srvServiceName", name);
        self.number("srvMaxHosts", srv.max_hosts, default.max_hosts);
    }

    fn times(&mut self, options: &ClientOptions, default: &ClientOptions) {
        let ClientOptions {
            connect_timeout,
            socket_timeout,
            timeout,
            heartbeat_frequency,
            local_threshold,
            server_selection_timeout,
            server_selection_try_once,
            server_monitoring_mode,
            ..
        } = options;
        self.limit(
            "connectTimeoutMS",
            *connect_timeout,
            default.connect_timeout,
        );
        self.millis("socketTimeoutMS", *socket_timeout);
        self.millis("timeoutMS", *timeout);
        let unless = |duration: &Duration, default| Some(*duration).filter(|own| *own != default);
        let heartbeat = unless(heartbeat_frequency, default.heartbeat_frequency);
        self.millis("heartbeatFrequencyMS", heartbeat);
        let threshold = unless(local_threshold, default.local_threshold);
        self.millis("localThresholdMS", threshold);
        let selection = unless(server_selection_timeout, default.server_selection_timeout);
        self.millis("serverSelectionTimeoutMS", selection);
        self.flag("serverSelectionTryOnce", *server_selection_try_once);
        let mode = Some(server_monitoring_mode.as_str());
        let default = default.server_monitoring_mode.as_str();
        self.text("serverMonitoringMode", mode.filter(|mode| *mode != default));
    }

    fn pooling(&mut self, options: &ClientOptions, default: &ClientOptions) {
        self.millis("maxIdleTimeMS", options.max_idle_time);
        self.number("maxPoolSize", options.max_pool_size, default.max_pool_size);
        self.number("minPoolSize", options.min_pool_size, default.min_pool_size);
        self.number(
            "maxConnecting",
            options.max_connecting,
            default.max_connecting,
        );
        self.millis("waitQueueTimeoutMS", options.wait_queue_timeout);
    }

    fn concerns(&mut self, options: &ClientOptions) {
        let preference = &options.read_preference;
        let mode = Some(preference.mode).filter(|mode| *mode != Default::default());
        self.text("readPreference", mode);
        if !preference.tag_sets.is_empty() {
            let tags = preference.tag_sets.iter().map(|tags| {
                let tags = tags.iter();
                let tags = tags.map(|(name, value)| (name.clone(), Value::Text(value.clone())));
                Value::Table(tags.collect())
            });
            self.push("readPreferenceTags", Value::List(tags.collect()));
        }
        if let Some(staleness) = preference.max_staleness {
            let seconds = in_units(staleness, staleness.as_secs().into(), 1_000_000_000);
            self.push("maxStalenessSeconds", seconds);
        }
        self.text("readConcernLevel", options.read_concern.level.as_deref());
        let concern = &options.write_concern;
        match &concern.w {
            Some(Acknowledgment::Nodes(nodes)) => self.push("w", Value::Number((*nodes).into())),
            Some(Acknowledgment::Tag(tag)) => self.text("w", Some(tag)),
            None => {}
        }
        self.flag("journal", concern.journal);
        self.millis("wTimeoutMS", concern.w_timeout);
    }

    fn tls(&mut self, tls: &TlsOptions) {
        self.flag("tls", tls.enabled);
        self.flag("tlsInsecure", tls.insecure);
        self.flag(
            "tlsAllowInvalidCertificates",
            tls.allow_invalid_certificates,
        );
        self.flag("tlsAllowInvalidHostnames", tls.allow_invalid_hostnames);
        self.path("tlsCAFile", tls.ca_file.as_deref());
        self.path("tlsCertificateKeyFile", tls.certificate_key_file.as_deref());
        let revocation = tls.disable_certificate_revocation_check;
        self.flag("tlsDisableCertificateRevocationCheck", revocation);
        self.flag(
            "tlsDisableOCSPEndpointCheck",
            tls.disable_ocsp_endpoint_check,
        );
        // The pass phrase, which is left out, implies TLS.
        if tls.enabled.is_none() && tls.certificate_key_file_password.is_some() {
            self.flag("tls", Some(true));
        }
    }

    /// A user name without its password would be refused.
    fn proxy(&mut self, proxy: &ProxyOptions) {
        self.text("proxyHost", Some(&proxy.host));
        self.number("proxyPort", proxy.port, ProxyOptions::DEFAULT_PORT);
    }
}

impl Credential {
    /// The fields that are not secret.
    fn public_fields(&self) -> Vec<(String, Value)> {
        let mut fields = Fields::default();
        fields.text("username", self.username());
        fields.text("source", self.source());
        fields.text("mechanism", self.mechanism());
        let mut properties = Fields::default();
        for (name, value) in self.public_properties() {
            properties.text(name, Some(value));
        }
        if !properties.0.is_empty() {
            fields.push("mechanism_properties", Value::Table(properties.0));
        }
        if let Some(hosts) = self.allowed_hosts() {
            fields.push("allowed_hosts", texts(hosts));
        }
        fields.0
    }
}
