//! Operations on `Pools` and `Connection`, for either backend: each test runs for deadpool and for
//! bb8.

#[macro_use]
mod support;

mod attacks;
mod commands;
mod connection_cursors;
mod cursor_calls;
mod cursors;
mod exhaust;
mod exhaust_failures;
mod interactions;
mod leftovers;
mod malformed_commands;
mod nameless_users;
mod pinning;
mod principals;
mod prose;
mod real;
mod retries;
mod rotation;
mod sessions;
mod transactions;
mod with_transaction;
