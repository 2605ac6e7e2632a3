//! A case: a test, with the common parts of its file.

use bson::{Bson, Document};
use serde_json::Value;

use super::json;

/// The latest version of the format that the runner supports.
const SCHEMA: [u32; 2] = [1, 28];

/// A test, with the common parts of its file.
pub(super) struct Case {
    /// The requirements of the file and of the test. Each is a list of alternatives.
    pub(super) requirements: [Vec<Document>; 2],
    pub(super) entities: Vec<Document>,
    pub(super) initial_data: Vec<Document>,
    pub(super) operations: Vec<Document>,
    pub(super) expect_events: Vec<Document>,
    pub(super) expect_logs: Vec<Document>,
    pub(super) expect_spans: Vec<Document>,
    pub(super) outcome: Vec<Document>,
}

/// Adds the common parts of its file to a test.
pub(crate) fn of_file(file: &Value, test: &Value) -> Value {
    let mut test = test.clone();
    for key in ["createEntities", "initialData", "schemaVersion"] {
        test[key] = file[key].clone();
    }
    let wanted = [file, &test].map(|what| what["runOnRequirements"].clone());
    test["runOnRequirements"] = Value::from(wanted.to_vec());
    test
}

impl Case {
    pub(super) fn read(case: &Value) -> Result<Self, String> {
        let keys = [
            "description",
            "schemaVersion",
            "runOnRequirements",
            "createEntities",
            "initialData",
            "operations",
            "expectEvents",
            "expectLogMessages",
            "expectTracingMessages",
            "outcome",
        ];
        crate::known_keys("test", case, &keys)?;
        check_version(crate::text(case, "schemaVersion")?)?;
        let list = |key: &str| documents(&case[key]).map_err(|text| format!("{key}: {text}"));
        let requirements = |index: usize| documents(&case["runOnRequirements"][index]);
        Ok(Self {
            requirements: [requirements(0)?, requirements(1)?],
            entities: list("createEntities")?,
            initial_data: list("initialData")?,
            operations: list("operations")?,
            expect_events: list("expectEvents")?,
            expect_logs: list("expectLogMessages")?,
            expect_spans: list("expectTracingMessages")?,
            outcome: list("outcome")?,
        })
    }

    /// All operations, including those of threads and callbacks.
    pub(super) fn all_operations(&self) -> Vec<&Document> {
        let mut all = Vec::new();
        collect(&self.operations, &mut all);
        all
    }

    /// All entities, including those that operations create.
    pub(super) fn all_entities(&self) -> Vec<&Document> {
        let mut all: Vec<&Document> = self.entities.iter().collect();
        for operation in self.all_operations() {
            let arguments = operation.get_document("arguments");
            let created = arguments.and_then(|arguments| arguments.get_array("entities"));
            all.extend(created.into_iter().flatten().filter_map(Bson::as_document));
        }
        all
    }

    /// Whether it opens a change stream over all databases.
    pub(super) fn watches_the_cluster(&self) -> bool {
        let clients: Vec<&str> = self
            .all_entities()
            .into_iter()
            .filter_map(|entity| entity.get_document("client").ok()?.get_str("id").ok())
            .collect();
        self.all_operations().into_iter().any(|operation| {
            let object = operation.get_str("object").unwrap_or_default();
            operation
                .get_str("name")
                .is_ok_and(|name| name == "createChangeStream")
                && clients.contains(&object)
        })
    }

    /// The entities that operations or expectations name, and those that these are made from.
    pub(super) fn used_entities(&self) -> Vec<&Document> {
        let mut names = Vec::new();
        for operation in &self.operations {
            texts(&Bson::Document(operation.clone()), &mut names);
        }
        let mut used = Vec::new();
        // A database comes before its collections, and a client before its databases.
        for entity in self.all_entities().into_iter().rev() {
            let Some(Bson::Document(what)) = entity.values().next() else {
                continue;
            };
            if what
                .get_str("id")
                .is_ok_and(|id| names.iter().any(|name| name == id))
            {
                let parents = ["client", "database"].map(|key| what.get_str(key));
                names.extend(parents.into_iter().flatten().map(str::to_owned));
                used.push(entity);
            }
        }
        used
    }
}

/// All texts in a value.
fn texts(value: &Bson, found: &mut Vec<String>) {
    match value {
        Bson::String(text) => found.push(text.clone()),
        Bson::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Bson::Document(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

fn collect<'a>(operations: impl IntoIterator<Item = &'a Document>, all: &mut Vec<&'a Document>) {
    for operation in operations {
        all.push(operation);
        let Ok(arguments) = operation.get_document("arguments") else {
            continue;
        };
        if let Ok(inner) = arguments.get_document("operation") {
            collect([inner], all);
        }
        if let Ok(inner) = arguments.get_array("callback") {
            collect(inner.iter().filter_map(Bson::as_document), all);
        }
    }
}

fn check_version(text: &str) -> Result<(), String> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    let parts = parts.map_err(|_| format!("schemaVersion {text}"))?;
    let [major, minor] = [0, 1].map(|place| parts.get(place).copied().unwrap_or(0));
    match major == SCHEMA[0] && minor <= SCHEMA[1] {
        true => Ok(()),
        false => Err(format!("the runner does not support version {text}")),
    }
}

fn documents(value: &Value) -> Result<Vec<Document>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        // `expectTracingMessages` may be a single document.
        Value::Object(_) => Ok(vec![json::document(value)?]),
        Value::Array(items) => items.iter().map(json::document).collect(),
        _ => Err("no array of documents".to_owned()),
    }
}

/// The fields of a document, all of which the runner knows.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a Document);

impl<'a> Fields<'a> {
    /// Fails on an unknown key, so that nothing is left unchecked.
    pub(super) fn new(document: &'a Document, what: &str, known: &[&str]) -> Result<Self, String> {
        match document.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(Self(document)),
            Some(key) => Err(format!("{what}: the runner does not know the key {key:?}")),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Bson)> + use<'a> {
        self.0.iter()
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Bson> {
        self.0.get(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, String> {
        self.0
            .get_str(key)
            .map_err(|_| format!("{key} is no text in {}", self.0))
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, String> {
        match self.0.get(key) {
            None => Ok(false),
            Some(Bson::Boolean(flag)) => Ok(*flag),
            Some(other) => Err(format!("{key} is no boolean: {other}")),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Bson::Int32(number)) => Ok(Some((*number).into())),
            Some(Bson::Int64(number)) => Ok(Some(*number)),
            Some(other) => Err(format!("{key} is no number: {other}")),
        }
    }

    pub(super) fn document(&self, key: &str) -> Result<Option<&'a Document>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Bson::Document(document)) => Ok(Some(document)),
            Some(other) => Err(format!("{key} is no document: {other}")),
        }
    }

    pub(super) fn list(&self, key: &str) -> Result<&'a [Bson], String> {
        match self.0.get(key) {
            None => Ok(&[]),
            Some(Bson::Array(items)) => Ok(items),
            Some(other) => Err(format!("{key} is no array: {other}")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, String> {
        let texts = self.list(key)?.iter().map(|item| item.as_str());
        let texts: Option<Vec<&str>> = texts.collect();
        let texts = texts.ok_or_else(|| format!("{key} has a value that is no text"))?;
        Ok(texts.into_iter().map(str::to_owned).collect())
    }
}
