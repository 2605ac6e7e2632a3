//! Four ways to pool MongoDB, side by side on one machine: sockets, errors, memory, CPU and builds.
//!
//! ```sh
//! cargo bench -p mongo-example-migrating --all-features
//! # Only the crates in the tree, and builds from nothing, which take minutes.
//! cargo bench -p mongo-example-migrating --all-features -- --builds
//! # Only write the table and the chart again, from the last figures.
//! cargo bench -p mongo-example-migrating --all-features -- --render
//! ```
//! It writes `side_by_side.md` and `side_by_side.svg` into the package. The figures themselves are in
//! `target/side_by_side.json`; a run replaces those that it measures.
//!
//! The server is the test kit's replica set of three members, with a user, in a process of its own
//! for each figure. Each client is a process of its own too. Sockets are those that the servers
//! accepted. CPU is the time of the client's process, with the kernel's work for it.

mod builds;
mod chart;
mod client;
mod figures;
mod server;
mod subject;
mod table;

use std::path::Path;

use figures::Figures;

fn main() {
    if server::serve_if_asked() || client::run_if_asked() {
        return;
    }
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    let mut figures = Figures::load();
    if asked("--builds") {
        builds::measure(&mut figures);
    } else if !asked("--render") {
        client::measure(&mut figures);
    }
    figures.save();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = table::markdown(&figures);
    print!("{table}");
    std::fs::write(package.join("side_by_side.md"), table).expect("write the table");
    chart::draw(&figures, &package.join("side_by_side.svg")).expect("write the chart");
}
