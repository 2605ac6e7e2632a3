//! The paths of the examples.

use std::path::PathBuf;

/// The build directory.
pub(crate) fn target() -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let target = test.ancestors().nth(2).expect("the target directory");
    target.to_owned()
}

/// The program of an example, which `cargo test` has built beside this test.
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
