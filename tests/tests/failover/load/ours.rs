//! The pools of this workspace.

use std::time::Instant;

use mongo_core::bson::{Document, doc};
use mongo_core::event::SdamEvent;
use mongo_core::pools::{Backend, Pools};
use mongo_core::sdam::ServerType;
use mongo_core::select::{Criterion, ReadPreference, ReadPreferenceMode};
use mongo_core::{ClientOptions, Deadline};

use super::{BOUND, Failure, Subject, View, Write};

pub(crate) struct Ours<B: Backend> {
    pools: Pools<B>,
    secondary_preferred: Criterion,
}

impl<B: Backend> Clone for Ours<B> {
    fn clone(&self) -> Self {
        Self {
            pools: self.pools.clone(),
            secondary_preferred: self.secondary_preferred.clone(),
        }
    }
}

impl<B: Backend<Config: Default>> Subject for Ours<B> {
    async fn connect(uri: &str, view: View) -> Self {
        let options = ClientOptions::parse(uri).expect("a connection string");
        let pools = Pools::builder(options).on_sdam(move |event| {
            if let SdamEvent::TopologyDescriptionChanged(event) = event {
                let known = &event.new_description;
                let primary = known.primary().map(|server| server.address.to_string());
                let others = known.servers().iter();
                let others = others.filter(|server| server.server_type == ServerType::RsSecondary);
                let others = others.map(|server| server.address.to_string());
                view.note(primary, others.collect());
            }
        });
        let preferred = ReadPreference::new(ReadPreferenceMode::SecondaryPreferred);
        Self {
            pools: pools.build().expect("pools"),
            secondary_preferred: Criterion::read(preferred).expect("a criterion"),
        }
    }

    async fn write(&self, collection: &str, id: i64) -> Write {
        let deadline = Deadline::after(BOUND);
        let got = self.pools.get_by(deadline, &Criterion::write(), &[]).await;
        let mut connection = match got {
            Ok(connection) => connection,
            Err(error) => {
                return Write {
                    sent: None,
                    outcome: Err(Failure::of(&error, false)),
                };
            }
        };
        let insert = doc! {"insert": collection, "documents": [{"_id": id}]};
        let server = connection.server().to_string();
        let sent = Some((server, Instant::now().into()));
        let reply = connection.run_command_by(deadline, "load", &insert).await;
        let outcome = match reply {
            Ok(reply) => {
                let reply = reply.into_owned();
                assert_eq!(reply.get_i32("n").ok(), Some(1), "{reply:?}");
                Ok(())
            }
            Err(error) => Err(Failure::of(&error, true)),
        };
        Write { sent, outcome }
    }

    async fn read(&self, collection: &str, id: i64, of_primary: bool) -> Result<Vec<i64>, Failure> {
        let deadline = Deadline::after(BOUND);
        let mut find = doc! {"find": collection, "filter": {"_id": id}, "singleBatch": true};
        let criterion = match of_primary {
            true => &Criterion::write(),
            false => {
                find.insert("$readPreference", doc! {"mode": "secondaryPreferred"});
                &self.secondary_preferred
            }
        };
        let got = self.pools.get_by(deadline, criterion, &[]).await;
        let mut connection = got.map_err(|error| Failure::of(&error, false))?;
        let reply = connection.run_command_by(deadline, "load", &find).await;
        let reply = reply.map_err(|error| Failure::of(&error, true))?;
        let reply: Document = reply.deserialize().expect("a reply");
        let batch = reply.get_document("cursor").expect("a cursor");
        let batch = batch.get_array("firstBatch").expect("a batch");
        let id = |found: &mongo_core::bson::Bson| found.as_document()?.get_i64("_id").ok();
        Ok(batch.iter().filter_map(id).collect())
    }

    async fn close(self) {
        self.pools.close().await;
    }
}
