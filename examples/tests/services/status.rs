//! The status page, in a browser.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mongo_testkit::{Action, Deployment, ErrorReply, Matcher, User};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::service::Service;
use crate::support;

const HOSTILE: &str = "<script>hacked=1</script><img src=x onerror=hacked=1>";

fn open(service: &Service) -> Browser {
    Browser::open(&format!("http://{}/status", service.admin))
}

fn report(service: &Service) -> Value {
    let answer = service.get("/status?json");
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

/// Clients that request the notes until they are dropped.
struct Clients {
    are_done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(service: &Service, number: usize) -> Self {
        let are_done = Arc::new(AtomicBool::new(false));
        let threads = (0..number).map(|_| {
            let (address, are_done) = (service.address.clone(), are_done.clone());
            std::thread::spawn(move || {
                while !are_done.load(Ordering::Relaxed) {
                    Service::ask_at(&address, "GET", "/notes", "");
                }
            })
        });
        Self {
            threads: threads.collect(),
            are_done,
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.are_done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its panic is in the test's output.
            let _ = thread.join();
        }
    }
}

pub(crate) async fn shows_a_failover(example: &str) {
    let set = Deployment::replica_set("orders")
        .members(3)
        .user(User::new("app", "s3cret"));
    let set = set.start().await;
    for member in 0..3 {
        let slow = Action::Delay(Duration::from_millis(20));
        set.server(member)
            .script()
            .add(Matcher::command("find").then(slow));
    }
    let uri = format!("{}&heartbeatFrequencyMS=500", set.uri_for("app", "s3cret"));
    let settings = [("DRAIN", "0s"), ("MONGO__POOL__MAX_SIZE", "4")];
    let service = Service::start_with(example, Some(&uri), &settings);
    service.wait_for("/readyz", 200);
    let mut page = open(&service);
    page.wait_for("document.querySelectorAll('#servers li').length", &json!(3));
    page.wait_for(
        "document.querySelector('#banner').dataset.level",
        &json!("good"),
    );
    let primary = "document.querySelector('[data-type=RSPrimary] .address')?.textContent";
    page.wait_for(primary, &json!(set.address(0)));
    page.wait_for(
        "/^RTT [0-9.]+ ms$/.test(document.querySelector('.rtt').textContent)",
        &json!(true),
    );
    // The page updates itself without a reload.
    page.evaluate("window.mark = 'loaded once'");

    // Two viewers: nothing is checked out, and no connection is made.
    let before = report(&service)["pools"].clone();
    let mut second = open(&service);
    for viewer in [&mut page, &mut second] {
        viewer.wait_for("samples.length > 2", &json!(true));
    }
    assert_eq!(report(&service)["pools"], before);
    drop(second);

    let clients = Clients::start(&service, 7);
    let tile = |title: &str| {
        let all = "[...document.querySelectorAll('#tiles div')]";
        format!("{all}.find(tile => tile.innerText.startsWith('{title}')).children[1].textContent")
    };
    page.wait_for(&tile("Connections in use"), &json!("4"));
    page.wait_for(
        &format!("{} > 0", tile("Waiting for a connection")),
        &json!(true),
    );

    set.kill(0).await;
    let banner = "document.querySelector('#banner strong').textContent";
    page.wait_for(banner, &json!("No primary: writes wait."));
    page.wait_for(&tile("Waiting for a server"), &json!("7"));
    page.wait_for(
        "document.querySelector('[data-type=Unknown] .error') !== null",
        &json!(true),
    );
    let lost = format!("primary: {} \u{2192} none", set.address(0));
    let listed =
        |text: &str| format!("document.querySelector('#events').textContent.includes('{text}')");
    page.wait_for(&listed(&lost), &json!(true));
    page.wait_for(
        "document.querySelectorAll('#timeline .down').length > 1",
        &json!(true),
    );
    let image = support::target().join(format!("{example}-status.png"));
    page.emulate(1080, false);
    page.screenshot(&image);
    page.emulate(390, true);
    let is_narrow = "document.documentElement.scrollWidth <= 390";
    page.wait_for(is_narrow, &json!(true));
    page.screenshot(&image.with_file_name(format!("{example}-status-phone.png")));

    set.elect(1);
    page.wait_for(primary, &json!(set.address(1)));
    page.wait_for(banner, &json!("1 of 3 servers unknown."));
    page.wait_for(&tile("Waiting for a server"), &json!("0"));
    page.wait_for(
        &listed(&format!("primary: none \u{2192} {}", set.address(1))),
        &json!(true),
    );
    drop(clients);
    assert_eq!(page.evaluate("window.mark"), json!("loaded once"));
    let shown = page
        .evaluate("document.documentElement.outerHTML")
        .to_string();
    assert!(
        !shown.contains("s3cret") && !report(&service).to_string().contains("s3cret"),
        "{shown}"
    );

    service.terminate();
    service.ended();
    page.wait_for("document.body.className", &json!("lost"));
    page.wait_for(banner, &json!("The service does not answer."));
}

pub(crate) async fn shows_hostile_texts_as_text(example: &str) {
    let set = Deployment::replica_set(HOSTILE).members(2).start().await;
    let failure = Action::Error(ErrorReply::new(1, HOSTILE, HOSTILE));
    set.server(1).script().add(Matcher::hello().then(failure));
    let uri = format!("mongodb://{},{}/?", set.address(0), set.address(1));
    let service = Service::start(example, Some(&uri));
    service.wait_for("/readyz", 200);
    let mut page = open(&service);
    for place in ["#set", "#servers .error", "#events"] {
        let text = format!("document.querySelector('{place}')?.textContent.includes('{HOSTILE}')");
        page.wait_for(&text, &json!(true));
    }
    assert_eq!(
        page.evaluate("document.querySelectorAll('img').length"),
        json!(0)
    );
    assert_eq!(page.evaluate("document.scripts.length"), json!(1));
    assert_eq!(page.evaluate("typeof hacked"), json!("undefined"));
    // Not even as markup: the policy allows the page's own script only.
    page.evaluate(&format!(
        "document.querySelector('#set').innerHTML = '{HOSTILE}'"
    ));
    page.wait_for("samples.length > 2", &json!(true));
    assert_eq!(page.evaluate("typeof hacked"), json!("undefined"));
}
