//! The suites of server discovery and monitoring: they apply responses and errors, and compare the
//! topology or the events.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bson::oid::ObjectId;
use bson::{RawDocumentBuf, serialize_to_raw_document_buf};
use mongo_core::error::{Error, Wait};
use mongo_core::event::SdamEvent;
use mongo_core::sdam::{
    ApplicationError, Effect, ErrorPhase, Input, ServerDescription, ServerType,
    TopologyDescription, TopologySettings, apply,
};
use mongo_core::uri::ClientOptions;
use mongo_core::{ErrorKind, ServerAddress};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Outcome, equal, known_keys, sdam_events, text};

/// A topology, and the part of its pools that the tests compare.
struct Client {
    settings: TopologySettings,
    description: Arc<TopologyDescription>,
    events: Vec<SdamEvent>,
    generations: HashMap<ServerAddress, u64>,
}

/// Runs one case.
pub(crate) fn run(case: &Value) -> Outcome {
    known_keys("case", case, &["description", "uri", "phases"])?;
    let options = ClientOptions::parse(text(case, "uri")?).map_err(|error| error.to_string())?;
    let mut client = Client {
        settings: TopologySettings::from_options(ObjectId::new(), &options),
        description: Arc::default(),
        events: Vec::new(),
        generations: HashMap::new(),
    };
    client.apply(Input::Connect);
    for (number, phase) in list(case, "phases")?.iter().enumerate() {
        client
            .run_phase(phase)
            .map_err(|message| format!("phase {number}: {message}"))?;
    }
    Ok(())
}

impl Client {
    fn run_phase(&mut self, phase: &Value) -> Outcome {
        let known = ["description", "responses", "applicationErrors", "outcome"];
        known_keys("phase", phase, &known)?;
        for response in phase["responses"].as_array().into_iter().flatten() {
            self.respond(response)?;
        }
        for error in phase["applicationErrors"].as_array().into_iter().flatten() {
            self.fail(error)?;
        }
        let outcome = &phase["outcome"];
        match outcome.get("events") {
            Some(_) => {
                known_keys("outcome", outcome, &["events"])?;
                let events = std::mem::take(&mut self.events);
                sdam_events::check(self.settings.topology_id, &events, list(outcome, "events")?)
            }
            None => self.check(outcome),
        }
    }

    fn apply(&mut self, input: Input) {
        let transition = apply(&self.settings, &self.description, input);
        self.description = transition.description;
        self.events.extend(transition.events);
        for effect in transition.effects {
            match effect {
                Effect::StartMonitor { server } => {
                    self.generations.insert(server, 0);
                }
                Effect::ClearPool { server, .. } => {
                    *self.generations.entry(server).or_default() += 1;
                }
                Effect::ClosePool { server } => {
                    self.generations.remove(&server);
                }
                _ => {}
            }
        }
    }

    fn respond(&mut self, response: &Value) -> Outcome {
        let server = address(response[0].as_str())?;
        let now = Instant::now();
        let lost = response[1]
            .as_object()
            .is_some_and(|reply| reply.is_empty());
        let description = match lost {
            true => ServerDescription::failed(server, network_error(), now),
            false => ServerDescription::from_hello(server, &document(&response[1])?, now),
        };
        self.apply(Input::Check(Arc::new(description)));
        Ok(())
    }

    fn fail(&mut self, given: &Value) -> Outcome {
        let known = [
            "address",
            "generation",
            "maxWireVersion",
            "when",
            "type",
            "response",
        ];
        known_keys("applicationError", given, &known)?;
        let server = address(given["address"].as_str())?;
        let phase = match text(given, "when")? {
            "beforeHandshakeCompletes" => ErrorPhase::Establishment,
            "afterHandshakeCompletes" => ErrorPhase::Completed,
            other => return Err(format!("when: {other:?}")),
        };
        let error = match text(given, "type")? {
            "network" => ApplicationError::new(server, network_error(), phase),
            "timeout" => {
                let error = Error::timeout(Wait::Command, std::time::Duration::from_secs(1));
                ApplicationError::new(server, error, phase)
            }
            "command" => match command_error(server, phase, &document(&given["response"])?) {
                Some(error) => error,
                None => return Ok(()),
            },
            other => return Err(format!("type: {other:?}")),
        };
        let pool = self.generations.get(&error.server).copied();
        let pool = pool.unwrap_or_default();
        let own = given["generation"].as_u64().unwrap_or(pool);
        self.apply(Input::ApplicationError(error.with_generations(own, pool)));
        Ok(())
    }

    fn check(&self, outcome: &Value) -> Outcome {
        let known = [
            "servers",
            "topologyType",
            "setName",
            "logicalSessionTimeoutMinutes",
            "maxSetVersion",
            "maxElectionId",
            "compatible",
        ];
        known_keys("outcome", outcome, &known)?;
        let found = &self.description;
        let max = found.max_election();
        let shown = json!({
            "topologyType": found.topology_type().as_str(),
            "setName": found.set_name().map(|name| &**name),
            "logicalSessionTimeoutMinutes": found.logical_session_timeout_minutes(),
            "maxSetVersion": max.set_version,
            "maxElectionId": max.election_id,
            "compatible": found.compatibility_error().is_none(),
        });
        for key in &known[1..] {
            if let Some(expected) = outcome.get(key) {
                equal(key, &shown[key], expected)?;
            }
        }
        let servers = outcome["servers"].as_object().ok_or("servers is no map")?;
        let addresses: Vec<String> = found
            .servers()
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        let expected: Vec<String> = servers.keys().cloned().collect();
        equal("servers", addresses, expected)?;
        for (key, expected) in servers {
            let server = found.server(&address(Some(key))?).ok_or("lost")?;
            self.check_server(server, expected)
                .map_err(|message| format!("{key}: {message}"))?;
        }
        Ok(())
    }

    fn check_server(&self, server: &ServerDescription, expected: &Value) -> Outcome {
        // An unknown version is the default here, and null in the tests.
        let told = |version: i32| match server.server_type {
            ServerType::LoadBalancer if version == 0 => None,
            _ => Some(version),
        };
        let shown = json!({
            "type": shown_type(&self.description, server),
            "setName": server.set_name.as_deref(),
            "setVersion": server.set_version,
            "electionId": server.election_id,
            "logicalSessionTimeoutMinutes": server.logical_session_timeout_minutes,
            "minWireVersion": told(server.min_wire_version),
            "maxWireVersion": told(server.max_wire_version),
            "topologyVersion": server.topology_version.map(|version| json!({
                "processId": version.process_id,
                "counter": { "$numberLong": version.counter.to_string() },
            })),
            "pool": { "generation": self.generations.get(&server.address) },
        });
        for (key, value) in expected.as_object().ok_or("the server is no map")? {
            match (key.as_str(), shown.get(key)) {
                ("error", None) => {
                    let part = value.as_str().ok_or("error is no text")?;
                    let error = server.error.as_ref().ok_or("there is no error")?;
                    equal("error has it", error.to_string().contains(part), true)?;
                }
                (_, Some(found)) => equal(key, found, value)?,
                (_, None) => return Err(format!("the runner does not know the key {key:?}")),
            }
        }
        Ok(())
    }
}

/// The server type, including `PossiblePrimary`, which the topology tracks separately.
pub(crate) fn shown_type(topology: &TopologyDescription, server: &ServerDescription) -> String {
    let possible = topology.possible_primary();
    match server.server_type {
        ServerType::Unknown if possible.is_some_and(|own| own.address == server.address) => {
            "PossiblePrimary".to_owned()
        }
        other => other.to_string(),
    }
}

fn command_error(
    server: ServerAddress,
    phase: ErrorPhase,
    reply: &RawDocumentBuf,
) -> Option<ApplicationError> {
    match mongo_core::reply::check_ok(reply) {
        Ok(()) => ApplicationError::from_write_concern_error(server, reply),
        Err(error) => Some(ApplicationError::new(server, error, phase)),
    }
}

fn network_error() -> Error {
    Error::new(ErrorKind::Network(Arc::new(
        io::ErrorKind::ConnectionReset.into(),
    )))
}

fn address(text: Option<&str>) -> Result<ServerAddress, String> {
    let text = text.ok_or("the address is no text")?;
    text.parse()
        .map_err(|error| format!("address {text:?}: {error}"))
}

fn document(value: &Value) -> Result<RawDocumentBuf, String> {
    bson::Document::deserialize(value)
        .map_err(|error| error.to_string())
        .and_then(|document| {
            serialize_to_raw_document_buf(&document).map_err(|error| error.to_string())
        })
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value[key]
        .as_array()
        .ok_or_else(|| format!("{key} is no list"))
}
