//! A headless Chromium with one page, controlled over its DevTools pipe.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The time limit of [`Browser::wait_for`].
const LIMIT: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

pub(crate) struct Browser {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    last_id: u64,
    session: Option<String>,
    _profile: TempDir,
}

struct TempDir(std::path::PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        // Remaining files are in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Browser {
    /// Opens a page.
    pub(crate) fn open(url: &str) -> Self {
        let chromium = mongo_testkit::tools::chromium().unwrap_or_else(|error| panic!("{error}"));
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("mongo-examples-browser-{}-{number}", std::process::id());
        let profile = TempDir(std::env::temp_dir().join(name));
        // The pipe is on the descriptors 3 and 4.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 >/dev/null 2>&1"#])
            .arg(chromium)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--remote-debugging-pipe", "--window-size=1100,760"])
            .arg(format!("--user-data-dir={}", profile.0.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut browser = Self {
            commands: process.stdin.take().expect("a pipe"),
            answers: BufReader::new(process.stdout.take().expect("a pipe")),
            process,
            last_id: 0,
            session: None,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": url }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        browser
    }

    /// The value of a JavaScript expression in the page; null if it fails.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let what = json!({ "expression": expression, "returnByValue": true });
        // A page that is being left answers with an error.
        let answer = self.try_call("Runtime.evaluate", what);
        answer.map_or(Value::Null, |mut answer| answer["result"]["value"].take())
    }

    /// Waits until an expression has this value.
    pub(crate) fn wait_for(&mut self, expression: &str, wanted: &Value) {
        let begun = Instant::now();
        loop {
            let value = self.evaluate(expression);
            if value == *wanted {
                return;
            }
            assert!(
                begun.elapsed() < LIMIT,
                "{expression} is {value}, not {wanted}, in:\n{}",
                self.evaluate("document.documentElement.outerHTML")
            );
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Lays the page out for a width, in light or dark mode.
    pub(crate) fn emulate(&mut self, width: u32, is_dark: bool) {
        let size = json!({ "width": width, "height": 844, "deviceScaleFactor": 1, "mobile": true });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if is_dark { "dark" } else { "light" };
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [scheme] }),
        );
    }

    /// Writes a screenshot of the whole page as a PNG.
    pub(crate) fn screenshot(&mut self, path: &Path) {
        let size = self.call("Page.getLayoutMetrics", json!({}));
        let mut clip = size["cssContentSize"].clone();
        clip["scale"] = json!(1);
        let what = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let image = self.call("Page.captureScreenshot", what);
        let image = STANDARD.decode(image["data"].as_str().expect("an image"));
        let image = image.expect("base64");
        assert!(image.starts_with(b"\x89PNG"), "no PNG");
        std::fs::write(path, image).expect("a place to write to");
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.try_call(method, params);
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        write!(self.commands, "{message}\0").expect("the browser runs");
        loop {
            let mut answer = Vec::new();
            self.answers.read_until(0, &mut answer).expect("a pipe");
            assert_eq!(answer.pop(), Some(0), "the browser ended at {method}");
            let mut answer: Value = serde_json::from_slice(&answer).expect("JSON");
            // Other messages are events.
            if answer["id"] == self.last_id {
                return match answer["error"].take() {
                    Value::Null => Ok(answer["result"].take()),
                    error => Err(error),
                };
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killed, it would leave processes that write to the profile after its removal. It may have
        // ended by itself.
        let message = json!({ "id": self.last_id + 1, "method": "Browser.close" });
        let _ = write!(self.commands, "{message}\0");
        let begun = Instant::now();
        while begun.elapsed() < LIMIT && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
