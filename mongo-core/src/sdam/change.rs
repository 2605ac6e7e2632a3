//! The events and effects of the step from one description of the topology to the next.

use std::cmp::Ordering;
use std::iter;
use std::sync::Arc;

use bson::oid::ObjectId;

use super::effect::{Effect, Transition};
use super::event::{
    SdamEvent, ServerClosedEvent, ServerDescriptionChangedEvent, ServerOpeningEvent,
    TopologyDescriptionChangedEvent,
};
use super::{ServerDescription, TopologyDescription, TopologySettings};

type Server = Arc<ServerDescription>;

/// Pairs the servers of two descriptions by address. Both are sorted by address.
fn pairs<'t>(
    before: &'t TopologyDescription,
    now: &'t TopologyDescription,
) -> impl Iterator<Item = (Option<&'t Server>, Option<&'t Server>)> {
    let mut before = before.servers.iter().peekable();
    let mut now = now.servers.iter().peekable();
    iter::from_fn(move || {
        let order = match (before.peek(), now.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(now)) => before.address.cmp(&now.address),
        };
        Some((
            before.next_if(|_| order.is_le()),
            now.next_if(|_| order.is_ge()),
        ))
    })
}

/// Collects the events and effects of the difference between two descriptions.
pub(super) struct Change<'a> {
    topology_id: ObjectId,
    load_balanced: bool,
    pub(super) current: &'a Arc<TopologyDescription>,
    pub(super) events: Vec<SdamEvent>,
    pub(super) effects: Vec<Effect>,
}

impl<'a> Change<'a> {
    pub(super) fn new(settings: &TopologySettings, current: &'a Arc<TopologyDescription>) -> Self {
        Self {
            topology_id: settings.topology_id,
            load_balanced: settings.load_balanced,
            current,
            events: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Starts with the server that was heard from. Its own hello may have removed it, which is an
    /// event too.
    pub(super) fn servers_changed(&mut self, next: &TopologyDescription, heard: Option<&Server>) {
        let current = self.current;
        if let Some(heard) = heard
            && let Some(before) = current.server(&heard.address)
        {
            let now = next.server(&heard.address).unwrap_or(heard);
            self.server_changed(before, now);
        }
        let heard = heard.map(|server| &server.address);
        for pair in pairs(current, next) {
            if let (Some(before), Some(now)) = pair
                && Some(&now.address) != heard
            {
                self.server_changed(before, now);
            }
        }
    }

    fn server_changed(&mut self, before: &Server, now: &Server) {
        if before != now {
            self.events.push(SdamEvent::ServerDescriptionChanged(
                ServerDescriptionChangedEvent {
                    topology_id: self.topology_id,
                    address: now.address.clone(),
                    previous_description: before.clone(),
                    new_description: now.clone(),
                },
            ));
        }
    }

    pub(super) fn servers_added(&mut self, next: &TopologyDescription) {
        for pair in pairs(self.current, next) {
            if let (None, Some(server)) = pair {
                let (topology_id, server) = (self.topology_id, server.address.clone());
                let address = server.clone();
                self.events
                    .push(SdamEvent::ServerOpening(ServerOpeningEvent {
                        topology_id,
                        address,
                    }));
                if !self.load_balanced {
                    self.effects.push(Effect::StartMonitor { server });
                }
            }
        }
    }

    pub(super) fn servers_removed(&mut self, next: &TopologyDescription) {
        for pair in pairs(self.current, next) {
            if let (Some(server), None) = pair {
                let (topology_id, server) = (self.topology_id, server.address.clone());
                let address = server.clone();
                self.events.push(SdamEvent::ServerClosed(ServerClosedEvent {
                    topology_id,
                    address,
                }));
                if !self.load_balanced {
                    let server = server.clone();
                    self.effects.push(Effect::StopMonitor { server });
                }
                self.effects.push(Effect::ClosePool { server });
            }
        }
    }

    pub(super) fn topology_changed(&mut self, next: &Arc<TopologyDescription>) {
        if self.current != next {
            self.events.push(SdamEvent::TopologyDescriptionChanged(
                TopologyDescriptionChangedEvent {
                    topology_id: self.topology_id,
                    previous_description: self.current.clone(),
                    new_description: next.clone(),
                },
            ));
        }
    }

    pub(super) fn finish(self, description: Arc<TopologyDescription>) -> Transition {
        Transition {
            description,
            events: self.events,
            effects: self.effects,
        }
    }
}
