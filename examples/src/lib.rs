//! The backend that the examples run on, chosen by this crate's features: `deadpool` (the default)
//! or `bb8`. If both are on, bb8 is used.

#[cfg(feature = "bb8")]
pub use mongo_bb8 as backend;
#[cfg(all(feature = "deadpool", not(feature = "bb8")))]
pub use mongo_deadpool as backend;

#[cfg(not(any(feature = "deadpool", feature = "bb8")))]
compile_error!("choose a backend: the feature `deadpool` or the feature `bb8`");

mod fatal;
pub mod service;
pub mod status;

pub use fatal::Fatal;
