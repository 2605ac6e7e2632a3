//! Options by serde: a connection string, or a table.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::draft::Draft;
use super::table::{OPTIONS, OptionSpec};
use super::value::{Kind, Refused, Value};
use super::{ClientOptions, UriError, parse};
use crate::address::ServerAddress;
use crate::auth::Secret;

impl<'de> Deserialize<'de> for ClientOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OptionsVisitor)
    }
}

struct OptionsVisitor;

impl<'de> Visitor<'de> for OptionsVisitor {
    type Value = ClientOptions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection string or a table of options")
    }

    fn visit_str<E: de::Error>(self, uri: &str) -> Result<ClientOptions, E> {
        ClientOptions::parse(uri).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ClientOptions, A::Error> {
        let mut table = Table::default();
        while let Some(key) = map.next_key::<String>()? {
            match &*normalised(&key) {
                "hosts" | "host" => table.hosts = map.next_value::<Hosts>()?.0,
                "srvhost" => table.srv_host = map.next_value()?,
                "username" => table.draft.username = map.next_value()?,
                "password" => table.draft.password = map.next_value::<Option<Secret>>()?,
                "database" | "defaultdatabase" => {
                    table.draft.options.default_database = map.next_value()?;
                }
                "credential" => table.draft.credential = map.next_value()?,
                "allowplainwithouttls" => {
                    table.draft.options.allow_plain_without_tls = map.next_value()?;
                }
                "serverapi" => table.draft.options.server_api = map.next_value()?,
                name => {
                    let (spec, unit) = find(name).ok_or_else(|| unknown(&key))?;
                    let Some(value) = map.next_value::<Nullable>()?.0 else {
                        continue;
                    };
                    table.apply(spec, unit, &value).map_err(de::Error::custom)?;
                }
            }
        }
        table.finish().map_err(de::Error::custom)
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
    fn apply(&mut self, spec: &OptionSpec, unit: Unit, value: &Value) -> Result<(), UriError> {
        let refused = |expected| UriError::Option {
            option: spec.name,
            expected,
        };
        if let (Unit::Unnamed, Value::Number(_)) = (unit, value) {
            return Err(refused("a duration with its unit, such as \"5s\""));
        }
        match spec.kind.apply_value(&mut self.draft, spec.name, value) {
            Ok(()) => Ok(()),
            Err(Refused::Value(expected)) => Err(refused(expected)),
            Err(Refused::Hard(error)) => Err(error),
        }
    }

    fn finish(mut self) -> Result<ClientOptions, UriError> {
        match (self.srv_host, self.hosts) {
            (Some(_), Some(_)) => {
                return Err(UriError::Conflict {
                    first: "srvHost",
                    second: "hosts",
                });
            }
            (Some(name), None) => self.draft.set_srv(&parse::srv_host(&name)?),
            (None, Some(hosts)) => self.draft.options.hosts = hosts,
            (None, None) => {}
        }
        self.draft.finish()?.checked()
    }
}

/// Whether a key names the unit of its time.
#[derive(Clone, Copy)]
enum Unit {
    Named,
    Unnamed,
}

/// A key without regard to case, underscores and hyphens.
fn normalised(key: &str) -> String {
    key.chars()
        .filter(|character| !matches!(character, '_' | '-'))
        .map(|character| character.to_ascii_lowercase())
        .collect()
}

/// The option of a normalised key. A time can be named without its unit.
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

fn unknown<E: de::Error>(key: &str) -> E {
    let shown: String = key.chars().take(64).collect();
    E::custom(format_args!("the option {shown:?} is not known"))
}

/// Hosts as a list, or as one text with commas.
struct Hosts(Option<Vec<ServerAddress>>);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts: Vec<String> = match Nullable::deserialize(deserializer)?.0 {
            None => return Ok(Self(None)),
            Some(Value::Text(text)) => text.split(',').map(str::to_owned).collect(),
            Some(Value::List(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::Text(text) => Ok(text),
                    _ => Err(de::Error::custom("a host is not a text")),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(de::Error::custom("hosts is not a list of texts")),
        };
        texts
            .iter()
            .map(|text| text.parse().map_err(de::Error::custom))
            .collect::<Result<_, _>>()
            .map(|hosts| Self(Some(hosts)))
    }
}

/// Any value, or none.
struct Nullable(Option<Value>);

impl<'de> Deserialize<'de> for Nullable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Nullable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a truth value, a whole number, a text, a list or a table")
    }

    fn visit_unit<E>(self) -> Result<Nullable, E> {
        Ok(Nullable(None))
    }

    fn visit_none<E>(self) -> Result<Nullable, E> {
        Ok(Nullable(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Nullable, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Nullable, E> {
        Ok(Nullable(Some(Value::Flag(value))))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Nullable, E> {
        Ok(Nullable(Some(Value::Number(value))))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Nullable, E> {
        i64::try_from(value)
            .map(|value| Nullable(Some(Value::Number(value))))
            .map_err(|_| E::custom("a number is too large"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Nullable, E> {
        Ok(Nullable(Some(Value::Text(value.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Nullable, A::Error> {
        let mut items = Vec::new();
        while let Some(Nullable(item)) = seq.next_element()? {
            items.extend(item);
        }
        Ok(Nullable(Some(Value::List(items))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Nullable, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, Nullable(value))) = map.next_entry()? {
            fields.extend(value.map(|value| (name, value)));
        }
        Ok(Nullable(Some(Value::Table(fields))))
    }
}
