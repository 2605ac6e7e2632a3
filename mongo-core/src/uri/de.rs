//! Deserialization of options: a connection string, or a table.

use serde::{Deserialize, Deserializer};

use super::draft::Draft;
use super::table::{OPTIONS, OptionSpec};
use super::value::{Kind, Refused};
use super::{ClientOptions, UriError, parse};
use crate::address::ServerAddress;
use crate::settings::{FromValue, SettingError, Value, normalised, shown_key};

impl<'de> Deserialize<'de> for ClientOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::settings::deserialize(deserializer)
    }
}

impl FromValue for ClientOptions {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        let fields = match value {
            Value::Text(uri) => return Self::parse(&uri).map_err(SettingError::unusable),
            Value::Table(fields) => fields,
            _ => {
                let expected = "a connection string or a table of options";
                return Err(SettingError::expected(expected, &value));
            }
        };
        let mut table = Table::default();
        for (key, value) in fields {
            table.take(&key, value)?;
        }
        table.finish()
    }
}

/// A table of options while it is read.
#[derive(Default)]
struct Table {
    draft: Draft,
    hosts: Option<Vec<ServerAddress>>,
    srv_host: Option<String>,
}

impl Table {
    fn take(&mut self, key: &str, value: Value) -> Result<(), SettingError> {
        let draft = &mut self.draft;
        let options = &mut draft.options;
        let (key, taken) = match &*normalised(key) {
            "hosts" | "host" => ("hosts", value.read().map(|Hosts(hosts)| self.hosts = hosts)),
            "srvhost" => ("srvHost", value.read().map(|name| self.srv_host = name)),
            "username" => ("username", value.read().map(|name| draft.username = name)),
            "password" => (
                "password",
                value.read().map(|secret| draft.password = secret),
            ),
            "database" | "defaultdatabase" => {
                let taken = value.read().map(|name| options.default_database = name);
                ("database", taken)
            }
            "credential" => ("credential", value.read().map(|own| draft.credential = own)),
            "allowplainwithouttls" => {
                let taken = value
                    .read()
                    .map(|flag| options.allow_plain_without_tls = flag);
                ("allow_plain_without_tls", taken)
            }
            "serverapi" => (
                "server_api",
                value.read().map(|api| options.server_api = api),
            ),
            name => {
                let (spec, unit) = find(name).ok_or_else(|| unknown(key))?;
                return match value {
                    Value::Null => Ok(()),
                    value => self.apply(spec, unit, &value),
                };
            }
        };
        taken.map_err(|error| error.within(key))
    }

    fn apply(&mut self, spec: &OptionSpec, unit: Unit, value: &Value) -> Result<(), SettingError> {
        let refused = |expected| {
            SettingError::unusable(UriError::Option {
                option: spec.name,
                expected,
            })
        };
        if let (Unit::Unnamed, Value::Number(_)) = (unit, value) {
            return Err(refused("a duration with its unit, such as \"5s\""));
        }
        match spec.kind.apply_value(&mut self.draft, spec.name, value) {
            Ok(()) => Ok(()),
            Err(Refused::Value(expected)) => Err(refused(expected)),
            Err(Refused::Hard(error)) => Err(SettingError::unusable(error).within(spec.name)),
        }
    }

    fn finish(mut self) -> Result<ClientOptions, SettingError> {
        match (self.srv_host, self.hosts) {
            (Some(_), Some(_)) => {
                return Err(SettingError::unusable(UriError::Conflict {
                    first: "srvHost",
                    second: "hosts",
                }));
            }
            (Some(name), None) => {
                let name = parse::srv_host(&name);
                let name = name.map_err(|error| SettingError::unusable(error).within("srvHost"))?;
                self.draft.set_srv(&name);
            }
            (None, Some(hosts)) => self.draft.options.hosts = hosts,
            (None, None) => {}
        }
        let options = self.draft.finish().and_then(ClientOptions::checked);
        options.map_err(SettingError::unusable)
    }
}

/// Whether a key names the unit of its duration.
#[derive(Clone, Copy)]
enum Unit {
    Named,
    Unnamed,
}

/// Finds an option by its normalised key. The unit of a duration can be omitted from the key.
fn find(key: &str) -> Option<(&'static OptionSpec, Unit)> {
    let current = || OPTIONS.iter().filter(|spec| spec.instead.is_none());
    let named = current().find(|spec| spec.name.eq_ignore_ascii_case(key));
    let unnamed = || {
        current().find(|spec| match spec.kind {
            Kind::Millis(..) => stem(spec.name, "MS").eq_ignore_ascii_case(key),
            Kind::Seconds(..) => stem(spec.name, "Seconds").eq_ignore_ascii_case(key),
            _ => false,
        })
    };
    match named {
        Some(spec) => Some((spec, Unit::Named)),
        None => unnamed().map(|spec| (spec, Unit::Unnamed)),
    }
}

fn stem(name: &'static str, unit: &str) -> &'static str {
    name.strip_suffix(unit).unwrap_or(name)
}

fn unknown(key: &str) -> SettingError {
    match shown_key(key) {
        Some(key) => SettingError::unusable(format_args!("unknown option `{key}`")),
        None => SettingError::unusable("an unknown option"),
    }
}

/// Hosts as a list, or as one comma-separated text.
struct Hosts(Option<Vec<ServerAddress>>);

impl FromValue for Hosts {
    fn from_value(value: Value) -> Result<Self, SettingError> {
        let hosts = match value {
            Value::Null => return Ok(Self(None)),
            Value::Text(text) => text
                .split(',')
                .map(|text| Value::Text(text.to_owned()))
                .collect(),
            Value::List(items) => items,
            _ => return Err(SettingError::expected("a list of hosts and ports", &value)),
        };
        let read = |(number, host): (usize, Value)| {
            host.read().map_err(|error: SettingError| {
                SettingError::unusable(format_args!("host {}: {error}", number + 1))
            })
        };
        let hosts = hosts.into_iter().enumerate().map(read);
        hosts
            .collect::<Result<_, _>>()
            .map(|hosts| Self(Some(hosts)))
    }
}
