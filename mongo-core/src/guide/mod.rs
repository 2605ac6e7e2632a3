//! Guides: tasks and their code, the choices with their defaults, the errors, and what to watch in
//! production.
//!
//! | guide | for |
//! |---|---|
//! | [`embedding`] | a framework that pools all its databases alike: set-up, sizes, errors, readiness, shutdown |
//! | [`failover`] | what happens when a primary goes away, retries, all time limits |
//! | [`credentials`] | mechanisms, many tenants, secrets that rotate |
//! | [`operations`] | commands with retries, cursors, sessions, transactions |
//! | [`observability`] | status, events, logs, spans, metrics, alerts |
//! | [`migrating`] | coming from `bb8-mongodb` or from the official driver |
//! | [`testing`] | tests of code that uses the pools |
//!
//! The examples use `mongo_deadpool`; with `mongo_bb8` they are the same, except where they say so.

// The test kit compiles and runs the examples: they need an adapter, which depends on this crate.

#[cfg_attr(not(doctest), doc = include_str!("embedding.md"))]
///
/// # See also
/// [`Pools`](crate::pools::Pools), [`PoolsBuilder`](crate::pools::PoolsBuilder),
/// [`PoolsConfig`](crate::pools::PoolsConfig), [`ManagerConfig`](crate::pools::ManagerConfig),
/// [`ConnectionFactoryBuilder::floating`](crate::pools::ConnectionFactoryBuilder::floating),
/// [`Backend`](crate::pools::Backend), [`ClientOptions`](crate::ClientOptions).
pub mod embedding {}

#[cfg_attr(not(doctest), doc = include_str!("failover.md"))]
///
/// # See also
/// [`Pools::get_by`](crate::pools::Pools::get_by),
/// [`Error::is_retryable_read`](crate::Error::is_retryable_read),
/// [`Error::is_retryable_write`](crate::Error::is_retryable_write),
/// [`ErrorKind`](crate::ErrorKind), [`Retry`](crate::operation::Retry),
/// [`RecyclingMethod`](crate::pools::RecyclingMethod), [`Deadline`](crate::Deadline).
pub mod failover {}

#[cfg_attr(not(doctest), doc = include_str!("credentials.md"))]
///
/// # See also
/// [`Credential`](crate::auth::Credential), [`AuthError`](crate::auth::AuthError),
/// [`CredentialProvider`](crate::net::CredentialProvider),
/// [`OidcCallback`](crate::net::OidcCallback), [`AwsSources`](crate::net::AwsSources),
/// [`KeyService`](crate::net::KeyService), [`Pools::rotate`](crate::pools::Pools::rotate),
/// [`Pools::logout`](crate::pools::Pools::logout).
pub mod credentials {}

#[cfg_attr(not(doctest), doc = include_str!("operations.md"))]
///
/// # See also
/// The module [`operation`](crate::operation), [`Command`](crate::operation::Command),
/// [`BatchCursor`](crate::net::BatchCursor), [`Session`](crate::pools::Session),
/// [`Reply::check_write`](crate::Reply::check_write).
pub mod operations {}

#[cfg_attr(not(doctest), doc = include_str!("observability.md"))]
///
/// # See also
/// The module [`event`](crate::event), [`EventHandlers`](crate::event::EventHandlers),
/// [`PoolStatus`](crate::pools::PoolStatus),
/// [`Topology::subscribe`](crate::net::Topology::subscribe).
pub mod observability {}

#[cfg_attr(not(doctest), doc = include_str!("migrating.md"))]
///
/// # See also
/// [`guide::operations`](crate::guide::operations), [`guide::testing`](crate::guide::testing),
/// [`WriteConcern::to_document`](crate::WriteConcern::to_document),
/// [`Pools::command`](crate::pools::Pools::command).
pub mod migrating {}

#[cfg_attr(not(doctest), doc = include_str!("testing.md"))]
///
/// # See also
/// [`Connector`](crate::net::Connector), [`Stream`](crate::net::Stream), the module
/// [`wire`](crate::wire), [`PoolsBuilder::runtime`](crate::pools::PoolsBuilder::runtime).
pub mod testing {}
