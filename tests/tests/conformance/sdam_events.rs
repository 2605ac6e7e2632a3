//! Events of server discovery and monitoring, in the notation of the tests.

use bson::oid::ObjectId;
use mongo_core::ServerAddress;
use mongo_core::event::SdamEvent;
use mongo_core::sdam::{ServerDescription, TopologyDescription};
use serde_json::{Value, json};

use crate::sdam::shown_type;
use crate::{Outcome, equal, known_keys};

/// Compares events with those of a test, which omits absent fields of descriptions.
pub(crate) fn check(id: ObjectId, found: &[SdamEvent], expected: &[Value]) -> Outcome {
    let shown: Vec<Value> = found.iter().map(shown).collect();
    let names = |events: &[Value]| events.iter().map(name).collect::<Vec<_>>();
    equal("events", names(&shown), names(expected))?;
    for (index, (found, expected)) in shown.iter().zip(expected).enumerate() {
        let name = name(expected);
        let (found, expected) = (&found[&name], &expected[&name]);
        let known = [
            "topologyId",
            "address",
            "previousDescription",
            "newDescription",
        ];
        known_keys(&name, expected, &known)?;
        for key in &known[1..] {
            let what = format!("event {index}, {name}, {key}");
            equal(&what, &found[key], &expected[key])?;
        }
    }
    let ids = found.iter().all(|event| event.topology_id() == id);
    equal("all of one topology", ids, true)
}

/// The only key of an event.
fn name(event: &Value) -> String {
    let keys = event.as_object().into_iter().flat_map(|event| event.keys());
    keys.cloned().collect()
}

fn shown(event: &SdamEvent) -> Value {
    match event {
        SdamEvent::TopologyOpening(_) => json!({ "topology_opening_event": {} }),
        SdamEvent::TopologyClosed(_) => json!({ "topology_closed_event": {} }),
        SdamEvent::TopologyDescriptionChanged(event) => json!({
            "topology_description_changed_event": {
                "previousDescription": topology(&event.previous_description),
                "newDescription": topology(&event.new_description),
            }
        }),
        SdamEvent::ServerOpening(event) => json!({
            "server_opening_event": { "address": event.address.to_string() }
        }),
        SdamEvent::ServerClosed(event) => json!({
            "server_closed_event": { "address": event.address.to_string() }
        }),
        SdamEvent::ServerDescriptionChanged(event) => json!({
            "server_description_changed_event": {
                "address": event.address.to_string(),
                "previousDescription": server(None, &event.previous_description),
                "newDescription": server(None, &event.new_description),
            }
        }),
        other => json!({ "unexpected": format!("{other:?}") }),
    }
}

fn topology(description: &TopologyDescription) -> Value {
    let servers = description.servers().iter();
    let servers: Vec<Value> = servers.map(|own| server(Some(description), own)).collect();
    let mut shown = json!({
        "topologyType": description.topology_type().as_str(),
        "servers": servers,
    });
    if let Some(name) = description.set_name() {
        shown["setName"] = json!(&**name);
    }
    shown
}

fn server(topology: Option<&TopologyDescription>, description: &ServerDescription) -> Value {
    let shown_list =
        |list: &[ServerAddress]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
    let mut shown = json!({
        "address": description.address.to_string(),
        "arbiters": shown_list(&description.arbiters),
        "hosts": shown_list(&description.hosts),
        "passives": shown_list(&description.passives),
        "type": match topology {
            Some(topology) => shown_type(topology, description),
            None => description.server_type.to_string(),
        },
    });
    if let Some(name) = &description.set_name {
        shown["setName"] = json!(&**name);
    }
    if let Some(primary) = &description.primary {
        shown["primary"] = json!(primary.to_string());
    }
    shown
}
