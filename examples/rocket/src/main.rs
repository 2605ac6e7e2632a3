//! Runs the service, with Rocket's own configuration: `Rocket.toml` and `ROCKET_…`.
//!
//! ```sh
//! cargo run -p mongo-example-rocket
//! cargo run -p mongo-example-rocket --no-default-features --features bb8,embedded
//! ROCKET_DATABASES='{notes={url="mongodb://localhost/"}}' cargo run -p mongo-example-rocket
//! curl -X PUT --json '{ "text": "hello" }' http://127.0.0.1:8000/notes/first
//! ```

#[rocket::main]
async fn main() -> Result<(), Box<rocket::Error>> {
    let figment = rocket::Config::figment();
    #[cfg(feature = "embedded")]
    let (figment, _embedded) = with_server(figment).await;
    mongo_example_rocket::service(figment).launch().await?;
    Ok(())
}

/// Starts the test kit's server unless a database is configured.
#[cfg(feature = "embedded")]
async fn with_server(
    figment: rocket::figment::Figment,
) -> (
    rocket::figment::Figment,
    Option<mongo_testkit::ScriptedServer>,
) {
    if figment.contains("databases.notes") {
        return (figment, None);
    }
    let server = mongo_testkit::ScriptedServer::start().await;
    println!("started an embedded server at {}", server.address());
    let url = ("databases.notes.url", server.uri());
    (figment.merge(url), Some(server))
}
