//! The suites of initial-dns-seedlist-discovery, with a resolver that answers from a table.

mod records;

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use mongo_core::net::{DnsResolver, resolve, system_random};
use mongo_core::uri::{ClientOptions, SrvRecord, TxtRecord};
use mongo_core::{Deadline, ServerAddress};
use serde_json::Value;

use crate::{Outcome, equal, known_keys, options, text};
use records::{SRV, TTL, TXT};

/// What a case says of the deployment behind the hosts. It needs a live topology and is **not
/// checked yet**, in any case of these suites.
const OF_THE_DEPLOYMENT: [&str; 3] = ["hosts", "numHosts", "ping"];

/// What a case says of the connection string and its records. All of it is checked.
const OF_THE_RECORDS: [&str; 7] = [
    "uri",
    "seeds",
    "numSeeds",
    "options",
    "parsed_options",
    "error",
    "comment",
];

/// Runs one case.
pub(crate) fn run(case: &Value) -> Outcome {
    let known = [&OF_THE_RECORDS[..], &OF_THE_DEPLOYMENT].concat();
    known_keys("case", case, &known)?;
    let resolved = look_up(text(case, "uri")?);
    let fails = match &case["error"] {
        Value::Null => false,
        error => error.as_bool().ok_or("error is no truth value")?,
    };
    let found = match (resolved, fails) {
        (Ok(found), false) => found,
        (Err(_), true) => return Ok(()),
        (Ok(_), true) => return Err("was taken".to_owned()),
        (Err(error), false) => return Err(format!("was refused: {error}")),
    };
    check_seeds(&found.hosts, case)?;
    options::check(&found, &case["options"])?;
    check_parsed_options(&found, &case["parsed_options"])
}

fn look_up(uri: &str) -> Result<ClientOptions, String> {
    let options = ClientOptions::parse(uri).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| error.to_string())?;
    let deadline = Deadline::after(Duration::from_secs(60));
    runtime
        .block_on(resolve(options, &Table, system_random, deadline))
        .map_err(|error| error.to_string())
}

/// A name server that knows the records of the tests.
struct Table;

/// The rows of a name.
fn rows<T: Copy>(table: &[(&str, T)], name: &str) -> Vec<T> {
    let rows = table.iter().filter(|(row, _)| *row == name);
    rows.map(|(_, value)| *value).collect()
}

#[async_trait]
impl DnsResolver for Table {
    async fn srv_lookup(&self, name: &str) -> io::Result<Vec<SrvRecord>> {
        let rows = rows(SRV, name).into_iter();
        let records = rows.map(|(port, target)| SrvRecord {
            target: format!("{target}."),
            port,
            priority: 0,
            weight: 0,
            ttl: TTL,
        });
        Ok(records.collect())
    }

    async fn txt_lookup(&self, name: &str) -> io::Result<Vec<TxtRecord>> {
        let rows = rows(TXT, name).into_iter();
        let records = rows.map(|strings| TxtRecord {
            strings: strings.iter().map(|part| part.as_bytes().into()).collect(),
        });
        Ok(records.collect())
    }
}

/// The seeds are a set.
fn check_seeds(found: &[ServerAddress], case: &Value) -> Outcome {
    let found: BTreeSet<_> = found.iter().map(ToString::to_string).collect();
    if let Some(seeds) = case.get("seeds") {
        let seeds = seeds.as_array().ok_or("seeds is no array")?;
        let expected = seeds.iter().map(|seed| seed.as_str().map(str::to_owned));
        let expected: Option<BTreeSet<_>> = expected.collect();
        equal("seeds", Some(&found), expected.as_ref())?;
    }
    match case.get("numSeeds") {
        None => Ok(()),
        Some(number) => equal("numSeeds", Some(found.len() as u64), number.as_u64()),
    }
}

fn check_parsed_options(found: &ClientOptions, expected: &Value) -> Outcome {
    let Some(expected) = expected.as_object() else {
        return Ok(());
    };
    let credential = found.credential.as_ref();
    for (key, expected) in expected {
        let value = match &**key {
            "user" => credential.and_then(|it| it.username()).map(|name| &**name),
            "password" => credential
                .and_then(|it| it.password())
                .map(|it| it.expose()),
            "auth_database" | "db" | "defaultDatabase" => found.default_database.as_deref(),
            _ => {
                return Err(format!(
                    "the runner does not know the parsed option {key:?}"
                ));
            }
        };
        equal(key, value, expected.as_str())?;
    }
    Ok(())
}
