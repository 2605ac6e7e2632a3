//! Where the examples are.

use std::path::PathBuf;

/// The directory that everything is built into.
pub(crate) fn target() -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let target = test.ancestors().nth(2).expect("the target directory");
    target.to_owned()
}

/// An example as a program: that which `cargo test` has built beside this test.
pub(crate) fn program(example: &str) -> PathBuf {
    let name = format!("{example}{}", std::env::consts::EXE_SUFFIX);
    let program = target().join("examples").join(name);
    assert!(
        program.is_file(),
        "{} is missing; `cargo test -p mongo-examples` builds it, and so does \
         `cargo build -p mongo-examples --examples`",
        program.display()
    );
    program
}
