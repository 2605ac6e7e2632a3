//! The suites server-selection and max-staleness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongo_core::ServerAddress;
use mongo_core::bson::DateTime;
use mongo_core::sdam::{ServerDescription, ServerType, TopologyDescription, TopologyType};
use mongo_core::select::{
    Criterion, ReadPreference, ReadPreferenceMode, SelectionIndex, SelectionOptions, ServerEntry,
    TagSet,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{Outcome, equal, known_keys, text};

/// Runs one case of server-selection/server_selection or of max-staleness.
pub(crate) fn run(case: &Value) -> Outcome {
    let known = [
        "heartbeatFrequencyMS",
        "topology_description",
        "operation",
        "read_preference",
        "deprioritized_servers",
        "suitable_servers",
        "in_latency_window",
        "error",
    ];
    known_keys("case", case, &known)?;
    let fails = case["error"].as_bool().unwrap_or(false);
    let criterion = match criterion(case)? {
        Ok(criterion) => criterion,
        Err(error) => return equal(&format!("error ({error})"), true, fails),
    };
    let mut options = SelectionOptions::default();
    if let Some(frequency) = case["heartbeatFrequencyMS"].as_u64() {
        options.heartbeat_frequency = Duration::from_millis(frequency);
    }
    let index = SelectionIndex::new(topology(case)?, options);
    let deprioritized: Vec<_> = addresses(&case["deprioritized_servers"])?
        .into_iter()
        .collect();
    let suitable = match index.suitable(&criterion, &deprioritized) {
        Ok(suitable) => suitable,
        Err(error) => return equal(&format!("error ({error})"), true, fails),
    };
    equal("error", false, fails)?;
    equal(
        "suitable servers",
        names(suitable),
        addresses(&case["suitable_servers"])?,
    )?;
    let window = addresses(&case["in_latency_window"])?;
    let found = index
        .in_window(&criterion, &deprioritized)
        .map_err(|error| error.to_string())?;
    equal(
        "servers in the latency window",
        names(found),
        window.clone(),
    )?;
    // Enough draws for each server to be selected.
    let mut random = Random(0);
    let mut drawn = BTreeSet::new();
    for _ in 0..64 {
        let found = index.select(&criterion, &deprioritized, random.next());
        drawn.extend(names(found.map_err(|error| error.to_string())?));
    }
    equal("selected servers", drawn, window)
}

/// Runs one case of server-selection/in_window.
pub(crate) fn run_in_window(case: &Value) -> Outcome {
    let known = [
        "description",
        "topology_description",
        "mocked_topology_state",
        "iterations",
        "outcome",
    ];
    known_keys("case", case, &known)?;
    let index = SelectionIndex::new(topology(case)?, SelectionOptions::default());
    let mut running = Vec::new();
    for state in list(&case["mocked_topology_state"])? {
        known_keys("state", state, &["address", "operation_count"])?;
        let server = index.server(&address(state)?).ok_or("no such server")?;
        let count = state["operation_count"].as_u64().ok_or("no count")?;
        running.extend((0..count).map(|_| server.begin_operation()));
    }
    let iterations = case["iterations"].as_u64().ok_or("no iterations")?;
    let nearest = Criterion::read(ReadPreference::new(ReadPreferenceMode::Nearest))
        .map_err(|error| error.to_string())?;
    let mut random = Random(0);
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..iterations {
        let server = index
            .select(&nearest, &[], random.next())
            .map_err(|error| error.to_string())?
            .ok_or("no server was selected")?;
        *times.entry(server.address().to_string()).or_default() += 1;
    }
    let outcome = &case["outcome"];
    known_keys("outcome", outcome, &["tolerance", "expected_frequencies"])?;
    let tolerance = outcome["tolerance"].as_f64().ok_or("no tolerance")?;
    let expected = outcome["expected_frequencies"]
        .as_object()
        .ok_or("no frequencies")?;
    for (server, expected) in expected {
        let expected = expected.as_f64().ok_or("no frequency")?;
        let times = times.get(server).copied().unwrap_or_default();
        let found = f64::from(times) / iterations as f64;
        let exact = expected == 0.0 || expected == 1.0;
        let allowed = if exact { 0.0 } else { tolerance };
        if (found - expected).abs() > allowed {
            return Err(format!("{server}: found {found}, expected {expected}"));
        }
    }
    Ok(())
}

/// Deterministic random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// The criterion, or the reason why it is refused.
fn criterion(case: &Value) -> Result<Result<Criterion, String>, String> {
    match &case["operation"] {
        Value::Null => {}
        Value::String(operation) if operation == "read" => {}
        Value::String(operation) if operation == "write" => return Ok(Ok(Criterion::write())),
        other => return Err(format!("unknown operation {other}")),
    }
    let given = &case["read_preference"];
    known_keys(
        "read_preference",
        given,
        &["mode", "tag_sets", "maxStalenessSeconds"],
    )?;
    let mut preference = ReadPreference::default();
    if let Some(mode) = given["mode"].as_str() {
        let mut lower = mode.to_owned();
        lower[..1].make_ascii_lowercase();
        preference.mode = lower.parse().map_err(|error| format!("{mode}: {error}"))?;
    }
    if let Some(sets) = given.get("tag_sets") {
        preference.tag_sets =
            Vec::<TagSet>::deserialize(sets).map_err(|error| error.to_string())?;
    }
    if let Some(seconds) = given.get("maxStalenessSeconds") {
        let seconds = seconds.as_u64().ok_or("a negative staleness")?;
        preference.max_staleness = Some(Duration::from_secs(seconds));
    }
    Ok(Criterion::read(preference).map_err(|error| error.to_string()))
}

fn topology(case: &Value) -> Result<Arc<TopologyDescription>, String> {
    let given = &case["topology_description"];
    known_keys("topology_description", given, &["type", "servers"])?;
    let name = text(given, "type")?;
    let topology_type = TopologyType::ALL
        .into_iter()
        .find(|known| known.as_str() == name)
        .ok_or_else(|| format!("unknown topology type {name}"))?;
    let start = Instant::now();
    let servers = list(&given["servers"])?
        .iter()
        .map(|given| server(given, start))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(TopologyDescription::new(
        topology_type,
        None,
        servers,
    )))
}

fn server(given: &Value, start: Instant) -> Result<ServerDescription, String> {
    let known = [
        "address",
        "type",
        "avg_rtt_ms",
        "tags",
        "lastUpdateTime",
        "lastWrite",
        "maxWireVersion",
    ];
    known_keys("server", given, &known)?;
    let mut server = ServerDescription::unknown(address(given)?);
    server.server_type = match text(given, "type")? {
        // Only the order of a single-threaded client's checks distinguishes them.
        "PossiblePrimary" => ServerType::Unknown,
        name => ServerType::ALL
            .into_iter()
            .find(|known| known.as_str() == name)
            .ok_or_else(|| format!("unknown server type {name}"))?,
    };
    let milliseconds = given["avg_rtt_ms"].as_f64();
    server.round_trip_time = milliseconds.map(|time| Duration::from_secs_f64(time / 1000.0));
    if let Some(tags) = given.get("tags") {
        server.tags = TagSet::deserialize(tags).map_err(|error| error.to_string())?;
    }
    if let Some(time) = given["lastUpdateTime"].as_u64() {
        server.last_update_time = Some(start + Duration::from_millis(time));
    }
    if let Some(write) = given.get("lastWrite") {
        known_keys("lastWrite", write, &["lastWriteDate"])?;
        let date = &write["lastWriteDate"];
        known_keys("lastWriteDate", date, &["$numberLong"])?;
        let date = text(date, "$numberLong")?.parse();
        let date = date.map_err(|error| format!("lastWriteDate: {error}"))?;
        server.last_write_date = Some(DateTime::from_millis(date));
    }
    // By default a version that every driver supports.
    let version = given["maxWireVersion"].as_i64().unwrap_or(21);
    server.max_wire_version = i32::try_from(version).map_err(|error| error.to_string())?;
    Ok(server)
}

fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(values) => Ok(values),
        other => Err(format!("{other} is no array")),
    }
}

fn address(server: &Value) -> Result<ServerAddress, String> {
    let address = text(server, "address")?;
    address
        .parse()
        .map_err(|error| format!("{address}: {error}"))
}

fn addresses(servers: &Value) -> Result<BTreeSet<ServerAddress>, String> {
    list(servers)?.iter().map(address).collect()
}

fn names<'a>(servers: impl IntoIterator<Item = &'a Arc<ServerEntry>>) -> BTreeSet<ServerAddress> {
    let servers = servers.into_iter();
    servers.map(|server| server.address().clone()).collect()
}
