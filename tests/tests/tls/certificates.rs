//! The certificates that are accepted, and the options that relax verification.

use std::sync::Arc;
use std::time::Duration;

use mongo_core::error::{CertificateProblem, TlsError, Wait};
use mongo_core::net::{SocketConnector, Tls};
use mongo_core::pools::ConnectionFactory;
use mongo_core::rustls::{ClientConfig, RootCertStore, crypto, version};
use mongo_core::{ClientOptions, Deadline, ErrorKind};
use mongo_testkit::{Authority, Identity, Matcher, ScriptedServer, ServerTls};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, CustomExtension, IsCa, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::support::{connect, escape, ping, refusal, server, trusting, uri};

#[tokio::test]
async fn names_and_addresses_are_verified() {
    let authority = Authority::new();
    for (names, host, taken) in [
        (["localhost"], "localhost", true),
        (["127.0.0.1"], "127.0.0.1", true),
        (["localhost"], "127.0.0.1", false),
        (["127.0.0.1"], "localhost", false),
        (["*.localhost"], "localhost", false),
    ] {
        let server = server(ServerTls::new(authority.issue(&names, |_| ()))).await;
        let outcome = connect(&uri(&server, host, &trusting(&authority))).await;
        match outcome {
            Ok(mut connection) => {
                assert!(taken, "{names:?} for {host}");
                ping(&mut connection).await.expect("a reply");
            }
            Err(error) => {
                assert!(!taken, "{names:?} for {host}: {error}");
                let expected = TlsError::Certificate(CertificateProblem::WrongHost);
                assert_eq!(refusal(&error, &server), expected);
            }
        }
    }
}

/// The certificate names a revocation list and requires a stapled OCSP response, which is missing.
/// Neither is checked, as the docs of `Tls` say.
#[tokio::test]
async fn revocation_is_not_checked() {
    let authority = Authority::new();
    let options = trusting(&authority);
    for more in [
        "",
        "&tlsDisableOCSPEndpointCheck=true",
        "&tlsDisableCertificateRevocationCheck=true",
    ] {
        let looks_revoked = authority.issue(&["localhost"], |params| {
            params.crl_distribution_points = vec![CrlDistributionPoint {
                uris: vec!["http://127.0.0.1:1/revoked.crl".to_owned()],
            }];
            // "TLS feature" (RFC 7633): status_request.
            let must_staple = vec![0x30, 0x03, 0x02, 0x01, 0x05];
            let id = [1, 3, 6, 1, 5, 5, 7, 1, 24];
            params.custom_extensions = vec![CustomExtension::from_oid_content(&id, must_staple)];
        });
        let server = server(ServerTls::new(looks_revoked)).await;
        let uri = uri(&server, "localhost", &format!("{options}{more}"));
        let mut connection = connect(&uri).await.expect("accepted");
        ping(&mut connection).await.expect("a reply");
    }
}

/// If only one side speaks TLS, there is an error soon, and no command was understood.
#[tokio::test(start_paused = true)]
async fn tls_on_one_side_alone_is_an_error() {
    let authority = Authority::new();
    let secured = server(ServerTls::new(authority.server())).await;
    let plain = format!(
        "mongodb://localhost:{}/?directConnection=true",
        secured.port().expect("a port")
    );
    let refused = connect(&plain).await.expect_err("no TLS");
    let kind = refused.kind();
    assert!(
        matches!(kind, ErrorKind::Network(_) | ErrorKind::Protocol(_)),
        "{kind:?}"
    );

    // This server takes the ClientHello for a long message, and waits for the rest.
    let plain = ScriptedServer::builder().record_bytes().start().await;
    let refused = connect(&uri(&plain, "localhost", &trusting(&authority))).await;
    let refused = refused.expect_err("no TLS");
    let kind = refused.kind();
    assert!(
        matches!(
            kind,
            ErrorKind::Timeout {
                wait: Wait::Tls,
                ..
            }
        ),
        "{kind:?}"
    );
    for server in [&secured, &plain] {
        assert!(server.look(|seen| seen.log.is_empty() && seen.accepted > 0));
    }
}

#[tokio::test]
async fn both_tls_versions_are_supported() {
    let authority = Authority::new();
    for version in [&version::TLS12, &version::TLS13] {
        let server = server(ServerTls::new(authority.server()).version(version)).await;
        let uri = uri(&server, "localhost", &trusting(&authority));
        let mut connection = connect(&uri).await.expect("a connection");
        ping(&mut connection).await.expect("a reply");
    }
}

/// Each option has its effect when true, and none when false.
#[tokio::test]
async fn options_relax_only_when_true() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let unknown = CertificateProblem::UnknownIssuer;
    let names = "tlsAllowInvalidHostnames";
    let (certificates, all) = ("tlsAllowInvalidCertificates", "tlsInsecure");
    let wrong_host = || authority.issue(&["other.example"], |_| ());
    for (identity, option, problem) in [
        (wrong_host(), names, CertificateProblem::WrongHost),
        (wrong_host(), certificates, CertificateProblem::WrongHost),
        (wrong_host(), all, CertificateProblem::WrongHost),
        (stranger.server(), certificates, unknown.clone()),
        (stranger.server(), all, unknown.clone()),
        (authority.self_signed(&["x.example"]), all, unknown.clone()),
    ] {
        for version in [&version::TLS12, &version::TLS13] {
            let server = server(ServerTls::new(identity.clone()).version(version)).await;
            let trusting = trusting(&authority);
            let uri = |value| {
                uri(
                    &server,
                    "localhost",
                    &format!("{trusting}&{option}={value}"),
                )
            };
            let error = connect(&uri(false)).await.map(drop).expect_err("refused");
            assert_eq!(
                refusal(&error, &server),
                TlsError::Certificate(problem.clone()),
                "{option}"
            );
            let mut connection = connect(&uri(true)).await.expect(option);
            ping(&mut connection).await.expect("a reply");
        }
    }
}

/// Allowing any host name does not allow any issuer.
#[tokio::test]
async fn allow_invalid_hostnames_does_not_allow_a_wrong_issuer() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = server(ServerTls::new(stranger.server())).await;
    let options = format!("{}&tlsAllowInvalidHostnames=true", trusting(&authority));
    let error = connect(&uri(&server, "localhost", &options)).await;
    let error = error.map(drop).expect_err("refused");
    let unknown = TlsError::Certificate(CertificateProblem::UnknownIssuer);
    assert_eq!(refusal(&error, &server), unknown);
}

/// The system roots do not contain the test's authority.
#[tokio::test]
async fn without_an_authority_file_the_system_roots_are_used() {
    let authority = Authority::new();
    let server = server(ServerTls::new(authority.server())).await;
    match connect(&uri(&server, "localhost", "")).await {
        Ok(_) => panic!("an unknown authority is trusted"),
        // A machine without roots gives an error when the connection is configured.
        Err(error) if error.to_string().contains("tls-native-roots") => {}
        Err(error) => {
            let unknown = TlsError::Certificate(CertificateProblem::UnknownIssuer);
            assert_eq!(refusal(&error, &server), unknown);
        }
    }
}

fn in_memory(authority: &Authority) -> Tls {
    let der = CertificateDer::from_pem_slice(authority.pem().as_bytes());
    let mut roots = RootCertStore::empty();
    roots.add(der.expect("a certificate")).expect("a root");
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}

#[tokio::test]
async fn a_custom_configuration_needs_no_files() {
    let authority = Authority::new();
    let server = server(ServerTls::new(authority.server())).await;
    let options = ClientOptions::parse(&uri(&server, "localhost", "")).expect("options");
    let factory = ConnectionFactory::builder(options)
        .connector(Arc::new(SocketConnector::new()))
        .tls(in_memory(&authority))
        .build()
        .expect("a factory");
    let mut connection = factory
        .establish(Deadline::never())
        .await
        .expect("connected");
    ping(&mut connection).await.expect("a reply");
}

/// Options without effect are refused.
#[tokio::test]
async fn a_custom_configuration_excludes_other_options() {
    for option in ["tls=false", "", "tlsCAFile=x", "tlsInsecure=true"] {
        let options = ClientOptions::parse(&format!("mongodb://h/?{option}")).expect("options");
        let factory = ConnectionFactory::builder(options).tls(in_memory(&Authority::new()));
        let error = factory.build().map(drop).expect_err(option);
        assert!(
            error.to_string().contains("custom TLS configuration"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn sessions_are_resumed() {
    let authority = Authority::new();
    for version in [&version::TLS12, &version::TLS13] {
        let server = server(ServerTls::new(authority.server()).version(version)).await;
        let uri = uri(&server, "localhost", &trusting(&authority));
        let factory = crate::support::factory(&uri).expect("a factory");
        for resumed in [false, true, true] {
            let mut connection = factory
                .establish(Deadline::never())
                .await
                .expect("connected");
            ping(&mut connection).await.expect("a reply");
            let seen = server.look(|seen| seen.connections[&seen.accepted].clone());
            assert_eq!(seen.resumed, resumed, "{version:?}");
        }
    }
}

/// As `openssl req -x509` makes them: a self-signed CA certificate.
#[tokio::test]
async fn a_certificate_in_the_ca_file_is_its_own_trust_anchor() {
    let authority = Authority::new();
    let of_authority = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages.clear();
    };
    let expired = |params: &mut CertificateParams| {
        of_authority(params);
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let own = |identity: &Identity| identity.file_of(identity.certificate());
    let localhost = &["localhost"];
    let plain = authority.self_signed(localhost);
    let rooted = authority.self_signed_as(localhost, of_authority);
    let other = authority.self_signed_as(localhost, of_authority);
    let elsewhere = authority.self_signed_as(&["db.example"], of_authority);
    let old = authority.self_signed_as(localhost, expired);
    for (what, identity, trusted, problem) in [
        ("no authority", &plain, own(&plain), None),
        ("an authority", &rooted, own(&rooted), None),
        (
            "another one",
            &rooted,
            own(&other),
            Some(CertificateProblem::OfAuthority),
        ),
        (
            "another host",
            &elsewhere,
            own(&elsewhere),
            Some(CertificateProblem::WrongHost),
        ),
        (
            "expired",
            &old,
            own(&old),
            Some(CertificateProblem::Expired),
        ),
    ] {
        let server = server(ServerTls::new(identity.clone())).await;
        let options = format!("&tlsCAFile={}", escape(&trusted));
        let connected = connect(&uri(&server, "localhost", &options)).await;
        match (connected, problem) {
            (Ok(mut connection), None) => ping(&mut connection).await.expect("a reply"),
            (Err(error), Some(problem)) => {
                let text = error.to_string();
                assert!(!text.contains("CaUsed"), "{what}: {text}");
                let found = refusal(&error, &server);
                let unknown = TlsError::Certificate(CertificateProblem::UnknownIssuer);
                let expected = TlsError::Certificate(problem);
                assert!(
                    found == expected || what == "another one" && found == unknown,
                    "{what}: {text}"
                );
            }
            (outcome, _) => panic!("{what}: {:?}", outcome.map(drop)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn renewed_authorities_are_read_again() {
    let (former, renewed) = (Authority::new(), Authority::new());
    let server = server(ServerTls::new(renewed.server())).await;
    let file = former.file();
    let uri = uri(&server, "localhost", &trusting(&former));
    let factory = crate::support::factory(&uri).expect("a factory");
    let connect = async || factory.establish(Deadline::never()).await.map(drop);
    connect().await.expect_err("not trusted yet");
    std::fs::write(&file, renewed.pem()).expect("a file");
    connect().await.expect_err("not read again yet");
    tokio::time::advance(Duration::from_secs(6)).await;
    // A partially written file changes nothing.
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----").expect("a file");
    connect().await.expect_err("not trusted");
    std::fs::write(&file, renewed.pem()).expect("a file");
    tokio::time::advance(Duration::from_secs(6)).await;
    connect().await.expect_err("read again after this");
    connect().await.expect("trusted");
}

#[tokio::test(start_paused = true)]
async fn a_renewed_certificate_of_the_client_is_read_again() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for version in [&version::TLS12, &version::TLS13] {
        let tls = ServerTls::new(authority.server()).version(version);
        let server = server(tls.clients_of(&authority)).await;
        let former = stranger.client("app");
        let file = former.file();
        let options = format!(
            "{}&tlsCertificateKeyFile={}",
            trusting(&authority),
            escape(&file)
        );
        let factory = crate::support::factory(&uri(&server, "localhost", &options));
        let factory = factory.expect("a factory");
        let connect = async || factory.establish(Deadline::never()).await.map(drop);
        let refused = connect().await.expect_err("a stranger").to_string();
        assert!(refused.contains("the client's certificate"), "{refused}");
        let renewed = authority.client("app");
        let text = format!("{}{}", renewed.certificate(), renewed.key());
        std::fs::write(&file, text).expect("a file");
        tokio::time::advance(Duration::from_secs(6)).await;
        connect().await.expect_err("read again after this");
        connect().await.expect("known");
    }
}

#[tokio::test]
async fn a_cut_connection_is_reported_as_closed_by_the_server() {
    let authority = Authority::new();
    let server = server(ServerTls::new(authority.server())).await;
    let uri = uri(&server, "localhost", &trusting(&authority));
    let mut connection = connect(&uri).await.expect("a connection");
    let cut = Matcher::command("ping").once().drop_connection();
    server.script().add(cut);
    let error = ping(&mut connection).await.expect_err("cut");
    let text = error.to_string();
    assert!(text.contains("the server closed the connection"), "{text}");
    assert!(!text.contains("close_notify"), "{text}");
}

/// The files are read on a thread that others may hold for longer than an attempt may take.
#[test]
fn renewed_authorities_are_read_again_also_by_an_attempt_that_ran_out_of_time() {
    let server_runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (former, renewed) = (Authority::new(), Authority::new());
    let server = server_runtime.block_on(server(ServerTls::new(renewed.server())));
    let file = former.file();
    let options = format!("{}&connectTimeoutMS=300", trusting(&former));
    let uri = uri(&server, "localhost", &options).replace("localhost", "127.0.0.1");
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build();
    runtime.expect("a runtime").block_on(async {
        let factory = crate::support::factory(&uri).expect("a factory");
        let connect = async || factory.establish(Deadline::never()).await.map(drop);
        let first = connect().await.expect_err("not trusted yet");
        std::fs::write(&file, renewed.pem()).expect("a file");
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        tokio::time::resume();
        let (free, is_free) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || is_free.recv());
        let second = connect().await.expect_err("not read yet");
        free.send(()).expect("it is held");
        holding.await.expect("no panic").expect("freed");
        // After whatever waited for the thread.
        tokio::task::spawn_blocking(|| ()).await.expect("no panic");
        let third = connect().await;
        assert!(third.is_ok(), "{first}\n{second}\n{third:?}");
    });
}
