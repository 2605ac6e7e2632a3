//! The fixture of the real server: it starts, has its users, and leaves nothing behind.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bson::{Document, doc};
use mongo_testkit::{RealServer, User};

const BOUND: Duration = Duration::from_secs(20);
const FAIL: &str = "MONGO_TESTKIT_FAIL_ON_A_DEPLOYMENT";
const ABORT: &str = "MONGO_TESTKIT_ABORT_WITH_A_SERVER";

fn wait_until_gone(address: &str, directory: &Path) {
    let deadline = Instant::now() + BOUND;
    while TcpStream::connect(address).is_ok() || directory.exists() {
        assert!(
            Instant::now() < deadline,
            "{address} or {} is there still",
            directory.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_plain_server_answers_and_ends_with_its_owner() {
    let server = RealServer::start();
    let reply = server.run_command("admin", doc! {"hello": 1});
    assert!(reply.get_str("setName").is_ok(), "{reply}");
    let documents = vec![doc! {"_id": 1}];
    server.run_command("test", doc! {"insert": "c", "documents": documents});
    let (address, directory) = (server.address(), server.directory().to_owned());
    drop(server);
    // Its drop has waited, so no wait is needed here.
    assert!(TcpStream::connect(&address).is_err() && !directory.exists());
}

#[test]
fn a_standalone_reports_itself_as_standalone() {
    let server = RealServer::builder().standalone().start();
    let reply = server.run_command("admin", doc! {"hello": 1});
    assert!(!reply.contains_key("setName"), "{reply}");
}

#[test]
fn a_server_with_users_authenticates_them() {
    let server = RealServer::builder()
        .user(User::new("one", "pencil"))
        .user(User::new("two", "I\u{ad}X").database("other"))
        .start();
    let reply = server.run_command("admin", doc! {"usersInfo": {"forAllDBs": true}});
    let users = reply.get_array("users").expect("users");
    let names: Vec<&str> = users
        .iter()
        .filter_map(|user| user.as_document()?.get_str("_id").ok())
        .collect();
    assert!(
        names.contains(&"admin.one") && names.contains(&"other.two"),
        "{names:?}"
    );
}

#[test]
fn a_panic_ends_the_server() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let server = RealServer::start();
        sender
            .send((server.address(), server.directory().to_owned()))
            .expect("a receiver");
        panic!("as the test wants");
    });
    let (address, directory) = receiver.recv().expect("a server");
    thread.join().expect_err("a panic");
    assert!(TcpStream::connect(&address).is_err() && !directory.exists());
}

#[test]
fn shared_servers_are_started_once() {
    let ports = [(); 4].map(|()| std::thread::spawn(|| RealServer::shared().port()));
    let ports = ports.map(|thread| thread.join().expect("no panic"));
    assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
}

/// Runs only in a process that the next test starts.
#[test]
fn aborts_when_requested() {
    let Some(file) = std::env::var_os(ABORT) else {
        return;
    };
    let server = RealServer::start();
    let report = format!("{}\n{}", server.address(), server.directory().display());
    std::fs::write(file, report).expect("write the report");
    std::process::abort();
}

#[test]
fn an_aborted_test_run_leaves_nothing_behind() {
    let name = format!("mongo-testkit-abort-{}", std::process::id());
    let report = std::env::temp_dir().join(name);
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program)
        .args(["--exact", "aborts_when_requested", "--quiet"])
        .env(ABORT, &report)
        .output()
        .expect("run this program again")
        .status;
    assert!(!status.success(), "{status}");
    let text = std::fs::read_to_string(&report).expect("the report");
    std::fs::remove_file(&report).expect("remove the report");
    let (address, directory) = text.split_once('\n').expect("two lines");
    wait_until_gone(address, &PathBuf::from(directory));
}

/// Runs only in a process that the next test starts, and fails there.
#[test]
fn fails_on_a_given_deployment_when_requested() {
    if std::env::var_os(FAIL).is_none() {
        return;
    }
    let (first, second) = (RealServer::shared(), RealServer::shared_with_auth());
    for server in [&first, &second] {
        let database = server.database("things");
        server.insert("things.c", [doc! {"_id": 1}]);
        assert_eq!(server.documents(&format!("{database}.c")).len(), 1);
    }
    assert_ne!(first.database("things"), second.database("things"));
    println!("made {}", first.database("things"));
    panic!("as the test wants, with {first:?} and {second:?}");
}

#[test]
fn a_failed_test_leaves_nothing_on_a_given_deployment() {
    let password = "s3cret@/:,p";
    let server = RealServer::builder()
        .user(User::new("a@b", password))
        .start();
    let names = || {
        let databases = server.run_command("admin", doc! {"listDatabases": 1, "nameOnly": true});
        let users = server.run_command("admin", doc! {"usersInfo": {"forAllDBs": true}});
        let count = |reply: &Document, key| reply.get_array(key).expect("a list").len();
        (count(&databases, "databases"), count(&users, "users"))
    };
    server.insert("owner.c", [doc! {"_id": 1}]);
    let before = names();
    let program = std::env::current_exe().expect("this program");
    let test = "fails_on_a_given_deployment_when_requested";
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env_remove("MONGO_TESTKIT_MONGOD")
        .env("MONGO_TESTKIT_URI", server.uri_for("a@b", password))
        .env(FAIL, "1")
        .output()
        .expect("run this program again");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        text.contains("made tk") && text.contains("as the test wants"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
    assert_eq!(names(), before, "{text}");
    assert_eq!(server.documents("owner.c").len(), 1);
}

#[test]
fn a_missing_server_fails_with_advice() {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args([
            "--exact",
            "a_standalone_reports_itself_as_standalone",
            "--nocapture",
        ])
        .env_remove("MONGO_TESTKIT_MONGOD")
        .env("MONGO_TESTKIT_SECANTUSD", "/nonexistent/secantusd-rs")
        .output()
        .expect("run this program again");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        text.contains("/nonexistent/secantusd-rs") && text.contains("tests/run"),
        "{text}"
    );
}
