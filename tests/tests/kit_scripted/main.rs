//! The scripted server over bare sockets.

mod answers;
mod client;
mod faults;
mod scram;
