//! The files of options: the client's certificate in each format, and invalid files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mongo_core::error::TlsError;
use mongo_core::{Error, ErrorKind};
use mongo_testkit::{Authority, Identity, ServerTls};
use pkcs8::PrivateKeyInfoRef;
use pkcs8::pkcs5::pbes2::Parameters;
use rustls::version;

use crate::support::{connect, escape, factory, ping, server, trusting, uri};

/// An RSA key of 2048 bits, only for these tests. Other keys are generated at run time, which takes
/// too long for RSA.
const RSA: &str = include_str!("rsa.pem");
const PASSWORD: &str = "m4rked";

fn der(identity: &Identity) -> Vec<u8> {
    let lines = identity.key().lines();
    let body: String = lines.filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).expect("base64")
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// The key in SEC 1 format, which PKCS#8 contains.
fn sec1(identity: &Identity) -> String {
    let der = der(identity);
    // Its header, and its version.
    let version = der.windows(4).position(|bytes| bytes == [0x02, 1, 1, 4]);
    pem(
        "EC PRIVATE KEY",
        &der[version.expect("a key of SEC 1") - 2..],
    )
}

/// The key in PKCS#1 format, which starts after 26 bytes for 2048 bits.
fn pkcs1(identity: &Identity) -> String {
    pem("RSA PRIVATE KEY", &der(identity)[26..])
}

fn encrypted(identity: &Identity) -> String {
    let params = Parameters::generate_pbkdf2_sha256_aes256cbc(1000, &[7; 16], [9; 16]);
    let der = der(identity);
    let key = PrivateKeyInfoRef::try_from(&der[..]).expect("PKCS#8");
    let key = key.encrypt_with_params(params.expect("parameters"), PASSWORD);
    let key = key.expect("encrypted");
    pem("ENCRYPTED PRIVATE KEY", key.as_bytes())
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let authority = Authority::new();
    let client = authority.client("app");
    let rsa = authority.client_with_key("app", RSA);
    let file = |identity: &Identity, key: &str| {
        identity.file_of(&format!("{key}{}", identity.certificate()))
    };
    for version in [&version::TLS12, &version::TLS13] {
        let tls = ServerTls::new(authority.server()).version(version);
        let server = server(tls.clients_of(&authority)).await;
        for file in [
            client.file(),
            file(&client, &sec1(&client)),
            rsa.file(),
            file(&rsa, &pkcs1(&rsa)),
            file(&client, &encrypted(&client)),
            file(&rsa, &encrypted(&rsa)),
        ] {
            let options = format!(
                "{}&tlsCertificateKeyFile={}&tlsCertificateKeyFilePassword={PASSWORD}",
                trusting(&authority),
                escape(&file)
            );
            let uri = uri(&server, "localhost", &options);
            let mut connection = connect(&uri).await.expect("a connection");
            ping(&mut connection).await.expect("a reply");
        }
    }
}

/// With TLS 1.3 the server refuses only after the client considers the handshake complete.
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
    let encrypted_pem =
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
            "does not belong",
        ),
        (
            key,
            one.file_of(&format!("{}{encrypted_pem}", one.certificate())),
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
    let traditional = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
    let garbled = one.file_of(&format!("{}{encrypted_pem}", one.certificate()));
    let whole = one.file_of(&format!("{}{}", encrypted(&one), one.certificate()));
    for (file, password, problem) in [
        (&garbled, PASSWORD, "can't be read"),
        (&whole, "another", "wrong"),
        (&one.file_of(traditional), PASSWORD, "traditional"),
    ] {
        let file = escape(file);
        let text = refusal(&format!(
            "{key}={file}&tlsCertificateKeyFilePassword={password}"
        ));
        assert!(text.contains(problem), "{text}");
        assert!(!text.contains(password), "{text}");
    }
    let text = refusal("tlsCertificateKeyFilePassword=m4rked");
    assert!(text.contains("tlsCertificateKeyFilePassword"), "{text}");
    assert!(!text.contains("m4rked"), "{text}");
}
