//! Failures of the network, as opposed to those of this process.

use std::io;

use super::{Error, ErrorKind, Wait};
use crate::socks5::ProxyProblem;

/// A failure to open a socket, to read from it or to write to it, timeouts included.
pub(crate) fn is_network_error(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Connect(error) | ErrorKind::Network(error) => !is_of_process(error),
        ErrorKind::Proxy(error) => match &error.problem {
            ProxyProblem::Connect(error) | ProxyProblem::Network(error) => !is_of_process(error),
            _ => true,
        },
        ErrorKind::Timeout { wait, .. } => match wait {
            Wait::Connect
            | Wait::Tls
            | Wait::Proxy
            | Wait::Handshake
            | Wait::Authentication
            | Wait::Command
            | Wait::Heartbeat
            | Wait::Drain => true,
            Wait::Dns | Wait::Credential | Wait::WaitQueue | Wait::Recycle | Wait::Hook => false,
        },
        _ => false,
    }
}

/// Whether this process or its system can't open another socket. No server causes that.
pub(crate) fn is_of_process(error: &io::Error) -> bool {
    /// `EMFILE` and `ENFILE` on all Unixes; `WSAEMFILE` on Windows.
    const TOO_MANY_FILES: &[i32] = match cfg!(windows) {
        true => &[10024],
        false => &[24, 23],
    };
    let code = error.raw_os_error();
    code.is_some_and(|code| TOO_MANY_FILES.contains(&code))
}
