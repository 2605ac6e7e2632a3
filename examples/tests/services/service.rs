//! A service that runs as a separate process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::program;

/// The time limit for an expected response, and for the end of a service.
const LIMIT: Duration = Duration::from_secs(25);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

pub(crate) struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
    /// Reads its log, so that it never blocks on the pipe.
    log: Option<JoinHandle<String>>,
    /// The URI of the embedded deployment.
    pub(crate) embedded: Option<String>,
    /// Its public address.
    pub(crate) address: String,
    /// Its address for operators.
    pub(crate) admin: String,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Service {
    /// Starts a service, on a deployment or the embedded one, and waits until it listens.
    pub(crate) fn start(example: &str, uri: Option<&str>) -> Self {
        Self::start_with(example, uri, &[("DRAIN", "1s")])
    }

    /// [`start`](Self::start), with settings.
    pub(crate) fn start_with(example: &str, uri: Option<&str>, settings: &[(&str, &str)]) -> Self {
        let mut service = Self::spawn(example, uri, settings);
        while service.address.is_empty() || service.admin.is_empty() {
            let mut line = String::new();
            service.output.read_line(&mut line).expect("text");
            assert!(!line.is_empty(), "{example} ended: {}", service.log());
            for (what, place) in [
                ("listening at http://", &mut service.address),
                ("for operators: http://", &mut service.admin),
            ] {
                if let Some(address) = line.strip_prefix(what) {
                    address.trim().clone_into(place);
                }
            }
            if let Some(uri) = line.strip_prefix("started an embedded replica set: ") {
                service.embedded = Some(uri.trim().to_owned());
            }
        }
        service
    }

    /// Starts a service that must fail, and returns its log.
    pub(crate) fn fails(example: &str, uri: &str) -> String {
        let mut service = Self::spawn(example, Some(uri), &[]);
        let status = service.end();
        assert!(!status.success(), "{status}");
        service.log()
    }

    fn spawn(example: &str, uri: Option<&str>, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program(example));
        command
            .env("LISTEN", "127.0.0.1:0")
            .env("ADMIN", "127.0.0.1:0")
            .env_remove("MONGO__URL")
            .env_remove("RUST_LOG")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(uri) = uri {
            command.env("MONGO__URL", uri);
        }
        let mut process = command.spawn().expect("the example");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut errors = process.stderr.take().expect("a pipe");
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            errors.read_to_string(&mut log).expect("text");
            log
        });
        Self {
            process,
            output,
            log: Some(log),
            embedded: None,
            address: String::new(),
            admin: String::new(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    /// Sends a request to the address that serves the path.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        match path.starts_with("/notes") {
            true => Self::ask_at(&self.address, method, path, body),
            false => Self::ask_at(&self.admin, method, path, body),
        }
    }

    pub(crate) fn ask_at(address: &str, method: &str, path: &str, body: &str) -> Answer {
        let mut socket = TcpStream::connect(address).expect("it listens");
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
        )
        .expect("it reads");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("an answer");
        let (headers, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            headers: headers.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Sends the head of a request, so that the service waits for its body.
    pub(crate) fn stall(&self, path: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).expect("it listens");
        write!(
            socket,
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\n\
             Content-Type: application/json\r\nContent-Length: 100\r\n\r\n",
            self.address
        )
        .expect("it reads");
        let wanted = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut answer = [0; 25];
        socket.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, wanted);
        socket
    }

    /// Repeats a request until the response has this status.
    pub(crate) fn wait_for(&self, path: &str, status: u16) -> Answer {
        let begun = Instant::now();
        loop {
            let answer = self.get(path);
            if answer.status == status {
                return answer;
            }
            assert!(
                begun.elapsed() < LIMIT,
                "{path}: {} {}",
                answer.status,
                answer.body
            );
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Sends SIGTERM, as an orchestrator does.
    pub(crate) fn terminate(&self) {
        let id = self.process.id().to_string();
        let kill = Command::new("kill").args(["-TERM", &id]).status();
        assert!(kill.expect("a shell's kill").success());
    }

    /// Waits for its successful end, and returns its log.
    pub(crate) fn ended(mut self) -> String {
        let status = self.end();
        let log = self.log();
        let mut output = String::new();
        self.output.read_to_string(&mut output).expect("text");
        assert!(status.success(), "{status}\n{output}\n{log}");
        assert!(output.ends_with("stopped\n"), "{output}");
        log
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("its end") {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn log(&mut self) -> String {
        let log = self.log.take().expect("it is read once");
        log.join().expect("no panic")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
