//! A status page for operators, to be mounted in a web service: the deployment and its servers, the
//! pools, wait times and recent events. It updates itself each second. A second address for
//! operators, which is not public, should serve it: it shows hosts, users and error messages.
//!
//! [`StatusPage`] is a `tower` service and an actix handler. It is one resource, at any path:
//!
//! | request | response |
//! |---|---|
//! | `GET /status` | the page, one HTML file without external parts |
//! | `GET /status?json` | the numbers that it shows |
//!
//! ```
//! # use mongo_core::event::EventHandlers;
//! # use mongo_examples::backend::Config;
//! use mongo_examples::status::{RecentEvents, StatusPage};
//!
//! # fn build(config: Config) -> Result<(), mongo_core::Error> {
//! let events = RecentEvents::default();
//! let pools = config
//!     .pools_builder()?
//!     .event_handlers(events.handlers(EventHandlers::new()))
//!     .on_sdam(events.sdam_handler())
//!     .build()?;
//! let page = StatusPage::new(&pools, &events);
//!
//! let axum: axum::Router = axum::Router::new().route_service("/status", page.clone());
//! let actix = actix_web::App::new().route("/status", actix_web::web::to(page));
//! # drop((axum, actix));
//! # Ok(())
//! # }
//! ```
//!
//! # Safety
//! Names of servers and sets, and error messages, come from the network. They are only in the JSON,
//! bounded in number and length; the page's script shows them as text, and its content security
//! policy allows no other script. Connection strings, passwords, commands and replies are not in
//! it, nor what a server says about a failed command, because that may quote a document.
//!
//! A request waits for nothing and checks out no connection.

mod actix;
mod events;
mod report;
mod resource;
#[cfg(test)]
mod tests;
mod tower;

pub use events::{Level, RecentEvent, RecentEvents};

use crate::backend::Pools;

/// A status page over pools. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatusPage {
    pools: Pools,
    events: RecentEvents,
}

impl StatusPage {
    /// A page of these pools, those of all their credentials, and of events that were recorded.
    pub fn new(pools: &Pools, events: &RecentEvents) -> Self {
        Self {
            pools: pools.clone(),
            events: events.clone(),
        }
    }
}
