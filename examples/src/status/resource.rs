//! The HTTP responses of the page, for any framework.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::StatusPage;
use super::report::Report;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page, which is the same for all deployments.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    include_str!("page.html")
        .replace("/* style */", STYLE)
        .replace("/* script */", SCRIPT)
});

/// Allows the page's own style and script by their hashes, requests to its own address, and nothing
/// else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// A response.
pub(super) struct Resource {
    pub(super) status: u16,
    /// Lower case.
    pub(super) headers: [(&'static str, &'static str); 5],
    pub(super) body: String,
}

impl Resource {
    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        let headers = [
            ("content-type", content_type),
            ("content-security-policy", POLICY.as_str()),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("allow", "GET, HEAD"),
        ];
        Self {
            status,
            headers,
            body,
        }
    }
}

impl StatusPage {
    pub(super) fn respond(&self, method: &str, query: Option<&str>) -> Resource {
        match (method, query) {
            ("GET" | "HEAD", Some("json")) => {
                let report = Report::new(&self.pools, &self.events);
                match serde_json::to_string(&report) {
                    Ok(report) => Resource::new(200, "application/json", report),
                    Err(_) => Resource::new(500, "text/plain", "the report failed\n".to_owned()),
                }
            }
            ("GET" | "HEAD", _) => Resource::new(200, "text/html; charset=utf-8", PAGE.clone()),
            _ => Resource::new(405, "text/plain", "method not allowed\n".to_owned()),
        }
    }
}
