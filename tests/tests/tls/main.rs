//! TLS: verification of servers, and client certificates.

mod callbacks;
mod certificates;
mod files;
mod idle;
mod real;
mod support;
mod topology;
