//! Authentication on connections: what each mechanism sends, in how many round trips, and what is
//! refused before anything is sent.
//!
//! The servers are scripted, but for the matrix of SCRAM, which also asks a real one.

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
