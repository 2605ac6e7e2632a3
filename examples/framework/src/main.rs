//! An application of the framework. Its database is a matter of configuration:
//!
//! ```sh
//! cargo run -p mongo-example-framework
//! cargo run -p mongo-example-framework --no-default-features --features bb8
//! DATABASE__URL=postgres://app:secret@localhost/app DATABASE__POOL__MAX_SIZE=4 \
//!     cargo run -p mongo-example-framework
//! ```
//! Without a URL it starts an embedded MongoDB replica set.

use std::error::Error;
use std::fmt;

use config::{Environment, File, FileFormat};
use framework::visits::{forget, print_rows, visit};
use framework::{Config, connect};
use mongo_testkit::Deployment;
use serde::Deserialize;

#[derive(Deserialize)]
struct Settings {
    database: Config,
}

#[tokio::main]
async fn main() -> Result<(), Fatal> {
    let embedded = match std::env::var_os("DATABASE__URL") {
        Some(_) => None,
        None => Some(Deployment::replica_set("embedded").members(3).start().await),
    };
    let uri = embedded.as_ref().map(Deployment::uri);
    let database = connect(&settings(uri)?.database).await?;
    let visits = visit(&*database).await?;
    println!("{database}: visit {visits}, health {:?}", database.health());
    forget(&*database).await?;
    print_rows(&*database).await?;
    database.close().await;
    if let Err(refused) = visit(&*database).await {
        println!("closed: {refused}");
    }
    Ok(())
}

/// The settings of the environment, or of a file, with a default for the URL.
fn settings(uri: Option<String>) -> Result<Settings, config::ConfigError> {
    let file = "database.pool.timeouts.wait = '5s'";
    let mut builder = config::Config::builder()
        .add_source(File::from_str(file, FileFormat::Toml))
        .add_source(Environment::default().separator("__").try_parsing(true));
    if let Some(uri) = uri {
        builder = builder.set_override("database.url", uri)?;
    }
    builder.build()?.try_deserialize()
}

/// Prints an error in one line: Rust prints the `Debug` of what `main` returns.
struct Fatal(Box<dyn Error>);

impl<E: Error + 'static> From<E> for Fatal {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
