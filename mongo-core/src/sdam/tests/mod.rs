//! The tests of server discovery and monitoring, and their common code.

mod application_error;
mod heartbeat;
mod hello;
mod probe;
mod properties;
mod transition;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bson::oid::ObjectId;
use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::address::ServerAddress;
use crate::error::Error;
use crate::event::SdamEvent;

fn address(text: &str) -> ServerAddress {
    text.parse().expect("an address")
}

fn seeds(list: &[&str]) -> TopologySettings {
    TopologySettings::new(id(42), list.iter().map(|text| address(text)))
}

/// An id that sorts by its number.
fn id(number: u8) -> ObjectId {
    let mut bytes = [0; 12];
    bytes[11] = number;
    ObjectId::from_bytes(bytes)
}

fn network_error() -> Error {
    Error::network(io::ErrorKind::ConnectionReset.into())
}

/// A hello of a member of the replica set `rs` with the hosts a, b and c.
fn member(role: &str) -> RawDocumentBuf {
    let mut reply = rawdoc! {
        "ok": 1, "helloOk": true, "setName": "rs", "setVersion": 1, "hosts": ["a", "b", "c"],
        "minWireVersion": 0, "maxWireVersion": 25,
    };
    match role {
        "primary" => {
            reply.append(bson::raw::cstr!("isWritablePrimary"), true);
            reply.append(bson::raw::cstr!("electionId"), id(1));
        }
        "secondary" => reply.append(bson::raw::cstr!("secondary"), true),
        other => panic!("no role {other}"),
    }
    reply
}

fn checked(server: &str, reply: &RawDocumentBuf) -> Arc<ServerDescription> {
    let server = address(server);
    Arc::new(ServerDescription::from_hello(server, reply, Instant::now()))
}

/// A topology with its events and effects since the last look.
struct Run {
    settings: TopologySettings,
    description: Arc<TopologyDescription>,
    events: Vec<String>,
    effects: Vec<Effect>,
}

impl Run {
    fn connected(settings: TopologySettings) -> Self {
        let mut run = Self {
            settings,
            description: Arc::default(),
            events: Vec::new(),
            effects: Vec::new(),
        };
        run.apply(Input::Connect);
        run
    }

    fn apply(&mut self, input: Input) {
        let transition = apply(&self.settings, &self.description, input);
        self.description = transition.description;
        self.events.extend(transition.events.iter().map(shown));
        self.effects.extend(transition.effects);
    }

    fn hello(&mut self, server: &str, reply: &RawDocumentBuf) {
        self.apply(Input::Check(checked(server, reply)));
    }

    fn lose(&mut self, server: &str, error: Error) {
        let failed = ServerDescription::failed(address(server), error, Instant::now());
        self.apply(Input::Check(Arc::new(failed)));
    }

    fn take(&mut self) -> (Vec<String>, Vec<Effect>) {
        (
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.effects),
        )
    }

    /// The topology's type, and its servers with their types.
    fn shown(&self) -> String {
        let mut shown = self.description.topology_type().to_string();
        for server in self.description.servers() {
            let host = server.address.host().unwrap_or_default();
            shown += &format!(" {host}={}", server.server_type);
        }
        shown
    }

    fn server(&self, server: &str) -> &ServerDescription {
        let server = self.description.server(&address(server));
        server.expect("a server of the topology")
    }
}

/// An event in short.
fn shown(event: &SdamEvent) -> String {
    let server = event.address().and_then(ServerAddress::host).unwrap_or("-");
    match event {
        SdamEvent::TopologyOpening(_) => "topology opening".to_owned(),
        SdamEvent::TopologyDescriptionChanged(event) => {
            let (before, now) = (&event.previous_description, &event.new_description);
            format!(
                "topology {}->{}",
                before.topology_type(),
                now.topology_type()
            )
        }
        SdamEvent::TopologyClosed(_) => "topology closed".to_owned(),
        SdamEvent::ServerOpening(_) => format!("{server} opening"),
        SdamEvent::ServerDescriptionChanged(event) => {
            let (before, now) = (&event.previous_description, &event.new_description);
            format!("{server} {}->{}", before.server_type, now.server_type)
        }
        SdamEvent::ServerClosed(_) => format!("{server} closed"),
        SdamEvent::ServerHeartbeatStarted(event) => format!("started {}", event.awaited),
        SdamEvent::ServerHeartbeatSucceeded(event) => {
            format!("succeeded {} {:?}", event.awaited, event.duration)
        }
        SdamEvent::ServerHeartbeatFailed(event) => {
            format!("failed {} {:?}", event.awaited, event.duration)
        }
    }
}
