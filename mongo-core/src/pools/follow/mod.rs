//! Sets of servers that follow a topology.

mod floating;
mod suitable;

pub(super) use floating::Floating;
pub(super) use suitable::Suitable;
