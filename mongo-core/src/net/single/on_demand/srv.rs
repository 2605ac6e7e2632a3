//! The lookups of `mongodb+srv`, before a scan.

use std::sync::Arc;

use super::{OnDemandTopology, now};
use crate::error::{Error, Result};
use crate::net::deadline::{Deadline, Elapsed};
use crate::net::transport::dns::{DnsResolver, resolve, srv_lookup, system_random};
use crate::sdam::{Input, SrvPolling, TopologySettings};
use crate::uri::{ClientOptions, RecordType, SrvError};

/// The records to look up, and the resolver.
pub(crate) struct Srv {
    pub(crate) resolver: Arc<dyn DnsResolver>,
    pub(crate) records: Records,
}

pub(crate) enum Records {
    /// There are no hosts yet: the topology was not opened.
    Unresolved(Box<ClientOptions>),
    Polled(SrvPolling),
}

impl Srv {
    /// `None` where there is nothing to look up.
    pub(crate) fn new(
        options: &ClientOptions,
        resolver: Option<Arc<dyn DnsResolver>>,
    ) -> Option<Self> {
        let records = match options.hosts.is_empty() {
            true => Records::Unresolved(Box::new(options.clone())),
            false => Records::Polled(SrvPolling::new(options, now())?),
        };
        Some(Self {
            resolver: resolver?,
            records,
        })
    }
}

/// Rejects options that an on-demand topology does not support.
pub(crate) fn check_balanced(options: &ClientOptions) -> Result<()> {
    match options.load_balanced {
        Some(true) => Err(Error::configuration(
            "`loadBalanced=true` is not supported yet",
        )),
        Some(false) | None => Ok(()),
    }
}

impl OnDemandTopology {
    /// Whether the topology was opened: its hosts are known.
    pub(crate) fn is_open(&self) -> bool {
        let records = self.srv.as_ref().map(|srv| &srv.records);
        !matches!(records, Some(Records::Unresolved(_)))
    }

    /// Looks up the hosts if there are none yet, or again if a lookup is due. A failure of a
    /// repeated lookup changes nothing. May be dropped at any time.
    pub(crate) async fn look_up(&mut self, deadline: Deadline) -> Result<()> {
        let Some(srv) = &mut self.srv else {
            return Ok(());
        };
        let resolver = srv.resolver.clone();
        match &mut srv.records {
            Records::Unresolved(options) => {
                let options = ClientOptions::clone(options);
                let options = resolve(options, &*resolver, system_random, deadline).await?;
                check_balanced(&options)?;
                self.open(&options);
            }
            Records::Polled(polling) => {
                let poll_at = polling.poll_at(self.description.topology_type());
                if poll_at.is_none_or(|at| at > now()) {
                    return Ok(());
                }
                let bound = deadline.within(self.establishers.connect_timeout);
                let lookup = bound.bound(srv_lookup(&*resolver, polling.record_name()));
                let hosts = match lookup.await {
                    Ok(Ok(records)) => polling.handle_records(&records, &mut system_random, now()),
                    Ok(Err(error)) => {
                        polling.handle_failure(&error, now());
                        return Ok(());
                    }
                    Err(Elapsed) => {
                        let unanswered = SrvError::Unanswered {
                            record_type: RecordType::Srv,
                            name: polling.record_name().to_owned(),
                        };
                        polling.handle_failure(&unanswered, now());
                        return Ok(());
                    }
                };
                self.apply(Input::SrvHosts(hosts));
            }
        }
        Ok(())
    }

    /// Opens the topology with the hosts and options that were looked up.
    fn open(&mut self, options: &ClientOptions) {
        self.settings = TopologySettings::from_options(self.settings.topology_id, options);
        self.establishers.authenticator = self.establishers.authenticator.resolved(options);
        self.srv = self
            .srv
            .take()
            .and_then(|srv| Srv::new(options, Some(srv.resolver)));
        self.apply(Input::Connect);
    }
}
