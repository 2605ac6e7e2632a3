//! From one description of the topology to the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::application_error::{ApplicationError, Consequence};
use super::change::Change;
use super::effect::{CheckReason, Effect, Transition};
use super::event::{SdamEvent, TopologyClosedEvent, TopologyOpeningEvent};
use super::update::{MAX_SERVERS, Update};
use super::{
    SdamError, ServerDescription, ServerType, TopologyDescription, TopologySettings, TopologyType,
    TopologyVersion,
};
use crate::address::ServerAddress;

/// An input to a topology.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// Start monitoring the seeds. Pass it once, and again only after [`Input::Close`]. The current
    /// description must be the [default](TopologyDescription::default).
    Connect,
    /// Close the topology: it has no servers and no monitors any more.
    Close,
    /// A server was checked, or an application's connection completed its handshake:
    /// [`ServerDescription::from_hello`] or, for checks only, [`ServerDescription::failed`].
    ///
    /// It makes the pool ready and the server known, so don't pass one from a monitor that was
    /// stopped or from a connection that is older than the pool's generation.
    ///
    /// Without a round trip time, the known one stays.
    Check(Arc<ServerDescription>),
    /// An application's connection failed, or a command on it.
    ApplicationError(ApplicationError),
    /// The verified hosts of the SRV records, in random order: with `srvMaxHosts`, the first are
    /// taken. An empty list changes nothing.
    SrvHosts(Vec<ServerAddress>),
}

/// Applies an input to a topology. Only one writer may call it at a time, with the description that
/// the last call returned.
///
/// Specifications: server discovery and monitoring, its logging and monitoring, load balancers,
/// polling SRV records.
pub fn apply(
    settings: &TopologySettings,
    current: &Arc<TopologyDescription>,
    input: Input,
) -> Transition {
    match input {
        Input::Connect => connect(settings),
        Input::Close => close(settings, current),
        Input::Check(description) => check(settings, current, description),
        Input::ApplicationError(error) => application_error(settings, current, &error),
        Input::SrvHosts(hosts) => srv_hosts(settings, current, &hosts),
    }
}

fn connect(settings: &TopologySettings) -> Transition {
    let topology_id = settings.topology_id;
    let unknown = Arc::new(TopologyDescription::default());
    let initial = Arc::new(settings.initial_description());
    if initial.servers.is_empty() {
        tracing::warn!("the topology has no seeds; server selection will always fail");
    }
    let mut change = Change::new(settings, &unknown);
    let opening = TopologyOpeningEvent { topology_id };
    change.events.push(SdamEvent::TopologyOpening(opening));
    change.topology_changed(&initial);
    change.servers_added(&initial);
    if initial.topology_type != TopologyType::LoadBalanced {
        return change.finish(initial);
    }
    // The load balancer is never checked: its type comes from the options.
    let balancers = settings.seeds.iter().cloned();
    let balanced = Arc::new(TopologyDescription::new(
        TopologyType::LoadBalanced,
        None,
        balancers.map(ServerDescription::load_balancer),
    ));
    change.current = &initial;
    change.servers_changed(&balanced, None);
    change.topology_changed(&balanced);
    for server in &balanced.servers {
        let server = server.address.clone();
        change.effects.push(Effect::ReadyPool { server });
    }
    change.finish(balanced)
}

fn close(settings: &TopologySettings, current: &Arc<TopologyDescription>) -> Transition {
    let unknown = Arc::new(TopologyDescription::default());
    let mut change = Change::new(settings, current);
    change.servers_removed(&unknown);
    change.topology_changed(&unknown);
    let topology_id = settings.topology_id;
    let closed = TopologyClosedEvent { topology_id };
    change.events.push(SdamEvent::TopologyClosed(closed));
    change.finish(unknown)
}

fn check(
    settings: &TopologySettings,
    current: &Arc<TopologyDescription>,
    mut description: Arc<ServerDescription>,
) -> Transition {
    let Some(known) = current.server(&description.address) else {
        return Transition::nothing(current);
    };
    if known.server_type == ServerType::LoadBalancer
        || is_stale_hello(known.topology_version, description.topology_version)
    {
        return Transition::nothing(current);
    }
    let is_known = description.server_type != ServerType::Unknown;
    if is_known && description.round_trip_time.is_none() {
        let description = Arc::make_mut(&mut description);
        description.round_trip_time = known.round_trip_time;
        description.min_round_trip_time = known.min_round_trip_time;
    }
    let mut transition = server_changed(settings, current, &description);
    let effect = match &description.error {
        Some(error) => Some(Effect::ClearPool {
            server: description.address.clone(),
            service_id: None,
            interrupt_in_use: matches!(error, SdamError::Failed(error) if error.is_timeout()),
        }),
        None => transition.ready_pool(&description.address),
    };
    transition.effects.extend(effect);
    transition
}

fn application_error(
    settings: &TopologySettings,
    current: &Arc<TopologyDescription>,
    error: &ApplicationError,
) -> Transition {
    let Some(known) = current.server(&error.server) else {
        return Transition::nothing(current);
    };
    let balanced = known.server_type == ServerType::LoadBalancer;
    let consequence = error.consequence(known.server_type, known.topology_version);
    let (topology_version, clears, check) = match consequence {
        Consequence::None => return Transition::nothing(current),
        Consequence::StateChange {
            topology_version,
            reason,
            clears_pool,
        } => {
            let server = error.server.clone();
            let request = Effect::RequestCheck { server, reason };
            (topology_version, clears_pool, request)
        }
        Consequence::Unreachable => {
            let server = error.server.clone();
            (None, true, Effect::CancelCheck { server })
        }
    };
    if balanced {
        // The load balancer's type never changes, and it has no monitor. Without a service there is
        // nothing to clear.
        let mut transition = Transition::nothing(current);
        let clear = error.service_id.map(|id| error.clear_pool(Some(id)));
        transition.effects.extend(clear.filter(|_| clears));
        return transition;
    }
    let unknown = Arc::new(ServerDescription {
        error: Some(SdamError::Failed(error.error.clone())),
        topology_version,
        last_update_time: known.last_update_time,
        ..ServerDescription::unknown(error.server.clone())
    });
    let mut transition = server_changed(settings, current, &unknown);
    let clear = clears.then(|| error.clear_pool(None));
    transition.effects.extend(clear);
    transition.effects.push(check);
    transition
}

/// Only a topology that is sharded, or may still become so, follows its SRV records.
fn srv_hosts(
    settings: &TopologySettings,
    current: &Arc<TopologyDescription>,
    hosts: &[ServerAddress],
) -> Transition {
    match current.topology_type {
        TopologyType::Unknown | TopologyType::Sharded if !hosts.is_empty() => {}
        TopologyType::Unknown
        | TopologyType::Sharded
        | TopologyType::Single
        | TopologyType::ReplicaSetNoPrimary
        | TopologyType::ReplicaSetWithPrimary
        | TopologyType::LoadBalanced => return Transition::nothing(current),
    }
    let mut update = Update::new(settings, current);
    let mut seen = BTreeSet::new();
    // In the order given, which is random if `srvMaxHosts` limits them.
    let listed: Vec<_> = hosts.iter().filter(|host| seen.insert(*host)).collect();
    update.retain(|address| seen.contains(address));
    let limit = match settings.srv_max_hosts {
        0 => MAX_SERVERS,
        limit => limit.min(MAX_SERVERS),
    };
    update.add_all(&listed, limit);
    let mut next = update.next;
    next.summarize();
    let next = Arc::new(next);
    let mut change = Change::new(settings, current);
    change.servers_added(&next);
    change.servers_removed(&next);
    change.topology_changed(&next);
    change.finish(next)
}

/// Handles a server's new description, from any source.
fn server_changed(
    settings: &TopologySettings,
    current: &Arc<TopologyDescription>,
    description: &Arc<ServerDescription>,
) -> Transition {
    let mut update = Update::new(settings, current);
    update.server(description);
    let former_primary = update.former_primary;
    let mut next = update.next;
    next.summarize();
    if next.servers.is_empty() {
        let last = &description.address;
        tracing::warn!("removed the last server, {last}: it does not belong to the topology");
    }
    let next = Arc::new(next);
    let mut change = Change::new(settings, current);
    change.servers_changed(&next, Some(description));
    change.servers_added(&next);
    change.servers_removed(&next);
    change.topology_changed(&next);
    // The same hello may have removed it.
    if let Some(server) = former_primary.filter(|server| next.server(server).is_some()) {
        let reason = CheckReason::NewerPrimary;
        change.effects.push(Effect::RequestCheck { server, reason });
    }
    change.finish(next)
}

/// Whether a reply is stale: from the same process and older than the known version.
fn is_stale_hello(known: Option<TopologyVersion>, reported: Option<TopologyVersion>) -> bool {
    match (known, reported) {
        (Some(known), Some(reported)) => {
            known.process_id == reported.process_id && known.counter > reported.counter
        }
        (None, _) | (_, None) => false,
    }
}

impl Transition {
    fn nothing(current: &Arc<TopologyDescription>) -> Self {
        Self {
            description: current.clone(),
            events: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// After a successful check, if the server is data-bearing, or of any known type in a topology
    /// of type `Single`.
    fn ready_pool(&self, address: &ServerAddress) -> Option<Effect> {
        let server_type = self.description.server(address)?.server_type;
        let direct = self.description.topology_type == TopologyType::Single;
        (server_type.is_data_bearing() || direct && server_type != ServerType::Unknown).then(|| {
            Effect::ReadyPool {
                server: address.clone(),
            }
        })
    }
}
