//! Which servers an operation may use.

mod read_preference;

pub use read_preference::{ReadPreference, ReadPreferenceError, ReadPreferenceMode, TagSet};
