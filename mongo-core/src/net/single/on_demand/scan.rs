//! Checks of servers.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;

use super::link::{Answer, Check, Checked, Link};
use super::{OnDemandTopology, now};
use crate::ServerAddress;
use crate::error::{Error, Result};
use crate::event::{
    SdamEvent, ServerHeartbeatFailedEvent, ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
};
use crate::net::deadline::Deadline;
use crate::net::transport::together::Together;
use crate::sdam::{
    Input, MonitorSettings, SYSTEM_OVERLOADED_ERROR, SdamError, ServerDescription, ServerType,
    is_long_hello,
};

impl OnDemandTopology {
    /// Checks all servers concurrently, at most until `deadline`.
    pub(super) async fn scan(&mut self, deadline: Deadline) -> Result<()> {
        self.scan.begin(now());
        self.look_up(deadline).await?;
        let mut running = Together::new();
        let mut is_cut_short = false;
        loop {
            for server in self.scan.next_checks(&self.description) {
                if let Some(check) = self.begin_check(&server) {
                    running.push(server, check.run(deadline));
                }
            }
            // A drop here loses only the unfinished checks.
            let Some((server, checked)) = running.next().await else {
                break;
            };
            is_cut_short |= checked.is_cut_short;
            let answer = checked.outcome.as_ref();
            let is_long = answer.is_ok_and(|answer| is_long_hello(&answer.reply));
            self.end_check(&server, checked);
            if is_long {
                yield_now().await;
            }
            running.retain(|server| self.members.contains_key(server));
        }
        match is_cut_short {
            true => self.scan.end_early(),
            false => self.scan.end(now()),
        }
        Ok(())
    }

    /// Checks one server whose connection was lost or idle. Returns the error if that failed.
    pub(crate) async fn check(
        &mut self,
        server: &ServerAddress,
        deadline: Deadline,
    ) -> Option<Error> {
        let checked = self.begin_check(server)?.run(deadline).await;
        self.end_check(server, checked)
    }

    fn begin_check(&mut self, server: &ServerAddress) -> Option<Check> {
        let topology_id = self.settings.topology_id;
        let declares_api = self.establishers.server_api.is_some();
        let hello_ok = self.description.server(server)?.hello_ok;
        let member = self.members.get_mut(server)?;
        let link = member.link.take();
        let id = self.next_connection;
        self.next_connection += 1;
        let is_modern = hello_ok && !member.refuses_hello || declares_api;
        let settings = MonitorSettings::new(topology_id, server.clone());
        let may_choose = is_modern && !declares_api;
        let check = Check {
            establisher: member.establisher.clone(),
            id,
            hello: settings.hello(is_modern, None),
            legacy_hello: may_choose.then(|| settings.hello(false, None)),
            link,
        };
        let event = ServerHeartbeatStartedEvent {
            topology_id,
            address: server.clone(),
            driver_connection_id: Some(check.link.as_ref().map_or(id, |link| link.id)),
            server_connection_id: check.link.as_ref().and_then(|link| link.server_id),
            awaited: false,
        };
        self.publish(&SdamEvent::ServerHeartbeatStarted(event));
        Some(check)
    }

    fn end_check(&mut self, server: &ServerAddress, checked: Checked) -> Option<Error> {
        let Checked {
            outcome,
            duration,
            is_cut_short,
        } = checked;
        let Answer {
            reply,
            link,
            refuses_hello,
        } = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.publish_failure(server, None, duration, &error);
                match is_cut_short {
                    // It had too little time to count as unreachable.
                    true => self.mark_unknown(server, error.clone()),
                    false => self.fail_check(server, None, error.clone()),
                }
                return Some(error);
            }
        };
        let mut description = ServerDescription::from_hello(server.clone(), &reply, now());
        if let Some(SdamError::Failed(error)) = description.error {
            self.publish_failure(server, link.as_ref(), duration, &error);
            self.fail_check(server, link, error.clone());
            return Some(error);
        }
        let member = self.members.get_mut(server)?;
        member.refuses_hello |= refuses_hello;
        member.round_trip_time.record(duration);
        description.round_trip_time = member.round_trip_time.average();
        description.min_round_trip_time = Some(member.round_trip_time.minimum());
        let event = ServerHeartbeatSucceededEvent {
            topology_id: self.settings.topology_id,
            address: server.clone(),
            driver_connection_id: link.as_ref().map(|link| link.id),
            server_connection_id: link.as_ref().and_then(|link| link.server_id),
            duration,
            reply,
            awaited: false,
        };
        member.link = link;
        self.scan.handle_answer(server);
        self.publish(&SdamEvent::ServerHeartbeatSucceeded(event));
        self.apply(Input::Check(Arc::new(description)));
        None
    }

    fn publish_failure(
        &self,
        server: &ServerAddress,
        link: Option<&Link>,
        duration: Duration,
        error: &Error,
    ) {
        let event = ServerHeartbeatFailedEvent {
            topology_id: self.settings.topology_id,
            address: server.clone(),
            driver_connection_id: link.map(|link| link.id),
            server_connection_id: link.and_then(|link| link.server_id),
            duration,
            failure: error.clone(),
            awaited: false,
        };
        self.publish(&SdamEvent::ServerHeartbeatFailed(event));
    }

    fn fail_check(&mut self, server: &ServerAddress, link: Option<Link>, error: Error) {
        let was_known = self
            .description
            .server(server)
            .is_some_and(|known| known.server_type != ServerType::Unknown);
        let Some(member) = self.members.get_mut(server) else {
            return;
        };
        // The server is overloaded, and its description stays valid.
        if was_known && error.has_label(SYSTEM_OVERLOADED_ERROR) {
            member.link = link;
            return self.scan.handle_answer(server);
        }
        member.round_trip_time.reset();
        self.scan.handle_failure(server, &error, was_known, now());
        self.mark_unknown(server, error);
    }

    /// Marks a server unknown, as a failed check does.
    pub(crate) fn mark_unknown(&mut self, server: &ServerAddress, error: Error) {
        let failed = ServerDescription::failed(server.clone(), error, now());
        self.apply(Input::Check(Arc::new(failed)));
    }
}
