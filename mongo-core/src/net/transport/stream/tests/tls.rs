//! Callbacks of an application's TLS configuration that panic while an idle stream is checked.

use std::sync::{Arc, mpsc};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A self-signed certificate and its key, for tests only.
const IDENTITY: &[u8] = include_bytes!("identity.pem");

/// Trusts any server.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Stores no sessions. May panic when it gets a ticket.
#[derive(Debug)]
struct Tickets {
    panics: bool,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        assert!(!self.panics, "on purpose");
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

fn connector(panics: bool) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.expect("TLS 1.3").dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(Tickets { panics }));
    TlsConnector::from(Arc::new(config))
}

fn acceptor() -> TlsAcceptor {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.expect("TLS 1.3").with_no_client_auth();
    let certificate = CertificateDer::from_pem_slice(IDENTITY).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(IDENTITY).expect("a key");
    let config = builder.with_single_cert(vec![certificate], key);
    TlsAcceptor::from(Arc::new(config.expect("a configuration")))
}

/// A stream whose server has sent session tickets that the client has not read, and a sender that
/// ends the server.
async fn stream(panics: bool) -> (Stream, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (sent, is_sent) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let (stream, _) = listener.accept().expect("a client");
            stream.set_nonblocking(true).expect("an option");
            let stream = TcpStream::from_std(stream).expect("registered");
            let mut stream = acceptor().accept(stream).await.expect("TLS");
            stream.flush().await.expect("flushed");
            sent.send(()).expect("waited for");
            let _ = ended.recv();
        });
    });
    let transport = Stream::Tcp(TcpStream::connect(address).await.expect("connected"));
    let name = ServerName::try_from("localhost").expect("a name");
    let connected = connector(panics).connect(name, transport).await;
    // The client's runtime does not run here.
    let waited = is_sent.recv_timeout(Duration::from_secs(10));
    waited.expect("tickets");
    (Stream::Tls(Box::new(connected.expect("TLS"))), end)
}

#[tokio::test]
async fn a_ticket_does_not_end_an_idle_stream() {
    let (mut stream, _end) = stream(false).await;
    assert_eq!(stream.check_idle(false), Ok(()));
    assert_eq!(stream.check_idle(false), Ok(()));
}

#[tokio::test]
async fn a_callback_that_panics_in_an_idle_check_fails_the_stream() {
    let (mut stream, _end) = stream(true).await;
    for _ in 0..2 {
        assert_eq!(stream.check_idle(false), Err(ClosedReason::Network));
    }
    // The rustls session is not used again.
    let written = stream.write_all(b"x").await.expect_err("gone");
    let read = stream.read(&mut [0]).await.expect_err("gone");
    for error in [written, read] {
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
