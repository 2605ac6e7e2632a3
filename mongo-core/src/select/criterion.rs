//! The criterion of a server selection.

use std::fmt;

use super::ServerSelector;
use crate::read_preference::{ReadPreference, ReadPreferenceError, ReadPreferenceMode, TagSet};

/// The criterion of a server selection: a writable server or a read preference, and optionally a
/// server selector of the application.
///
/// Specification: server selection.
#[derive(Clone, Debug, Default)]
pub struct Criterion {
    /// `None` for a write.
    read_preference: Option<ReadPreference>,
    selector: Option<ServerSelector>,
}

impl Criterion {
    /// A writable server: the primary, any `mongos`, a standalone server, the server of a direct
    /// connection of any type, or the load balancer. The default.
    pub fn write() -> Self {
        Self::default()
    }

    /// A server that matches a read preference. Outside of replica sets every data-bearing server
    /// matches.
    ///
    /// # Errors
    /// The parts of the read preference do not agree: see [`ReadPreference::validate`].
    pub fn read(read_preference: ReadPreference) -> Result<Self, ReadPreferenceError> {
        read_preference.validate()?;
        Ok(Self {
            read_preference: Some(read_preference),
            selector: None,
        })
    }

    /// Adds a selector that filters the suitable servers.
    #[must_use]
    pub fn with_selector(mut self, selector: ServerSelector) -> Self {
        self.selector = Some(selector);
        self
    }

    /// Whether it requires a writable server.
    pub fn is_write(&self) -> bool {
        self.read_preference.is_none()
    }

    /// The read preference; `None` for a write.
    pub fn read_preference(&self) -> Option<&ReadPreference> {
        self.read_preference.as_ref()
    }

    /// The selector, if there is one.
    pub fn selector(&self) -> Option<&ServerSelector> {
        self.selector.as_ref()
    }

    /// The mode; for a write it is primary.
    pub(super) fn mode(&self) -> ReadPreferenceMode {
        let preference = self.read_preference.as_ref();
        preference.map_or(ReadPreferenceMode::Primary, |preference| preference.mode)
    }

    /// The tag sets that restrict the selection. A list that begins with an empty set matches all
    /// servers, like the empty list.
    pub(super) fn tag_sets(&self) -> &[TagSet] {
        let preference = self.read_preference.as_ref();
        match preference.map(|preference| &*preference.tag_sets) {
            None | Some([]) => &[],
            Some([first, ..]) if first.is_empty() => &[],
            Some(sets) => sets,
        }
    }
}

/// The format of logs: every part of the read preference, and whether there is a selector.
impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.read_preference {
            None => f.write_str("a writable server")?,
            Some(preference) => write!(f, "read preference {preference}")?,
        }
        match self.selector {
            None => Ok(()),
            Some(_) => f.write_str(" with a custom server selector"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_criterion_displays_every_part() {
        let dc = TagSet::from([("dc".to_owned(), "ny".to_owned())]);
        let preference = ReadPreference::new(ReadPreferenceMode::Nearest)
            .with_tag_sets(vec![dc, TagSet::new()])
            .with_max_staleness(Duration::from_secs(120));
        let criterion = Criterion::read(preference).expect("valid");
        assert_eq!(
            criterion.to_string(),
            r#"read preference { mode: nearest, tags: [{"dc": "ny"}, {}], maxStalenessSeconds: 120 }"#
        );
        assert_eq!(
            Criterion::write()
                .with_selector(ServerSelector::new(|servers| servers.to_vec()))
                .to_string(),
            "a writable server with a custom server selector"
        );
    }

    #[test]
    fn mode_primary_with_tags_is_refused() {
        let tags = TagSet::from([("dc".to_owned(), "ny".to_owned())]);
        let preference = ReadPreference::default().with_tag_sets(vec![tags]);
        assert_eq!(
            Criterion::read(preference).map(|_| ()),
            Err(ReadPreferenceError::PrimaryWithTags)
        );
    }
}
