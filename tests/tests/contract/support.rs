use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongo_core::bson::{Document, doc};
use mongo_core::event::{CmapEvent, EventHandlers};
use mongo_core::pools::{Backend, Pools, PoolsBuilder};
use mongo_core::{ClientOptions, Error, ServerAddress};

/// No test waits for longer, whatever goes wrong.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Instances each test of a module for both backends.
macro_rules! on_both {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod deadpool {
            $(
                #[tokio::test]
                $(#[$attribute])*
                async fn $name() {
                    super::$name::<mongo_deadpool::Pool>().await;
                }
            )*
        }

        mod bb8 {
            $(
                #[tokio::test]
                $(#[$attribute])*
                async fn $name() {
                    super::$name::<mongo_bb8::Pool>().await;
                }
            )*
        }
    };
}

/// What happened to pools, in order.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<CmapEvent>>>);

impl Kept {
    pub(crate) fn handlers(&self) -> EventHandlers {
        let kept = self.0.clone();
        EventHandlers::new()
            .on_cmap(move |event| kept.lock().expect("no panic").push(event.clone()))
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Vec<CmapEvent> {
        self.0.lock().expect("no panic").clone()
    }

    /// The names of the events so far, without their fields.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |event: &CmapEvent| {
            let shown = format!("{event:?}");
            shown.split('(').next().unwrap_or_default().to_owned()
        };
        self.0.lock().expect("no panic").iter().map(name).collect()
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.names().iter().filter(|own| *own == name).count()
    }
}

pub(crate) fn builder<B: Backend<Config: Default>>(uri: &str) -> PoolsBuilder<B> {
    Pools::builder(ClientOptions::parse(uri).expect("a connection string"))
}

pub(crate) fn pools<B: Backend<Config: Default>>(uri: &str) -> Pools<B> {
    builder(uri).build().expect("pools")
}

/// Runs a command on a new check-out for writes, and says which server answered.
pub(crate) async fn run<B: Backend>(
    pools: &Pools<B>,
    command: &Document,
) -> Result<ServerAddress, Error> {
    let mut connection = pools.get().await?;
    connection.run_command("db", command).await?;
    Ok(connection.server().clone())
}

pub(crate) async fn ping<B: Backend>(pools: &Pools<B>) -> Result<ServerAddress, Error> {
    run(pools, &doc! {"ping": 1}).await
}
