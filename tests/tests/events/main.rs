//! Events of connections and of their commands.

mod commands;
mod connections;

use std::sync::{Arc, Mutex};

use mongo_core::event::{CmapEvent, CommandEvent, EventHandlers};
use mongo_core::pools::{ConnectionFactory, ManagerConfig};
use mongo_core::{ClientOptions, Connection, Deadline};

/// Records events.
#[derive(Clone, Default)]
struct Told {
    commands: Arc<Mutex<Vec<CommandEvent>>>,
    cmap: Arc<Mutex<Vec<CmapEvent>>>,
}

impl Told {
    fn handlers(&self) -> EventHandlers {
        let (commands, cmap) = (self.commands.clone(), self.cmap.clone());
        EventHandlers::new()
            .on_command(move |event| commands.lock().expect("no panic").push(event.clone()))
            .on_cmap(move |event| cmap.lock().expect("no panic").push(event.clone()))
    }

    /// The command events since the last call.
    fn commands(&self) -> Vec<CommandEvent> {
        std::mem::take(&mut self.commands.lock().expect("no panic"))
    }

    /// The connection events since the last call.
    fn cmap(&self) -> Vec<CmapEvent> {
        std::mem::take(&mut self.cmap.lock().expect("no panic"))
    }

    fn factory(&self, uri: &str, config: ManagerConfig) -> ConnectionFactory {
        let options = ClientOptions::parse(uri).expect("a connection string");
        ConnectionFactory::builder(options)
            .config(config)
            .event_handlers(self.handlers())
            .build()
            .expect("a factory")
    }
}

async fn establish(factory: &ConnectionFactory) -> Connection {
    let connection = factory.establish(Deadline::never()).await;
    connection.expect("a connection")
}
