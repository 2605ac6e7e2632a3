//! Sources of AWS credentials: the configured one is used, or fails.

use std::sync::Arc;

use mongo_core::ErrorKind;

use crate::aws::{TOKEN, Variables, factory, in_an_hour, server, temporary};
use crate::endpoint::{Endpoint, answer};
use crate::support::{establish, find, texts};

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
const POD_IDENTITY: &str = "http://169.254.170.23/v1/credentials";

/// A file in the temporary directory. Dropping it removes it.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("mongo-core-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn good() -> Arc<Endpoint> {
    Endpoint::start(|_| answer(200, &temporary(&in_an_hour()))).await
}

/// EKS Pod Identity: the full URI, and the token file, which is read each time.
#[tokio::test]
async fn credentials_from_a_pod_identity() {
    let (server, endpoint) = (server().await, good().await);
    let token = File::new("pod-identity", "m4rked-one\n");
    let variables = Variables::of(&[(FULL, POD_IDENTITY), (TOKEN_FILE, token.path())]);
    let factory = factory(&server, Arc::new(variables.sources(&endpoint)));
    let mut connection = establish(&factory).await.expect("a connection");
    find(&mut connection).await.expect("authenticated");
    assert_eq!(endpoint.lines(), ["169.254.170.23:80 GET /v1/credentials"]);
    let head = endpoint.head(0);
    for header in ["Authorization: m4rked-one", "Host: 169.254.170.23"] {
        assert!(head.contains(&format!("{header}\r\n")), "{head}");
    }
    std::fs::write(&token.0, "m4rked-two").expect("written");
    let other = crate::aws::factory(&server, Arc::new(variables.sources(&endpoint)));
    establish(&other).await.expect("a connection");
    assert!(endpoint.head(1).contains("Authorization: m4rked-two\r\n"));
}

#[tokio::test]
async fn credentials_from_other_containers() {
    let server = server().await;
    let file = File::new("container", "m4rked-file");
    for (variables, line, authorization) in [
        (
            &[(FULL, "http://[fd00:ec2::23]/v1?x=y")][..],
            "[fd00:ec2::23]:80 GET /v1?x=y",
            None,
        ),
        (
            &[
                (FULL, "http://localhost:8080/c"),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic m4rked"),
            ],
            "localhost:8080 GET /c",
            Some("Basic m4rked"),
        ),
        // The file takes precedence over the variable, and the relative URI over the full one.
        (
            &[
                (RELATIVE, "/v2/x"),
                (FULL, POD_IDENTITY),
                (TOKEN_FILE, file.path()),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "m4rked"),
            ],
            "169.254.170.2:80 GET /v2/x",
            Some("m4rked-file"),
        ),
        (
            &[(FULL, "https://vault.example/c")],
            "vault.example:443 GET /c",
            None,
        ),
    ] {
        let endpoint = good().await;
        let sources = Variables::of(variables).sources(&endpoint);
        establish(&factory(&server, Arc::new(sources)))
            .await
            .expect(line);
        assert_eq!(endpoint.lines(), [line]);
        let sent = endpoint.head(0);
        let sent = sent
            .lines()
            .find_map(|line| line.strip_prefix("Authorization: "));
        assert_eq!(sent, authorization, "{line}");
    }
}

/// If a source is configured, even in part, and fails, no other source is used: it would have
/// another identity.
#[tokio::test]
async fn a_configured_source_that_fails_is_not_skipped() {
    let server = server().await;
    let (missing, good_file) = ("/nonexistent/m4rked", File::new("configured", "m4rked.jwt"));
    let (file, role) = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN");
    for (variables, expected) in [
        (
            &[(FULL, "http://db.example/m4rked")][..],
            "AWS_CONTAINER_CREDENTIALS_FULL_URI needs https",
        ),
        (&[(FULL, "m4rked")], "begins with neither http"),
        (&[(FULL, POD_IDENTITY), (TOKEN_FILE, missing)], TOKEN_FILE),
        (&[(RELATIVE, "/x"), (TOKEN_FILE, missing)], TOKEN_FILE),
        (&[(TOKEN_FILE, missing)], TOKEN_FILE),
        (&[(file, good_file.path())], "set without the other"),
        (&[(role, "m4rked")], "set without the other"),
        (
            &[(file, good_file.path()), (RELATIVE, "/x")],
            "set without the other",
        ),
        (&[(file, missing), (role, "r"), (RELATIVE, "/x")], file),
        (
            &[
                (file, good_file.path()),
                (role, "r"),
                ("AWS_STS_REGIONAL_ENDPOINTS", "regional"),
            ],
            "AWS_REGION",
        ),
        (
            &[("AWS_SESSION_TOKEN", TOKEN)],
            "AWS_SESSION_TOKEN is set without",
        ),
        (
            &[("AWS_ACCESS_KEY_ID", "m4rked"), (RELATIVE, "/x")],
            "set without the other",
        ),
        (&[("AWS_PROFILE", "m4rked")], "AWS_PROFILE"),
        (
            &[("AWS_SHARED_CREDENTIALS_FILE", missing)],
            "AWS_SHARED_CREDENTIALS_FILE",
        ),
        (&[("AWS_EC2_METADATA_DISABLED", "True")], "no source"),
    ] {
        let endpoint = good().await;
        let sources = Variables::of(variables).sources(&endpoint);
        let error = establish(&factory(&server, Arc::new(sources)))
            .await
            .expect_err(expected);
        assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
        assert!(texts(&error).contains(expected), "{expected}: {error}");
        assert_eq!(endpoint.lines(), [""; 0], "{expected}");
    }
}

#[tokio::test]
async fn the_token_service_of_the_region_is_asked() {
    let server = server().await;
    let token = File::new("sts-region", "m4rked.jwt");
    let body = format!("{{ \"Credentials\": {} }}", temporary(&in_an_hour()));
    let mode = "AWS_STS_REGIONAL_ENDPOINTS";
    for (region, host) in [
        (
            &[("AWS_REGION", "eu-central-1"), (mode, "regional")][..],
            "sts.eu-central-1.amazonaws.com",
        ),
        (
            &[("AWS_DEFAULT_REGION", "eu-central-1")],
            "sts.eu-central-1.amazonaws.com",
        ),
        (
            &[("AWS_REGION", "eu-central-1"), (mode, "legacy")],
            "sts.amazonaws.com",
        ),
        (
            &[("AWS_REGION", "me-central-1"), (mode, "legacy")],
            "sts.me-central-1.amazonaws.com",
        ),
        (
            &[("AWS_ENDPOINT_URL_STS", "https://sts.example")],
            "sts.example",
        ),
        (&[], "sts.amazonaws.com"),
    ] {
        let body = body.clone();
        let endpoint = Endpoint::start(move |_| answer(200, &body)).await;
        let identity = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path()),
            ("AWS_ROLE_ARN", "r"),
        ];
        let variables = Variables::of(&[&identity, region].concat());
        let sources = variables.sources(&endpoint);
        establish(&factory(&server, Arc::new(sources)))
            .await
            .expect(host);
        let line = endpoint.lines().remove(0);
        assert!(
            line.starts_with(&format!("{host}:443 POST /?Action=")),
            "{line}"
        );
    }
}

/// Every response of an endpoint besides the credentials: an interim response with a body, another
/// status, the request's own URL.
#[tokio::test]
async fn no_error_contains_the_body_of_an_endpoint() {
    let server = server().await;
    let token = File::new("echo", "m4rked.jwt");
    let sts = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path()),
        ("AWS_ROLE_ARN", "r"),
    ];
    let sources = [&[(RELATIVE, "/m4rked")][..], &[], &sts];
    let secret = |_: &str| temporary("m4rked");
    let echo = |line: &str| format!("cannot {line} m4rked");
    let said = |status: &'static str, body: fn(&str) -> String| {
        move |line: &str| {
            let body = body(line);
            format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        }
    };
    for variables in sources {
        for (status, body, expected) in [
            (
                "203 Non-Authoritative Information",
                secret as fn(&str) -> String,
                "answered 203 Non-Authoritative Information",
            ),
            (
                "500 Internal Server Error",
                secret,
                "answered 500 Internal Server Error",
            ),
            ("404 Not Found", echo, "answered 404 Not Found"),
            ("302 Found", echo, "answered 302 Found"),
            (
                "101 Switching Protocols",
                secret,
                "answered 101 Switching Protocols",
            ),
            ("100 Continue", secret, "cut short"),
            ("100 Continue", echo, "no HTTP answer"),
        ] {
            // The bytes after an interim response are the next response's head.
            let body = match (status, expected) {
                ("100 Continue", "cut short") => |_: &str| String::new(),
                _ => body,
            };
            let endpoint = Endpoint::start(said(status, body)).await;
            let sources = Variables::of(variables).sources(&endpoint);
            let error = establish(&factory(&server, Arc::new(sources)))
                .await
                .expect_err(status);
            assert!(matches!(error.kind(), ErrorKind::Credential(_)), "{error}");
            let texts = texts(&error);
            assert!(texts.contains(expected), "{status}: {texts}");
            assert!(texts.len() < 1024, "{}", texts.len());
        }
    }
}

#[tokio::test]
async fn an_interim_response_precedes_the_final_one() {
    let server = server().await;
    let endpoint = Endpoint::start(|_| {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        [&interim[..], &answer(200, &temporary(&in_an_hour()))].concat()
    })
    .await;
    let sources = Variables::of(&[(RELATIVE, "/x")]).sources(&endpoint);
    establish(&factory(&server, Arc::new(sources)))
        .await
        .expect("the final answer");
}
