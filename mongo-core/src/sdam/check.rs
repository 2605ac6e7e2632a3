//! What a monitor is asked to do, and the commands for it.

use std::fmt;
use std::time::Duration;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;
use bson::raw::cstr;

use super::TopologyVersion;
use crate::address::ServerAddress;
use crate::handshake::ServerApi;
use crate::uri::{ClientOptions, ServerMonitoringMode};

/// The least time from the end of one check of a server to the next (`minHeartbeatFrequencyMS`).
pub const MIN_HEARTBEAT_FREQUENCY: Duration = Duration::from_millis(500);

/// What a monitor keeps to.
///
/// Specification: server monitoring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MonitorSettings {
    /// The topology that the events name.
    pub topology_id: ObjectId,
    /// The server.
    pub server: ServerAddress,
    /// The time from the end of one check to the next (`heartbeatFrequencyMS`), and the time that
    /// the server may wait for a change before it answers. Less than
    /// [`MIN_HEARTBEAT_FREQUENCY`] counts as that. Default 10 s.
    pub heartbeat_frequency: Duration,
    /// How long opening a connection with its handshake may take, and how long the answer to a
    /// hello (`connectTimeoutMS`); an awaited one may take `heartbeat_frequency` more. `None` is
    /// without end, for these too. Default 10 s.
    pub connect_timeout: Option<Duration>,
    /// Whether the server is to answer when something changes, if it can. Default true.
    pub streaming: bool,
    /// The stable API, if it was asked for.
    pub server_api: Option<ServerApi>,
}

impl MonitorSettings {
    /// Settings by default.
    pub fn new(topology_id: ObjectId, server: ServerAddress) -> Self {
        Self {
            topology_id,
            server,
            heartbeat_frequency: Duration::from_secs(10),
            connect_timeout: Some(Duration::from_secs(10)),
            streaming: true,
            server_api: None,
        }
    }

    /// What the options say. `on_faas` is whether this process runs on a function-as-a-service
    /// platform, on which `serverMonitoringMode=auto` does not stream.
    pub fn from_options(
        topology_id: ObjectId,
        server: ServerAddress,
        options: &ClientOptions,
        on_faas: bool,
    ) -> Self {
        Self {
            heartbeat_frequency: options.heartbeat_frequency,
            connect_timeout: options.connect_timeout,
            streaming: match options.server_monitoring_mode {
                ServerMonitoringMode::Stream => true,
                ServerMonitoringMode::Poll => false,
                ServerMonitoringMode::Auto => !on_faas,
            },
            server_api: options.server_api,
            ..Self::new(topology_id, server)
        }
    }

    pub(super) fn frequency(&self) -> Duration {
        self.heartbeat_frequency.max(MIN_HEARTBEAT_FREQUENCY)
    }

    /// The hello for a connection that has shaken hands, without `$db`.
    pub(crate) fn hello(&self, hello_ok: bool, awaits: Option<TopologyVersion>) -> RawDocumentBuf {
        let mut command = RawDocumentBuf::new();
        if hello_ok || self.server_api.is_some() {
            command.append(cstr!("hello"), 1);
        } else {
            command.append(cstr!("isMaster"), 1);
        }
        command.append(cstr!("helloOk"), true);
        if let Some(version) = awaits {
            let mut own = RawDocumentBuf::new();
            own.append(cstr!("processId"), version.process_id);
            own.append(cstr!("counter"), version.counter);
            command.append(cstr!("topologyVersion"), own);
            let limit = i64::try_from(self.frequency().as_millis()).unwrap_or(i64::MAX);
            command.append(cstr!("maxAwaitTimeMS"), limit);
        }
        if let Some(api) = &self.server_api {
            api.append_to(&mut command);
        }
        command
    }
}

/// Whether a server says by a code that it has no command `hello`, whatever its `helloOk` said:
/// `CommandNotFound` and `CommandNotSupported`.
pub(crate) fn lacks_hello(code: i32) -> bool {
    matches!(code, 59 | 115)
}

/// What is to be done to check a server. The command runs on `admin`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Check {
    /// Open a connection, say so just before the hello is written, and give the hello's reply. It
    /// must not authenticate, and the hello must not ask for mechanisms.
    Connect,
    /// Send a hello, and give the reply.
    Hello(RawDocumentBuf),
    /// Send a hello with the flag `exhaustAllowed`, and give the reply, which may be the first of a
    /// stream.
    AwaitableHello(RawDocumentBuf),
    /// Send nothing, and give the next reply of the stream.
    NextReply,
}

impl Check {
    /// Whether the server answers only when something changes, or a time is over.
    pub fn is_awaited(&self) -> bool {
        match self {
            Self::Connect | Self::Hello(_) => false,
            Self::AwaitableHello(_) | Self::NextReply => true,
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "Connect",
            Self::Hello(_) => "Hello",
            Self::AwaitableHello(_) => "AwaitableHello",
            Self::NextReply => "NextReply",
        })
    }
}
