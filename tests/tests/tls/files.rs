//! The files that options name: the client's certificate in each format, and what can't be used.

use mongo_core::error::TlsError;
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Authority, Identity, ServerTls};
use rustls::version;

use crate::support::{connect, escape, factory, ping, server, trusting, uri};

/// The key of [`Identity`] in the format of SEC 1, which PKCS#8 has in it.
fn sec1(identity: &Identity) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let lines = identity.key().lines();
    let body: String = lines.filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(body).expect("base64");
    // An integer, an algorithm of 19 bytes and the header of an octet string come before it.
    let start = der.windows(4).position(|bytes| bytes == [0x02, 1, 1, 4]);
    let start = start.expect("a key of SEC 1") - 2;
    let text = STANDARD.encode(&der[start..]);
    format!("-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n")
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let authority = Authority::new();
    let client = authority.client("app");
    for version in [&version::TLS12, &version::TLS13] {
        let tls = ServerTls::new(authority.server()).version(version);
        let server = server(tls.clients_of(&authority)).await;
        let sec1 = format!("{}{}", sec1(&client), client.certificate());
        for file in [client.file(), client.file_of(&sec1)] {
            let options = format!(
                "{}&tlsCertificateKeyFile={}",
                trusting(&authority),
                escape(&file)
            );
            let uri = uri(&server, "localhost", &options);
            let mut connection = connect(&uri).await.expect("a connection");
            ping(&mut connection).await.expect("a reply");
        }
    }
}

/// With TLS 1.3 the server says so only when the client takes itself for connected.
#[tokio::test]
async fn a_server_that_refuses_the_client_is_quoted() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for version in [&version::TLS12, &version::TLS13] {
        let tls = ServerTls::new(authority.server()).version(version);
        let server = server(tls.clients_of(&authority)).await;
        let foreign = escape(&stranger.client("app").file());
        for more in ["", &format!("&tlsCertificateKeyFile={foreign}")] {
            let options = format!("{}{more}", trusting(&authority));
            let error = connect(&uri(&server, "localhost", &options)).await;
            let error = error.map(drop).expect_err("refused");
            let refused = matches!(error.kind(), ErrorKind::Tls(TlsError::Refused(_)));
            assert!(refused, "{error:?}");
            assert_eq!(server.look(|seen| seen.hellos()), 0);
        }
    }
}

fn refusal(options: &str) -> String {
    let error = factory(&format!("mongodb://h/?tls=true&{options}"));
    let error: Error = error.map(drop).expect_err("refused");
    assert!(
        matches!(error.kind(), ErrorKind::Configuration(_)),
        "{error:?}"
    );
    error.to_string()
}

#[test]
fn errors_name_the_option_and_the_file() {
    let authority = Authority::new();
    let (one, other) = (authority.client("one"), authority.client("other"));
    let garbled = "-----BEGIN CERTIFICATE-----\nMIIm4rked!\n-----END CERTIFICATE-----\n";
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIm4rked\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let (ca, key) = ("tlsCAFile", "tlsCertificateKeyFile");
    for (option, file, problem) in [
        (ca, "/no/such/file".into(), "No such file"),
        (ca, std::env::temp_dir(), "directory"),
        (ca, one.file_of(""), "no PEM certificate"),
        (ca, one.file_of(garbled), "can't be read"),
        (ca, one.file_of(&"x".repeat(1024 * 1024 + 1)), "1 MiB"),
        (key, "/no/such/file".into(), "No such file"),
        (key, one.file_of(one.certificate()), "private key"),
        (key, one.file_of(one.key()), "no PEM certificate"),
        (
            key,
            one.file_of(&format!("{}{}", one.certificate(), other.key())),
            "keys",
        ),
        (
            key,
            one.file_of(&format!("{}{encrypted}", one.certificate())),
            "tlsCertificateKeyFilePassword",
        ),
    ] {
        let text = refusal(&format!("{option}={}", escape(&file)));
        let file = file.to_str().expect("UTF-8");
        for part in [option, file, problem] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("m4rked"), "{text}");
    }
    let text = refusal("tlsCertificateKeyFilePassword=m4rked");
    assert!(text.contains("tlsCertificateKeyFilePassword"), "{text}");
    assert!(!text.contains("m4rked"), "{text}");
}
