//! Options while they are read: parts that form one value but are read separately.

use std::collections::HashSet;

use super::error::{UriError, UriWarning};
use super::{ClientOptions, ProxyOptions, SrvOptions};
use crate::auth::{AuthMechanism, Credential, Secret};

/// Options while they are read.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) options: ClientOptions,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) mechanism: Option<AuthMechanism>,
    /// A whole credential, instead of its parts.
    pub(super) credential: Option<Credential>,
    pub(super) properties: Vec<(String, Secret)>,
    pub(super) gssapi_service_name: Option<String>,
    pub(super) tls_differs: bool,
    /// Whether a TLS option was ignored because its value is invalid.
    pub(super) tls_ignored: bool,
    pub(super) srv_service_name: Option<String>,
    pub(super) srv_max_hosts: Option<u32>,
    pub(super) proxy_host: Option<String>,
    pub(super) proxy_port: Option<u16>,
    pub(super) proxy_username: Option<String>,
    pub(super) proxy_password: Option<Secret>,
    pub(super) seen: HashSet<&'static str>,
}

impl Draft {
    pub(super) fn warn(&mut self, warning: UriWarning) {
        self.options.warnings.push(warning);
    }

    pub(super) fn set_srv(&mut self, name: &str) {
        self.options.hosts = Vec::new();
        self.options.srv = Some(SrvOptions::new(name));
    }

    /// Assembles the parts.
    pub(super) fn finish(mut self) -> Result<ClientOptions, UriError> {
        if self.tls_differs {
            return Err(UriError::Conflict {
                first: "tls",
                second: "ssl with another value",
            });
        }
        // The ignored option implies TLS.
        if self.tls_ignored {
            self.options.tls.enabled.get_or_insert(true);
        }
        self.finish_srv()?;
        self.finish_proxy()?;
        self.finish_credential()?;
        Ok(self.options)
    }

    fn finish_srv(&mut self) -> Result<(), UriError> {
        let (service_name, max_hosts) = (self.srv_service_name.take(), self.srv_max_hosts.take());
        let needs = "mongodb+srv";
        match (&mut self.options.srv, service_name, max_hosts) {
            (None, None, None) => {}
            (None, Some(_), _) => {
                return Err(UriError::Requires {
                    option: "srvServiceName",
                    needs,
                });
            }
            (None, None, Some(_)) => {
                return Err(UriError::Requires {
                    option: "srvMaxHosts",
                    needs,
                });
            }
            (Some(srv), service_name, max_hosts) => {
                srv.max_hosts = max_hosts.unwrap_or(srv.max_hosts);
                if let Some(name) = service_name {
                    srv.service_name = name;
                }
            }
        }
        Ok(())
    }

    fn finish_proxy(&mut self) -> Result<(), UriError> {
        let requires = |option, needs| Err(UriError::Requires { option, needs });
        let Some(host) = self.proxy_host.take() else {
            return match (self.proxy_port, &self.proxy_username, &self.proxy_password) {
                (None, None, None) => Ok(()),
                (Some(_), _, _) => requires("proxyPort", "proxyHost"),
                (None, Some(_), _) => requires("proxyUsername", "proxyHost"),
                (None, None, Some(_)) => requires("proxyPassword", "proxyHost"),
            };
        };
        let credential = match (self.proxy_username.take(), self.proxy_password.take()) {
            (None, None) => None,
            (Some(username), Some(password)) => Some((username, password)),
            (Some(_), None) => return requires("proxyUsername", "proxyPassword"),
            (None, Some(_)) => return requires("proxyPassword", "proxyUsername"),
        };
        self.options.proxy = Some(ProxyOptions {
            host,
            port: self.proxy_port.unwrap_or(ProxyOptions::DEFAULT_PORT),
            credential,
        });
        Ok(())
    }

    /// Sets the credential, if there is a user name, a password, a mechanism or a whole credential.
    /// A database, `authSource` or properties alone make none.
    fn finish_credential(&mut self) -> Result<(), UriError> {
        if let Some(name) = self.gssapi_service_name.take() {
            self.properties
                .insert(0, ("SERVICE_NAME".to_owned(), name.into()));
        }
        let in_parts =
            self.username.is_some() || self.password.is_some() || self.mechanism.is_some();
        let credential = match (self.credential.take(), in_parts) {
            (Some(_), true) => {
                return Err(UriError::Conflict {
                    first: "credential",
                    second: "username, password or authMechanism",
                });
            }
            (Some(credential), false) => credential,
            (None, true) => self.credential_from_parts(),
            (None, false) => {
                if !self.properties.is_empty() {
                    self.warn(UriWarning::NoEffect {
                        option: "authMechanismProperties",
                        without: "authMechanism",
                    });
                }
                return Ok(());
            }
        };
        self.options.credential = Some(credential);
        // A TXT record may name the source, which overrides the default.
        if self.options.srv.is_none() || self.options.auth_source.is_some() {
            self.options.settle_source();
        }
        Ok(())
    }

    fn credential_from_parts(&mut self) -> Credential {
        let mut credential = Credential::default();
        if let Some(username) = self.username.take() {
            credential = credential.with_username(username);
        }
        if let Some(password) = self.password.take() {
            credential = credential.with_password(password);
        }
        if let Some(mechanism) = self.mechanism {
            credential = credential.with_mechanism(mechanism);
        }
        for (name, value) in self.properties.drain(..) {
            credential = credential.with_mechanism_property(&name, value);
        }
        credential
    }
}

impl ClientOptions {
    /// Sets the source of a credential without one: `authSource`, else its default.
    pub(super) fn settle_source(&mut self) {
        let Some(credential) = self.credential.take() else {
            return;
        };
        self.credential = Some(match (credential.source(), &self.auth_source) {
            (Some(_), _) => credential,
            (None, Some(source)) => credential.with_source(source),
            (None, None) => {
                let database = self.default_database.as_deref();
                let source = credential.default_source(database).to_owned();
                credential.with_source(source)
            }
        });
    }
}
