//! The login page, in a browser.

#[path = "../../tests/services/browser.rs"]
mod browser;
#[path = "../../tests/support/process.rs"]
mod process;

use std::process::Command;

use browser::Browser;
use bson::{DateTime, doc};
use mongo_example_sessions::backend::{OperationKind, Pools};
use mongo_example_sessions::{MongoStore, routes};
use mongo_testkit::{Deployment, RealServer, ScriptedServer};
use process::Process;
use serde_json::json;
use tokio::net::TcpListener;

/// Serves the page, with a collection of its own, and returns its address.
async fn serve(pools: &Pools, database: &str) -> String {
    let store = MongoStore::new(pools.clone(), database, "page");
    store.create_index().await.expect("an index");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = axum::serve(listener, routes(store, "sesame"));
    // Ends with the test's runtime.
    tokio::spawn(server.into_future());
    format!("http://{address}/")
}

fn text_of(id: &str) -> String {
    format!("document.querySelector('#{id}')?.textContent")
}

fn log_in(page: &mut Browser, password: &str) {
    page.wait_for("!!document.querySelector('#login')", &json!(true));
    page.evaluate(&format!(
        "document.querySelector('#password').value = '{password}';
         document.querySelector('#login').click()"
    ));
}

/// Waits for the new page, so that what follows does not meet the old one.
fn reload(page: &mut Browser) {
    page.evaluate("window.isOld = true; location.reload()");
    let is_new = "window.isOld === undefined && document.readyState === 'complete'";
    page.wait_for(is_new, &json!(true));
}

async fn logs_in_and_out(url: &str, database: &str) {
    let pools = Pools::new(url).expect("a URL");
    let mut page = Browser::open(&serve(&pools, database).await);
    log_in(&mut page, "wrong");
    page.wait_for(&text_of("message"), &json!("Wrong name or password."));
    log_in(&mut page, "sesame");
    page.wait_for(&text_of("user"), &json!("demo"));
    page.wait_for(&text_of("pages"), &json!("1"));
    page.screenshot(&screenshots().join("sessions-login.png"));
    page.emulate(390, true);
    let fits_a_phone = page.evaluate("document.documentElement.scrollWidth <= 390");
    assert_eq!(fits_a_phone, json!(true));
    page.emulate(1080, false);
    assert_eq!(
        page.evaluate("document.cookie"),
        json!(""),
        "it is HttpOnly"
    );
    reload(&mut page);
    page.wait_for(&text_of("pages"), &json!("2"));

    page.evaluate("document.querySelector('#logout').click()");
    page.wait_for("!!document.querySelector('#password')", &json!(true));
    reload(&mut page);
    log_in(&mut page, "sesame");
    // A session of its own.
    page.wait_for(&text_of("pages"), &json!("1"));

    let past = DateTime::from_millis(DateTime::now().timestamp_millis() - 1);
    let all = doc! { "q": {}, "u": { "$set": { "expires": past } }, "multi": true };
    let expire = doc! { "update": "page", "updates": [all] };
    let expire = pools.command(database, &expire).kind(OperationKind::Write);
    let expired = expire.not_retryable().await.expect("a reply");
    expired.check_write().expect("an update");
    reload(&mut page);
    page.wait_for("!!document.querySelector('#password')", &json!(true));
}

fn screenshots() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let target = test.ancestors().nth(2).expect("the target directory");
    target.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_and_out() {
    let set = Deployment::replica_set("rs").members(1).start().await;
    logs_in_and_out(&set.uri(), "web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_logs_in_and_out_on_a_real_server() {
    let server = RealServer::shared();
    logs_in_and_out(&server.uri(), &server.database("web")).await;
}

fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_mongo-example-sessions"));
    program.env("LISTEN", "127.0.0.1:0");
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_until_it_is_interrupted() {
    let server = ScriptedServer::start().await;
    let mut process = Process::start(program().env("MONGODB_URI", server.uri()));
    let url = process.after("listening at ");
    let mut page = Browser::open(&url);
    log_in(&mut page, "sesame");
    page.wait_for(&text_of("user"), &json!("demo"));
    drop(page);
    process.signal("INT");
    let (status, output) = process.end();
    assert!(status.success(), "{status}\n{output}");
    server
        .wait_for("no connection", |seen| seen.open == 0)
        .await;
}

#[test]
fn an_error_is_one_line() {
    let url = "mongodb://app:s3cret@host:0/";
    let (status, output) = Process::start(program().env("MONGODB_URI", url)).end();
    assert!(!status.success(), "{status}");
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(
        output.starts_with("Error: ") && !output.contains("s3cret"),
        "{output}"
    );
}
