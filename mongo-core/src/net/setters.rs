//! The setters that builders share.

/// The setters of a builder with `transport` and `driver_info`.
macro_rules! transport_setters {
    () => {
        /// Sets the connector that opens transports, also for monitors. Default
        /// [`SocketConnector`](crate::net::SocketConnector), or
        /// [`ProxyConnector`](crate::net::ProxyConnector) if the options name a proxy.
        #[must_use]
        pub fn connector(mut self, connector: ::std::sync::Arc<dyn crate::net::Connector>) -> Self {
            self.transport.connector = Some(connector);
            self
        }

        /// Sets the TLS configuration, also for monitors: a [`Tls`](crate::net::Tls), or an `Arc`
        /// of a `rustls::ClientConfig`. Default: from the options.
        #[cfg(feature = "tls-rustls")]
        #[must_use]
        pub fn tls(mut self, tls: impl Into<crate::net::Tls>) -> Self {
            self.transport.tls = Some(tls.into());
            self
        }

        /// Appends the embedding framework to the metadata of all handshakes, also of those of
        /// monitors, after those appended before.
        #[must_use]
        pub fn driver_info(mut self, driver_info: crate::handshake::DriverInfo) -> Self {
            self.driver_info.push(driver_info);
            self
        }
    };
}

/// The setters of a builder with `auth`.
macro_rules! auth_setters {
    () => {
        /// Sets the cache of derived keys and the executor that computes them, for all credentials.
        /// Default: a cache of its own, on tokio's blocking threads.
        #[must_use]
        pub fn keys(mut self, keys: ::std::sync::Arc<crate::net::KeyService>) -> Self {
            self.auth.keys = Some(keys);
            self
        }

        /// Sets the provider that supplies the credential, for secrets that rotate; the options
        /// must then have none. It is called whenever a connection is made; by a client without
        /// monitors, whenever a connection authenticates, which is before its first command. A
        /// failure of the provider does not change the description of the server. Default: the
        /// options' credential.
        #[must_use]
        pub fn credential_provider(
            mut self,
            provider: ::std::sync::Arc<dyn crate::net::CredentialProvider>,
        ) -> Self {
            self.auth.provider = Some(provider);
            self
        }

        /// Sets the provider of AWS credentials for `MONGODB-AWS`. Default
        /// [`AwsSources`](crate::net::AwsSources).
        #[must_use]
        pub fn aws_credential_provider(
            mut self,
            provider: ::std::sync::Arc<dyn crate::net::AwsCredentialProvider>,
        ) -> Self {
            self.auth.aws = Some(provider);
            self
        }

        /// Sets the callback that supplies access tokens for `MONGODB-OIDC`, for credentials
        /// without an `ENVIRONMENT`.
        #[must_use]
        pub fn oidc_callback(
            mut self,
            callback: ::std::sync::Arc<dyn crate::net::OidcCallback>,
        ) -> Self {
            self.auth.oidc = Some(callback);
            self
        }
    };
}

/// The setters of a builder with `resolver` and `selector`.
macro_rules! selection_setters {
    () => {
        /// Sets the resolver that looks up and polls the records of `mongodb+srv`. Default:
        /// `HickoryResolver` with the system's name servers under feature `dns`, else none. Not
        /// used without `mongodb+srv`.
        #[must_use]
        pub fn resolver(mut self, resolver: ::std::sync::Arc<dyn crate::net::DnsResolver>) -> Self {
            self.resolver = Some(resolver);
            self
        }

        /// Sets a function that filters the suitable servers of each selection
        /// (`serverSelector`).
        #[must_use]
        pub fn server_selector(mut self, selector: crate::select::ServerSelector) -> Self {
            self.selector = Some(selector);
            self
        }
    };
}

pub(crate) use auth_setters;
pub(crate) use selection_setters;
pub(crate) use transport_setters;
