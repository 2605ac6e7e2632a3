//! The suites: which folders run, and by what.

use serde_json::Value;

use crate::{
    Outcome, cmap, concern, credential, round_trip_time, sdam, selection, srv, unified, uri,
};

/// One folder of JSON files, including its subfolders. A case is an entry of a file's `tests`, or
/// else the file itself.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) folder: &'static str,
    /// The number of cases in it, to detect an incomplete folder.
    pub(crate) cases: usize,
    pub(crate) run: fn(&Value) -> Outcome,
}

const CMAP: &str = "connection-monitoring-and-pooling/tests/cmap-format";

pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "connection-string",
        folder: "connection-string/tests",
        cases: 98,
        run: uri::run,
    },
    Suite {
        name: "uri-options",
        folder: "uri-options/tests",
        cases: 159,
        run: uri::run,
    },
    Suite {
        name: "auth",
        folder: "auth/tests/legacy",
        cases: 67,
        run: credential::run,
    },
    Suite {
        name: "read-write-concern/connection-string",
        folder: "read-write-concern/tests/connection-string",
        cases: 18,
        run: concern::run_connection_string,
    },
    Suite {
        name: "read-write-concern/document",
        folder: "read-write-concern/tests/document",
        cases: 20,
        run: concern::run_document,
    },
    Suite {
        name: "server-selection/server_selection",
        folder: "server-selection/tests/server_selection",
        cases: 88,
        run: selection::run,
    },
    Suite {
        name: "server-selection/in_window",
        folder: "server-selection/tests/in_window",
        cases: 8,
        run: selection::run_in_window,
    },
    Suite {
        name: "max-staleness",
        folder: "max-staleness/tests",
        cases: 32,
        run: selection::run,
    },
    Suite {
        name: "sdam/rs",
        folder: "server-discovery-and-monitoring/tests/rs",
        cases: 77,
        run: sdam::run,
    },
    Suite {
        name: "sdam/single",
        folder: "server-discovery-and-monitoring/tests/single",
        cases: 19,
        run: sdam::run,
    },
    Suite {
        name: "sdam/sharded",
        folder: "server-discovery-and-monitoring/tests/sharded",
        cases: 9,
        run: sdam::run,
    },
    Suite {
        name: "sdam/load-balanced",
        folder: "server-discovery-and-monitoring/tests/load-balanced",
        cases: 1,
        run: sdam::run,
    },
    Suite {
        name: "sdam/errors",
        folder: "server-discovery-and-monitoring/tests/errors",
        cases: 72,
        run: sdam::run,
    },
    Suite {
        name: "sdam/monitoring",
        folder: "server-discovery-and-monitoring/tests/monitoring",
        cases: 8,
        run: sdam::run,
    },
    Suite {
        name: "server-selection/rtt",
        folder: "server-selection/tests/rtt",
        cases: 7,
        run: round_trip_time::run,
    },
    Suite {
        name: "srv/replica-set",
        folder: "initial-dns-seedlist-discovery/tests/replica-set",
        cases: 40,
        run: srv::run_replica_set,
    },
    Suite {
        name: "srv/sharded",
        folder: "initial-dns-seedlist-discovery/tests/sharded",
        cases: 4,
        run: srv::run_sharded,
    },
    Suite {
        name: "srv/load-balanced",
        folder: "initial-dns-seedlist-discovery/tests/load-balanced",
        cases: 9,
        run: srv::run_load_balanced,
    },
    Suite {
        name: "cmap/deadpool",
        folder: CMAP,
        cases: 33,
        run: cmap::run_on_deadpool,
    },
    Suite {
        name: "cmap/bb8",
        folder: CMAP,
        cases: 33,
        run: cmap::run_on_bb8,
    },
    Suite {
        name: "versioned-api",
        folder: "versioned-api/tests",
        cases: 41,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "auth/unified",
        folder: "auth/tests/unified",
        cases: 6,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "sdam/unified/deadpool",
        folder: "server-discovery-and-monitoring/tests/unified",
        cases: 54,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "sdam/unified/bb8",
        folder: "server-discovery-and-monitoring/tests/unified",
        cases: 54,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "server-selection/logging",
        folder: "server-selection/tests/logging",
        cases: 11,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "cmap/logging/deadpool",
        folder: "connection-monitoring-and-pooling/tests/logging",
        cases: 7,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "cmap/logging/bb8",
        folder: "connection-monitoring-and-pooling/tests/logging",
        cases: 7,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "command/monitoring",
        folder: "command-logging-and-monitoring/tests/monitoring",
        cases: 35,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "command/logging",
        folder: "command-logging-and-monitoring/tests/logging",
        cases: 30,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "mongodb-handshake",
        folder: "mongodb-handshake/tests/unified",
        cases: 1,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "run-command",
        folder: "run-command/tests/unified",
        cases: 21,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "sessions/deadpool",
        folder: "sessions/tests",
        cases: 39,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "sessions/bb8",
        folder: "sessions/tests",
        cases: 39,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "retryable-reads/deadpool",
        folder: "retryable-reads/tests/unified",
        cases: 57,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "retryable-reads/bb8",
        folder: "retryable-reads/tests/unified",
        cases: 57,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "retryable-writes/deadpool",
        folder: "retryable-writes/tests/unified",
        cases: 54,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "retryable-writes/bb8",
        folder: "retryable-writes/tests/unified",
        cases: 54,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "client-backpressure/deadpool",
        folder: "client-backpressure/tests",
        cases: 103,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "client-backpressure/bb8",
        folder: "client-backpressure/tests",
        cases: 103,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "client-side-operations-timeout",
        folder: "client-side-operations-timeout/tests",
        cases: 67,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "load-balancers/deadpool",
        folder: "load-balancers/tests",
        cases: 40,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "load-balancers/bb8",
        folder: "load-balancers/tests",
        cases: 40,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "transactions/deadpool",
        folder: "transactions/tests/unified",
        cases: 82,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "transactions/bb8",
        folder: "transactions/tests/unified",
        cases: 82,
        run: unified::run_on_bb8,
    },
    Suite {
        name: "open-telemetry",
        folder: "open-telemetry/tests/operation",
        cases: 5,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "unified-test-format/valid-pass",
        folder: "unified-test-format/tests/valid-pass",
        cases: 82,
        run: unified::run_on_deadpool,
    },
    Suite {
        name: "unified-test-format/valid-fail",
        folder: "unified-test-format/tests/valid-fail",
        cases: 31,
        run: unified::run_invalid,
    },
];
