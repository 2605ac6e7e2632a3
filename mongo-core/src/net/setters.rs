//! The setters that builders share.

/// The setters of a builder with `transport` and `driver_info`, itself or in a part.
macro_rules! transport_setters {
    ($($part:ident)?) => {
        /// Sets the connector that opens transports, also for monitors. Default
        /// [`SocketConnector`](crate::net::SocketConnector), or
        /// [`ProxyConnector`](crate::net::ProxyConnector) if the options name a proxy.
        #[must_use]
        pub fn connector(mut self, connector: ::std::sync::Arc<dyn crate::net::Connector>) -> Self {
            self.$($part.)?transport.connector = Some(connector);
            self
        }

        /// Sets the TLS configuration, also for monitors: a [`Tls`](crate::net::Tls), or an `Arc`
        /// of a `rustls::ClientConfig`. Default: from the options.
        #[cfg(feature = "tls-rustls")]
        #[must_use]
        pub fn tls(mut self, tls: impl Into<crate::net::Tls>) -> Self {
            self.$($part.)?transport.tls = Some(tls.into());
            self
        }

        /// Appends the embedding framework to the metadata of all handshakes, also of those of
        /// monitors, after those appended before.
        #[must_use]
        pub fn driver_info(mut self, driver_info: crate::handshake::DriverInfo) -> Self {
            self.$($part.)?driver_info.push(driver_info);
            self
        }
    };
}

/// The setters of a builder with `auth`, likewise.
macro_rules! auth_setters {
    ($($part:ident)?) => {
        /// Sets the cache of derived keys and the executor that computes them, for all credentials.
        /// Default: a cache of its own, on tokio's blocking threads.
        #[must_use]
        pub fn keys(mut self, keys: ::std::sync::Arc<crate::net::KeyService>) -> Self {
            self.$($part.)?auth.keys = Some(keys);
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
            self.$($part.)?auth.provider = Some(provider);
            self
        }

        /// Sets the provider of AWS credentials for `MONGODB-AWS`. Default
        /// [`AwsSources`](crate::net::AwsSources).
        #[must_use]
        pub fn aws_credential_provider(
            mut self,
            provider: ::std::sync::Arc<dyn crate::net::AwsCredentialProvider>,
        ) -> Self {
            self.$($part.)?auth.aws = Some(provider);
            self
        }

        /// Sets the callback that supplies access tokens for `MONGODB-OIDC`, for credentials
        /// without an `ENVIRONMENT`.
        #[must_use]
        pub fn oidc_callback(
            mut self,
            callback: ::std::sync::Arc<dyn crate::net::OidcCallback>,
        ) -> Self {
            self.$($part.)?auth.oidc = Some(callback);
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

/// The setters of a builder with `on_connect`, likewise.
macro_rules! connect_setters {
    ($($part:ident)?) => {
        /// Sets an async function that initialises each new connection. It runs after
        /// authentication, within `connectTimeoutMS`, also for connections that are made in
        /// advance. No caller gets a connection before the function has succeeded on it. It may run
        /// any command. Default none.
        ///
        /// ```
        /// # use mongo_core::bson::doc;
        /// # use mongo_core::pools::ConnectionFactory;
        /// # use mongo_core::{ClientOptions, Connection};
        /// # let options = ClientOptions::default();
        /// let builder = ConnectionFactory::builder(options);
        /// let builder = builder.on_connect(async |connection: &mut Connection| {
        ///     let ping = doc! { "ping": 1 };
        ///     connection.run_command("admin", &ping).await?;
        ///     Ok(())
        /// });
        /// # drop(builder);
        /// ```
        ///
        /// An async closure must name the type of its parameter and capture nothing. For one that
        /// captures, see [`on_connect_boxed`](Self::on_connect_boxed).
        ///
        /// # Errors of check-outs
        /// If the function fails or panics, the connection is closed, its slot is free, and the
        /// caller that it was for gets
        /// [`ErrorKind::OnConnect`](crate::ErrorKind::OnConnect) at once. The description of the
        /// server does not change. If the function does not end in time, that is a
        /// [time-out](crate::ErrorKind::Timeout) of [`Wait::Hook`](crate::error::Wait::Hook). If it
        /// returns the network error that closed the connection, that counts as a network error of
        /// any connection.
        ///
        /// # Cancellation
        /// Its future is dropped, and the connection closed, if the pool is cleared or closed, or
        /// the runtime ends.
        #[must_use]
        pub fn on_connect<F>(mut self, hook: F) -> Self
        where
            F: for<'a> crate::net::ConnectHook<'a> + Send + Sync + 'static,
        {
            self.$($part.)?on_connect = Some(crate::net::OnConnect::new(hook));
            self
        }

        /// [`on_connect`](Self::on_connect) with a closure that may capture, and returns a boxed
        /// future.
        ///
        /// ```
        /// # use std::sync::Arc;
        /// # use std::sync::atomic::{AtomicU32, Ordering};
        /// # use mongo_core::ClientOptions;
        /// # use mongo_core::bson::doc;
        /// # use mongo_core::pools::ConnectionFactory;
        /// # let options = ClientOptions::default();
        /// let made = Arc::new(AtomicU32::new(0));
        /// let builder = ConnectionFactory::builder(options);
        /// let builder = builder.on_connect_boxed(move |connection| {
        ///     let made = made.clone();
        ///     Box::pin(async move {
        ///         connection.run_command("admin", &doc! { "ping": 1 }).await?;
        ///         made.fetch_add(1, Ordering::Relaxed);
        ///         Ok(())
        ///     })
        /// });
        /// # drop(builder);
        /// ```
        #[must_use]
        pub fn on_connect_boxed<F>(mut self, hook: F) -> Self
        where
            F: for<'a> Fn(&'a mut crate::net::Connection) -> crate::net::ConnectFuture<'a>
                + Send
                + Sync
                + 'static,
        {
            self.$($part.)?on_connect = Some(crate::net::OnConnect::boxed(hook));
            self
        }
    };
}

pub(crate) use auth_setters;
pub(crate) use connect_setters;
pub(crate) use selection_setters;
pub(crate) use transport_setters;
