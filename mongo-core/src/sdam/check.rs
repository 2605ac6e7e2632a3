//! A monitor's checks and their commands.

use std::fmt;
use std::time::Duration;

use bson::RawDocumentBuf;
use bson::oid::ObjectId;
use bson::raw::cstr;

use super::TopologyVersion;
use crate::address::ServerAddress;
use crate::handshake::ServerApi;
use crate::uri::{ClientOptions, ServerMonitoringMode};

/// The minimum time from the end of one check of a server to the next (`minHeartbeatFrequencyMS`).
pub const MIN_HEARTBEAT_FREQUENCY: Duration = Duration::from_millis(500);

/// The settings of a monitor.
///
/// Specification: server monitoring.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MonitorSettings {
    /// The topology's id in the events.
    pub topology_id: ObjectId,
    /// The server.
    pub server: ServerAddress,
    /// The time from the end of one check to the next (`heartbeatFrequencyMS`), and how long the
    /// server may wait for a change before it answers. A value below [`MIN_HEARTBEAT_FREQUENCY`] is
    /// raised to it. Default 10 s.
    pub heartbeat_frequency: Duration,
    /// The timeout for opening a connection with its handshake, and for the reply to a hello
    /// (`connectTimeoutMS`). An awaited reply may take `heartbeat_frequency` longer. `None` is no
    /// timeout, for awaited replies too. Default 10 s.
    pub connect_timeout: Option<Duration>,
    /// Whether to use the streaming protocol if the server supports it: it then answers when its
    /// state changes. Default true.
    pub streaming: bool,
    /// The stable API, if it is used.
    pub server_api: Option<ServerApi>,
}

impl MonitorSettings {
    /// Default settings.
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

    /// Settings from the options. `on_faas` is whether this process runs on a function-as-a-service
    /// platform, where `serverMonitoringMode=auto` does not stream.
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

    /// The hello for a connection whose handshake is completed, without `$db`.
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

/// Whether an error code says that the server has no command `hello`, whatever its `helloOk` said:
/// `CommandNotFound` and `CommandNotSupported`.
pub(crate) fn lacks_hello(code: i32) -> bool {
    matches!(code, 59 | 115)
}

/// A step of a server check. The command runs on `admin`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Check {
    /// Open a connection, report it just before the hello is written, and pass in the hello's
    /// reply. The connection must not authenticate, and the hello must not request mechanisms.
    Connect,
    /// Send a hello, and pass in the reply.
    Hello(RawDocumentBuf),
    /// Send a hello with the flag `exhaustAllowed`, and pass in the reply, which may be the first
    /// of a stream.
    AwaitableHello(RawDocumentBuf),
    /// Send nothing, and pass in the next reply of the stream.
    NextReply,
}

impl Check {
    /// Whether the server answers only when its state changes or its wait is over.
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
