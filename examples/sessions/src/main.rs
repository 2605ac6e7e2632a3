//! Serves the login page.
//!
//! ```sh
//! cargo run -p mongo-example-sessions
//! cargo run -p mongo-example-sessions --no-default-features --features bb8,embedded
//! MONGODB_URI=mongodb://localhost LISTEN=127.0.0.1:3000 cargo run -p mongo-example-sessions
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use mongo_example_sessions::backend::mongo_core::ClientOptions;
use mongo_example_sessions::backend::{Pools, PoolsConfig};
use mongo_example_sessions::{MongoStore, routes};
use tokio::net::TcpListener;

/// The limit of a check-out. The default, 30 s, is longer than a user waits for a page.
const WAIT: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("MONGODB_URI").ok();
    #[cfg(feature = "embedded")]
    let (url, _embedded) = or_embedded(url).await;
    let url = url.ok_or("set MONGODB_URI to a connection string")?;
    let config = PoolsConfig::default().with_wait_timeout(WAIT);
    let options = ClientOptions::parse(&url)?;
    let pools = Pools::builder(options).config(config).build()?;
    let store = MongoStore::new(pools.clone(), "web", "sessions");
    store.create_index().await?;

    let listen = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(listen).await?;
    println!("log in as demo, with the password sesame");
    println!("listening at http://{}", listener.local_addr()?);
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, routes(store, "sesame"))
        .with_graceful_shutdown(stop)
        .await?;
    pools.close().await;
    Ok(())
}

/// Starts the test kit's server unless a URL is configured.
#[cfg(feature = "embedded")]
async fn or_embedded(
    url: Option<String>,
) -> (Option<String>, Option<mongo_testkit::ScriptedServer>) {
    if url.is_some() {
        return (url, None);
    }
    let server = mongo_testkit::ScriptedServer::start().await;
    println!("started an embedded server at {}", server.address());
    (Some(server.uri()), Some(server))
}
