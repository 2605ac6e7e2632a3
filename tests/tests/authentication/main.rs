//! Authentication on connections: the messages of each mechanism, the number of round trips, and
//! errors before anything is sent.
//!
//! The servers are scripted. The SCRAM matrix also uses a real server.

mod allowed_hosts;
mod aws;
mod endpoint;
mod mechanisms;
mod metadata;
mod oidc;
mod panics;
mod provider;
mod reauthentication;
mod scram;
mod sources;
mod support;
