//! Read preferences.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bson::{Bson, Document, doc};

use crate::settings::is_named;

/// Names and values of tags, all of which a server must have. An empty set matches any server.
pub type TagSet = BTreeMap<String, String>;

/// The type of member that is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadPreferenceMode {
    /// The primary only. The default.
    #[default]
    Primary,
    /// The primary, or a secondary if there is no primary.
    PrimaryPreferred,
    /// A secondary only.
    Secondary,
    /// A secondary, or the primary if no secondary is suitable.
    SecondaryPreferred,
    /// Any member within the latency window.
    Nearest,
}

impl ReadPreferenceMode {
    const ALL: [Self; 5] = [
        Self::Primary,
        Self::PrimaryPreferred,
        Self::Secondary,
        Self::SecondaryPreferred,
        Self::Nearest,
    ];

    /// The mode's name in connection strings and in `$readPreference`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::PrimaryPreferred => "primaryPreferred",
            Self::Secondary => "secondary",
            Self::SecondaryPreferred => "secondaryPreferred",
            Self::Nearest => "nearest",
        }
    }
}

impl fmt::Display for ReadPreferenceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Without regard to case, `_` and `-`.
impl FromStr for ReadPreferenceMode {
    type Err = ReadPreferenceError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|mode| is_named(name, mode.as_str()))
            .ok_or(ReadPreferenceError::Mode)
    }
}

/// A read preference that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadPreferenceError {
    /// The mode is not one of [`ReadPreferenceMode`].
    #[error(
        "the read preference's mode is none of primary, primaryPreferred, secondary, \
         secondaryPreferred and nearest"
    )]
    Mode,
    /// Tags select among secondaries, but there is only one primary.
    #[error("the read preference primary takes no tags")]
    PrimaryWithTags,
    /// The primary is never stale.
    #[error("the read preference primary takes no maximum staleness")]
    PrimaryWithMaxStaleness,
    /// A maximum staleness must be positive; `None` is no limit.
    #[error("the maximum staleness is zero")]
    ZeroMaxStaleness,
}

/// A read preference: the members of a replica set that may be read from. The default is the
/// primary.
///
/// Specification: server selection, max staleness. The deprecated `hedge` is not supported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ReadPreference {
    /// The type of member (`readPreference`).
    pub mode: ReadPreferenceMode,
    /// Tag sets in order of preference: the first one that matches an eligible server is used
    /// (`readPreferenceTags`). Empty matches all.
    pub tag_sets: Vec<TagSet>,
    /// How far a secondary may lag behind (`maxStalenessSeconds`). `None` is no limit. With a
    /// replica set it must be at least 90 s, and at least the heartbeat frequency plus 10 s; server
    /// selection checks this.
    pub max_staleness: Option<Duration>,
}

impl ReadPreference {
    /// A mode without tags or a maximum staleness.
    pub fn new(mode: ReadPreferenceMode) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }

    /// Sets the tag sets, in order of preference.
    #[must_use]
    pub fn with_tag_sets(mut self, tag_sets: Vec<TagSet>) -> Self {
        self.tag_sets = tag_sets;
        self
    }

    /// Sets how far a secondary may lag behind.
    #[must_use]
    pub fn with_max_staleness(mut self, limit: Duration) -> Self {
        self.max_staleness = Some(limit);
        self
    }

    /// The value of a command's `$readPreference`: the mode, the tag sets if there are any, and
    /// `maxStalenessSeconds` in whole seconds, rounded up.
    ///
    /// A command is sent as it is, and a secondary refuses a read without this
    /// (`NotPrimaryNoSecondaryOk`, code 13435). Add it to each read on a connection that was
    /// checked out for another mode than [`Primary`](ReadPreferenceMode::Primary):
    ///
    /// ```
    /// use bson::doc;
    /// use mongo_core::select::{ReadPreference, ReadPreferenceMode};
    ///
    /// let preference = ReadPreference::new(ReadPreferenceMode::SecondaryPreferred);
    /// let find = doc! { "find": "users", "$readPreference": preference.to_document() };
    /// # assert_eq!(find.get_document("$readPreference").unwrap(), &doc! { "mode": "secondaryPreferred" });
    /// ```
    ///
    /// In a command to one server by its address that is not a mongos, the mode `primary` is sent as
    /// `primaryPreferred`, so that a server of any type accepts the command; other modes stay as
    /// they are. This method does not change the mode.
    ///
    /// Specification: server selection, "Passing read preference to mongos and load balancers".
    pub fn to_document(&self) -> Document {
        let mut document = doc! { "mode": self.mode.as_str() };
        if !self.tag_sets.is_empty() {
            let sets = self.tag_sets.iter().map(|set| {
                let tags = set.iter().map(|(name, value)| (name.clone(), value.into()));
                Bson::Document(tags.collect())
            });
            document.insert("tags", sets.collect::<Vec<_>>());
        }
        if let Some(limit) = self.max_staleness {
            let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            document.insert("maxStalenessSeconds", seconds);
        }
        document
    }

    /// Checks that the parts agree.
    ///
    /// # Errors
    /// Tags or a maximum staleness with the mode primary; a maximum staleness of zero.
    pub fn validate(&self) -> Result<(), ReadPreferenceError> {
        let primary = self.mode == ReadPreferenceMode::Primary;
        // A single empty set is equivalent to no set.
        if primary && self.tag_sets.iter().any(|set| !set.is_empty()) {
            return Err(ReadPreferenceError::PrimaryWithTags);
        }
        match self.max_staleness {
            Some(Duration::ZERO) => Err(ReadPreferenceError::ZeroMaxStaleness),
            Some(_) if primary => Err(ReadPreferenceError::PrimaryWithMaxStaleness),
            Some(_) | None => Ok(()),
        }
    }
}

/// All parts that are set, with their names in `$readPreference`.
impl fmt::Display for ReadPreference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ mode: {}", self.mode)?;
        if !self.tag_sets.is_empty() {
            write!(f, ", tags: {:?}", self.tag_sets)?;
        }
        if let Some(limit) = self.max_staleness {
            write!(f, ", maxStalenessSeconds: {}", limit.as_secs_f64())?;
        }
        f.write_str(" }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_parse_their_own_names() {
        for mode in ReadPreferenceMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        for usual in ["primarypreferred", "primary_preferred", "PRIMARY-PREFERRED"] {
            assert_eq!(usual.parse(), Ok(ReadPreferenceMode::PrimaryPreferred));
        }
        let other = "first".parse::<ReadPreferenceMode>();
        assert_eq!(other, Err(ReadPreferenceError::Mode));
    }

    #[test]
    fn all_parts_go_into_the_document() {
        let primary = ReadPreference::default().to_document();
        assert_eq!(primary, doc! { "mode": "primary" });
        let tags = TagSet::from([("dc".to_owned(), "ny".to_owned())]);
        let nearest = ReadPreference::new(ReadPreferenceMode::Nearest)
            .with_tag_sets(vec![tags, TagSet::new()])
            .with_max_staleness(Duration::from_millis(120_001));
        let expected = doc! {
            "mode": "nearest", "tags": [{ "dc": "ny" }, {}], "maxStalenessSeconds": 121_i64,
        };
        assert_eq!(nearest.to_document(), expected);
    }

    #[test]
    fn primary_takes_neither_tags_nor_staleness() {
        let tags = || vec![TagSet::from([("dc".to_owned(), "ny".to_owned())])];
        let limit = Duration::from_secs(120);
        let primary = ReadPreference::default();
        assert_eq!(primary.validate(), Ok(()));
        let empty = primary.clone().with_tag_sets(vec![TagSet::new()]);
        assert_eq!(empty.validate(), Ok(()));
        assert_eq!(
            primary.clone().with_tag_sets(tags()).validate(),
            Err(ReadPreferenceError::PrimaryWithTags)
        );
        assert_eq!(
            primary.with_max_staleness(limit).validate(),
            Err(ReadPreferenceError::PrimaryWithMaxStaleness)
        );
        let nearest = ReadPreference::new(ReadPreferenceMode::Nearest).with_tag_sets(tags());
        assert_eq!(nearest.clone().with_max_staleness(limit).validate(), Ok(()));
        assert_eq!(
            nearest.with_max_staleness(Duration::ZERO).validate(),
            Err(ReadPreferenceError::ZeroMaxStaleness)
        );
    }
}
