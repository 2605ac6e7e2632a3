//! The processes of servers that the kit starts: `secantusd-rs`, or a `mongod` of the user's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use super::START_LIMIT;
use super::builder::RealServerBuilder;
use crate::client::Endpoint;
use crate::tls::Identity;
use crate::tools;

/// The replica set of a `mongod`.
pub(super) const SET: &str = "mongo-testkit";

/// Runs the server, and ends it as soon as this shell's input ends: when the fixture is dropped, or
/// when the test process ends in any way.
const GUARDIAN: &str = r#"
directory=$1
shift
"$@" 2>"$directory/server.log" </dev/null &
server=$!
exec >/dev/null 2>&1
read -r _
kill -9 "$server"
wait "$server"
rm -rf "$directory"
"#;

/// A program that the kit can start.
#[derive(Debug)]
pub(super) enum Program {
    Secantusd(PathBuf),
    Mongod(PathBuf),
}

/// A server's process, which ends with this.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    /// The port that the program was told to use.
    port: Option<u16>,
}

impl Program {
    /// The program of this test run.
    pub(super) fn find() -> Self {
        match tools::mongod() {
            Some(program) => Self::Mongod(program),
            None => Self::Secantusd(tools::secantusd().unwrap_or_else(|error| panic!("{error}"))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Secantusd(path) | Self::Mongod(path) => path,
        }
    }

    /// Starts a server in a directory.
    pub(super) fn spawn(&self, wanted: &RealServerBuilder, directory: &Path) -> Process {
        let mut command = Command::new("sh");
        command
            .args(["-c", GUARDIAN, "mongo-testkit"])
            .arg(directory)
            .arg(self.path());
        let port = match self {
            Self::Secantusd(_) => {
                add_secantusd(&mut command, wanted, directory);
                None
            }
            Self::Mongod(_) => {
                let port = free_port();
                add_mongod(&mut command, wanted, directory, port);
                Some(port)
            }
        };
        command
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // Ctrl-C goes only to the test process; the guardian then sees its input end.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().expect("start sh");
        Process {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            port,
        }
    }
}

impl Process {
    /// The address at which the server will listen.
    pub(super) fn endpoint(&mut self) -> Result<Endpoint, String> {
        let stdout = self.stdout.take().expect("the output of a new process");
        let announced = announced_port(stdout);
        let port = match self.port {
            Some(port) => port,
            None => announced
                .recv_timeout(START_LIMIT)
                .map_err(|error| match error {
                    RecvTimeoutError::Timeout => {
                        format!("it announced no port within {START_LIMIT:?}")
                    }
                    RecvTimeoutError::Disconnected => "it ended at once".to_owned(),
                })?,
        };
        Ok(Endpoint {
            host: "127.0.0.1".to_owned(),
            port,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stdin = None;
        // The guardian kills the server at once, so this wait is short.
        let _ = self.child.wait();
    }
}

fn add_secantusd(command: &mut Command, wanted: &RealServerBuilder, directory: &Path) {
    // An explicit file keeps the server from reading the machine's configuration.
    let configuration = directory.join("secantusd.toml");
    write(&configuration, "");
    command.arg("--config").arg(&configuration);
    command.arg("--storage-path").arg(directory.join("data"));
    command.args([
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--log-level",
        "WARNING",
    ]);
    command.args(["--cache-size", "64M", "--log-file-max", "1MB"]);
    if wanted.has_users() {
        command.arg("--auth");
    }
    if wanted.standalone {
        command.arg("--standalone");
    }
    if let Some(tls) = &wanted.tls {
        let (certificate, key) = (directory.join("server.crt"), directory.join("server.key"));
        write(&certificate, tls.server.certificate());
        write(&key, tls.server.key());
        command.arg("--tls-cert-file").arg(certificate);
        command.arg("--tls-key-file").arg(key);
        if tls.client.is_some() {
            let authority = directory.join("ca.crt");
            write(&authority, &tls.authority);
            command.arg("--tls-ca-file").arg(authority);
            command.arg("--tls-require-client-cert");
        }
    }
}

fn add_mongod(command: &mut Command, wanted: &RealServerBuilder, directory: &Path, port: u16) {
    let data = directory.join("data");
    fs::create_dir(&data).expect("a directory in a temporary directory");
    command.arg("--dbpath").arg(data);
    command.args(["--port", &port.to_string()]);
    command.args(["--bind_ip", "127.0.0.1", "--nounixsocket"]);
    command.arg("--logpath").arg(directory.join("server.log"));
    command.args(["--logappend", "--wiredTigerCacheSizeGB", "0.25"]);
    if !wanted.standalone {
        command.args(["--replSet", SET, "--oplogSize", "64"]);
    }
    if wanted.has_users() {
        command.arg("--auth");
        if !wanted.standalone {
            // The members of a set with users need a secret, a single one too.
            let secret = directory.join("set.key");
            write_secret(&secret, "bW9uZ28tdGVzdGtpdA==");
            command.arg("--keyFile").arg(secret);
        }
    }
    if let Some(tls) = &wanted.tls {
        let (own, authority) = (directory.join("server.pem"), directory.join("ca.crt"));
        write(&own, &both(&tls.server));
        write(&authority, &tls.authority);
        command.args(["--tlsMode", "requireTLS"]);
        command.arg("--tlsCertificateKeyFile").arg(own);
        command.arg("--tlsCAFile").arg(authority);
        if tls.client.is_none() {
            command.arg("--tlsAllowConnectionsWithoutCertificates");
        }
    }
}

fn both(identity: &Identity) -> String {
    format!("{}{}", identity.certificate(), identity.key())
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("write into a temporary directory");
}

/// `mongod` refuses a secret that others may read.
fn write_secret(path: &Path, text: &str) {
    write(path, text);
    #[cfg(unix)]
    {
        let only_owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, only_owner).expect("the permissions of a new file");
    }
}

/// A port that no one uses now. `mongod` announces none that it chooses itself.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

/// Reads the line in which `secantusd-rs` announces its port, and continues to read on its own
/// thread, so that the server never blocks on its output.
fn announced_port(stdout: ChildStdout) -> mpsc::Receiver<u16> {
    let (lines, received) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let port = line.rsplit(':').next().and_then(|word| word.parse().ok());
            if let (true, Some(port)) = (line.contains("listening on"), port) {
                // Only the first port has a receiver.
                let _ = lines.try_send(port);
            }
        }
    });
    received
}
