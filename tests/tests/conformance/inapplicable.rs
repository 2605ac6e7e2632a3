//! The list of cases that can't apply, with the reason for each.

/// One or more cases that can't apply.
pub(crate) struct Entry {
    /// The case's name, as the test binary lists it. `*` stands for any text.
    pub(crate) name: String,
    /// Why it can't apply.
    pub(crate) reason: String,
}

impl Entry {
    /// Whether a case is meant.
    pub(crate) fn names(&self, case: &str) -> bool {
        let mut parts = self.name.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = case.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(place) => rest = &rest[place + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// The cases that can't apply.
pub(crate) fn list() -> Result<Vec<Entry>, String> {
    entries(include_str!("inapplicable.txt"))
}

/// The known gaps of a real server, from the file that `MONGO_TESTKIT_GAPS` names, which also lists
/// other tests than cases.
pub(crate) fn gaps() -> Result<Vec<Entry>, String> {
    let Some(file) = std::env::var_os("MONGO_TESTKIT_GAPS") else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(&file);
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    let mut gaps = entries(&text)?;
    gaps.retain(|entry| entry.name.contains('/'));
    Ok(gaps)
}

/// Reads the entries: a name on its own line, and its reason on indented lines below. `#` begins a
/// comment.
fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match (line.starts_with(char::is_whitespace), entries.last_mut()) {
            (false, _) => entries.push(Entry {
                name: line.trim_end().to_owned(),
                reason: String::new(),
            }),
            (true, Some(entry)) => {
                if !entry.reason.is_empty() {
                    entry.reason.push(' ');
                }
                entry.reason.push_str(line.trim());
            }
            (true, None) => return Err("the list begins with a reason".to_owned()),
        }
    }
    match entries.iter().find(|entry| entry.reason.is_empty()) {
        None => Ok(entries),
        Some(entry) => Err(format!("{:?} has no reason", entry.name)),
    }
}
