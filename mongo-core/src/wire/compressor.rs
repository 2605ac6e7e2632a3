//! The compression algorithms.

use std::fmt;
use std::str::FromStr;

use crate::settings::{UnknownName, is_named};

/// A compression algorithm for messages (`compressors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compressor {
    /// Snappy.
    Snappy,
    /// Zlib.
    Zlib,
    /// Zstandard.
    Zstd,
}

impl Compressor {
    /// The name in connection strings and in the handshake.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snappy => "snappy",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Without regard to case, `_` and `-`.
impl FromStr for Compressor {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Snappy, Self::Zlib, Self::Zstd]
            .into_iter()
            .find(|compressor| is_named(name, compressor.as_str()))
            .ok_or(UnknownName)
    }
}
