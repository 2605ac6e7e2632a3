//! Sets of servers that are kept in step with a topology.

mod floating;
mod suitable;

pub(super) use floating::Floating;
pub(super) use suitable::Suitable;
