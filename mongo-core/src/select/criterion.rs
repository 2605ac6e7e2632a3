//! What an operation asks of a server.

use std::fmt;
use std::sync::Arc;

use super::{ReadPreference, ReadPreferenceError, ReadPreferenceMode, SelectionError, TagSet};
use crate::callback::guard;
use crate::sdam::ServerDescription;

/// What an operation asks of a server: that it takes writes, or what a read preference says; and,
/// where the application has a selector, that the selector leaves it.
///
/// Specification: server selection.
#[derive(Clone, Debug, Default)]
pub struct Criterion {
    /// `None` for a write.
    read_preference: Option<ReadPreference>,
    selector: Option<ServerSelector>,
}

impl Criterion {
    /// A server that takes writes: the primary, any `mongos`, a standalone server, the one server
    /// of a direct connection whatever it is, or the load balancer. The default.
    pub fn write() -> Self {
        Self::default()
    }

    /// A server that suits a read preference. Outside replica sets every server that takes
    /// operations does.
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

    /// Lets a selector leave out servers that are otherwise suitable.
    #[must_use]
    pub fn with_selector(mut self, selector: ServerSelector) -> Self {
        self.selector = Some(selector);
        self
    }

    /// Whether it asks for a server that takes writes.
    pub fn is_write(&self) -> bool {
        self.read_preference.is_none()
    }

    /// The read preference; `None` for a write.
    pub fn read_preference(&self) -> Option<&ReadPreference> {
        self.read_preference.as_ref()
    }

    /// The selector, where there is one.
    pub fn selector(&self) -> Option<&ServerSelector> {
        self.selector.as_ref()
    }

    /// The mode; a write asks for what a read with the mode primary asks for.
    pub(super) fn mode(&self) -> ReadPreferenceMode {
        let preference = self.read_preference.as_ref();
        preference.map_or(ReadPreferenceMode::Primary, |preference| preference.mode)
    }

    /// The tag sets that restrict. A list that begins with an empty set matches whatever there is,
    /// as the empty list does.
    pub(super) fn tag_sets(&self) -> &[TagSet] {
        let preference = self.read_preference.as_ref();
        match preference.map(|preference| &*preference.tag_sets) {
            None | Some([]) => &[],
            Some([first, ..]) if first.is_empty() => &[],
            Some(sets) => sets,
        }
    }
}

/// As in logs: every part of the read preference, and whether there is a selector.
impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.read_preference {
            None => f.write_str("a server that takes writes")?,
            Some(preference) => write!(f, "read preference {preference}")?,
        }
        match self.selector {
            None => Ok(()),
            Some(_) => f.write_str(" with a custom server selector"),
        }
    }
}

type Select = dyn for<'a> Fn(&[&'a ServerDescription]) -> Vec<&'a ServerDescription> + Send + Sync;

/// A function of the application that leaves out servers (`serverSelector`). Cloning is cheap.
///
/// It gets the servers that are suitable otherwise, and gives back those that still are, of which
/// one within the latency window is taken. It is called for each selection that finds a suitable
/// server, on the caller's own task, and outside all locks; it should not block. Where it leaves no
/// server, the selection waits for the topology to change, as if none had been suitable. A factory
/// that floats over a topology (`ConnectionFactoryBuilder::floating`) calls it for each change of the
/// topology too, on the task that caused the change.
///
/// A panic in it is caught and logged. The selection fails at once, with
/// [`SelectionError::Selector`]: without the selector's answer any server might be one that the
/// application excludes.
///
/// ```
/// # use mongo_core::select::ServerSelector;
/// let highest_port = ServerSelector::new(|servers| {
///     let highest = servers.iter().max_by_key(|server| server.address.port());
///     highest.into_iter().copied().collect()
/// });
/// ```
#[derive(Clone)]
pub struct ServerSelector(Arc<Select>);

impl ServerSelector {
    /// Takes the function.
    pub fn new<F>(select: F) -> Self
    where
        F: for<'a> Fn(&[&'a ServerDescription]) -> Vec<&'a ServerDescription>,
        F: Send + Sync + 'static,
    {
        Self(Arc::new(select))
    }

    /// Calls the function.
    pub(super) fn call<'a>(
        &self,
        suitable: &[&'a ServerDescription],
    ) -> Result<Vec<&'a ServerDescription>, SelectionError> {
        guard("server selector", || (self.0)(suitable))
            .map_err(|panicked| SelectionError::Selector(panicked.to_string()))
    }
}

impl fmt::Debug for ServerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSelector")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn says_every_part() {
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
            "a server that takes writes with a custom server selector"
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
