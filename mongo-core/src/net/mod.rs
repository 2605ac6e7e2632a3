//! Sockets, timers and tasks.
