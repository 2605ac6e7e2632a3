//! TLS: whom a client trusts, and what it shows of itself.

mod callbacks;
mod certificates;
mod files;
mod idle;
mod real;
mod support;
mod topology;
