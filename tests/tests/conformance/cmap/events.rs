//! Events of connection monitoring and pooling, in the notation of the cases.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::event::{CmapEvent, EventHandlers, PoolCreatedOptions};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::{Outcome, known_keys};

/// Placeholders for any value.
const ANYTHING: [&str; 2] = ["42", "\"42\""];

/// The events of a pool, in order.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Inner>);

#[derive(Default)]
struct Inner {
    events: Mutex<Vec<Value>>,
    arrived: Notify,
}

impl Watched {
    /// Records events. Divides their durations by `stretch`.
    pub(super) fn handlers(&self, stretch: u32) -> EventHandlers {
        let inner = self.0.clone();
        EventHandlers::new().on_cmap(move |event| {
            inner
                .events
                .lock()
                .expect("no panic")
                .push(shown(event, stretch));
            inner.arrived.notify_waiters();
        })
    }

    pub(super) fn so_far(&self) -> Vec<Value> {
        self.0.events.lock().expect("no panic").clone()
    }

    /// Waits until there have been `count` events with this name.
    pub(super) async fn wait_for(&self, name: &str, count: u64) {
        loop {
            let mut arrived = pin!(self.0.arrived.notified());
            // Enabled before the check, so that no event between the two is missed.
            arrived.as_mut().enable();
            let events = self.so_far();
            let found = events.iter().filter(|event| event["type"] == name);
            if u64::try_from(found.count()).unwrap_or(u64::MAX) >= count {
                return;
            }
            arrived.await;
        }
    }
}

/// Compares events, except ignored ones, with the first events that a case expects.
pub(super) fn check(found: &[Value], expected: &Value, ignored: &Value) -> Outcome {
    let ignored: Vec<&Value> = ignored.as_array().into_iter().flatten().collect();
    let mut found = found
        .iter()
        .filter(|event| !ignored.contains(&&event["type"]));
    for (index, expected) in expected.as_array().into_iter().flatten().enumerate() {
        let known = [
            "type",
            "address",
            "connectionId",
            "duration",
            "options",
            "reason",
            "interruptInUseConnections",
        ];
        known_keys("event", expected, &known)?;
        let what = format!("event {index}");
        let found = found.next();
        let found = found.ok_or_else(|| format!("{what}: there is none, expected {expected}"))?;
        fits(&what, found, expected)?;
    }
    Ok(())
}

/// Checks whether a value matches a case's value, as the format defines it.
pub(super) fn fits(what: &str, found: &Value, expected: &Value) -> Outcome {
    if ANYTHING.contains(&expected.to_string().as_str()) {
        return match found {
            Value::Null => Err(format!("{what}: missing")),
            _ => Ok(()),
        };
    }
    match expected {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| fits(&format!("{what}[{index}]"), &found[index], item)),
        Value::Object(fields) => fields
            .iter()
            .try_for_each(|(key, value)| fits(&format!("{what}, {key}"), &found[key], value)),
        _ => match found == expected {
            true => Ok(()),
            false => Err(format!("{what}: found {found}, expected {expected}")),
        },
    }
}

fn shown(event: &CmapEvent, stretch: u32) -> Value {
    let mut shown = Map::new();
    let mut set = |name: &str, value: Value| {
        shown.insert(name.to_owned(), value);
    };
    set("address", json!(event.address().to_string()));
    if let Some(id) = event.driver_connection_id() {
        set("connectionId", json!(id));
    }
    let name = match event {
        CmapEvent::PoolCreated(event) => {
            set("options", options(&event.options, stretch));
            "ConnectionPoolCreated"
        }
        CmapEvent::PoolReady(_) => "ConnectionPoolReady",
        CmapEvent::PoolCleared(event) => {
            let interrupts = event.interrupt_in_use_connections;
            set("interruptInUseConnections", json!(interrupts));
            "ConnectionPoolCleared"
        }
        CmapEvent::PoolClosed(_) => "ConnectionPoolClosed",
        CmapEvent::ConnectionCreated(_) => "ConnectionCreated",
        CmapEvent::ConnectionReady(event) => {
            set("duration", millis(event.duration, stretch));
            "ConnectionReady"
        }
        CmapEvent::ConnectionClosed(event) => {
            set("reason", json!(event.reason.to_string()));
            "ConnectionClosed"
        }
        CmapEvent::ConnectionCheckOutStarted(_) => "ConnectionCheckOutStarted",
        CmapEvent::ConnectionCheckOutFailed(event) => {
            set("duration", millis(event.duration, stretch));
            set("reason", json!(event.reason.to_string()));
            "ConnectionCheckOutFailed"
        }
        CmapEvent::ConnectionCheckedOut(event) => {
            set("duration", millis(event.duration, stretch));
            "ConnectionCheckedOut"
        }
        CmapEvent::ConnectionCheckedIn(_) => "ConnectionCheckedIn",
        _ => "unknown",
    };
    set("type", json!(name));
    Value::Object(shown)
}

fn options(options: &PoolCreatedOptions, stretch: u32) -> Value {
    let time = |time: Option<Duration>| time.map(|time| millis(time, stretch));
    let all = [
        ("maxPoolSize", options.max_pool_size.map(Value::from)),
        ("minPoolSize", options.min_pool_size.map(Value::from)),
        ("maxConnecting", options.max_connecting.map(Value::from)),
        ("maxIdleTimeMS", time(options.max_idle_time)),
        ("waitQueueTimeoutMS", time(options.wait_queue_timeout)),
    ];
    let set = all.into_iter();
    set.filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

fn millis(time: Duration, stretch: u32) -> Value {
    json!(u64::try_from((time / stretch).as_millis()).unwrap_or(u64::MAX))
}
