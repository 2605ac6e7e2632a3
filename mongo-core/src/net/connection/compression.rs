use crate::uri::{ClientOptions, Compressor};

/// The compression settings of a client.
#[derive(Clone, Default)]
pub(crate) struct Compression {
    /// The compressors to offer, in order of preference. All are in this build.
    pub(super) compressors: Vec<Compressor>,
    pub(super) zlib_level: i8,
}

impl Compression {
    /// As configured in the options, without compressors that are not in this build. Each of those
    /// logs a warning, as an unknown compressor does.
    pub(crate) fn from_options(options: &ClientOptions) -> Self {
        let (compressors, absent): (Vec<_>, Vec<_>) = options
            .compressors
            .iter()
            .partition(|compressor| compressor.is_built_in());
        for compressor in absent {
            tracing::warn!(
                "compressors: {compressor} is not in this build of mongo-core: it needs the feature \
                 `{compressor}`"
            );
        }
        Self {
            compressors,
            zlib_level: options.zlib_compression_level,
        }
    }
}
