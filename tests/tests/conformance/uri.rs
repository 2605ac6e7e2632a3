//! The suites connection-string and uri-options.

use std::net::Ipv4Addr;

use mongo_core::ServerAddress;
use mongo_core::address::DEFAULT_PORT;
use mongo_core::uri::ClientOptions;
use serde_json::Value;

use crate::{Outcome, equal, known_keys, options, parsed, text};

/// Runs one case of the format that both suites share. A null asserts nothing.
pub(crate) fn run(case: &Value) -> Outcome {
    let known = [
        "description",
        "uri",
        "valid",
        "warning",
        "hosts",
        "auth",
        "options",
    ];
    known_keys("case", case, &known)?;
    let Some(found) = parsed(case)? else {
        return Ok(());
    };
    if let Some(warning) = case["warning"].as_bool() {
        let warned = !found.warnings().is_empty();
        equal("warning", warned, warning)
            .map_err(|message| format!("{message}: {:?}", found.warnings()))?;
    }
    check_hosts(&found, &case["hosts"])?;
    check_auth(&found, &case["auth"])?;
    options::check(&found, &case["options"])
}

fn check_hosts(found: &ClientOptions, hosts: &Value) -> Outcome {
    let Some(hosts) = hosts.as_array() else {
        return Ok(());
    };
    equal("number of hosts", found.hosts.len(), hosts.len())?;
    for (found, expected) in found.hosts.iter().zip(hosts) {
        known_keys("host", expected, &["type", "host", "port"])?;
        equal("type of host", kind(found), text(expected, "type")?)?;
        let name = match found {
            ServerAddress::Tcp { host, .. } => host.to_string(),
            ServerAddress::Unix { path } => path.display().to_string(),
            other => return Err(format!("{other} is of no known type")),
        };
        equal("host", name.as_str(), text(expected, "host")?)?;
        let port = match (&expected["port"], found) {
            (Value::Null, ServerAddress::Tcp { .. }) => Some(DEFAULT_PORT.into()),
            (port, _) => port.as_u64(),
        };
        equal("port", found.port().map(u64::from), port)?;
    }
    Ok(())
}

fn kind(address: &ServerAddress) -> &'static str {
    match address {
        ServerAddress::Unix { .. } => "unix",
        ServerAddress::Tcp { host, .. } if host.contains(':') => "ip_literal",
        ServerAddress::Tcp { host, .. } if host.parse::<Ipv4Addr>().is_ok() => "ipv4",
        ServerAddress::Tcp { .. } => "hostname",
        _ => "unknown",
    }
}

/// Stricter than the format: a null in `auth` asserts absence.
fn check_auth(found: &ClientOptions, auth: &Value) -> Outcome {
    if auth.is_null() {
        return Ok(());
    }
    known_keys("auth", auth, &["username", "password", "db"])?;
    let credential = found.credential.as_ref();
    let username = credential.and_then(|credential| credential.username());
    let password = credential.and_then(|credential| credential.password());
    equal(
        "username",
        username.map(|name| &**name),
        auth["username"].as_str(),
    )?;
    equal(
        "password",
        password.map(|password| password.expose()),
        auth["password"].as_str(),
    )?;
    equal(
        "database",
        found.default_database.as_deref(),
        auth["db"].as_str(),
    )
}
