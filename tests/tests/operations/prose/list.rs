//! The list of all prose tests.

use std::fs;
use std::path::Path;

/// The source of all tests.
fn sources(directory: &Path, found: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.extension() {
            _ if path.is_dir() => sources(&path, found),
            Some(kind) if kind == "rs" => {
                found.push_str(&fs::read_to_string(&path).expect("a source file"));
            }
            Some(_) | None => {}
        }
    }
}

#[test]
fn the_tests_of_the_list_exist() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(kit.join("tests/prose.md")).expect("the list");
    let mut found = String::new();
    sources(&kit.join("tests"), &mut found);
    sources(&kit.join("../mongo-core/src"), &mut found);
    let mut count = 0;
    for line in list.lines().filter(|line| line.starts_with('|')) {
        let last = line.trim_end_matches('|').rsplit('|').next();
        let names = last.unwrap_or_default().split('`').skip(1).step_by(2);
        for name in names {
            let is_there = ["(", "<"]
                .iter()
                .any(|next| found.contains(&format!("fn {name}{next}")));
            assert!(is_there, "{name}: in the list, and no test");
            count += 1;
        }
    }
    assert!(count > 100, "{count} tests in the list");
}
