//! The official `mongodb` crate.

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria};
use mongodb::{Client, ServerType};
use tokio::time::timeout;

use crate::load::judge::{Failure, is_retryable};
use crate::load::{BOUND, Subject, View, Write};

#[derive(Clone)]
pub(crate) struct Official(Client);

impl Official {
    fn collection(&self, name: &str) -> mongodb::Collection<Document> {
        self.0.database("load").collection(name)
    }
}

impl Subject for Official {
    async fn connect(uri: &str, view: View) -> Self {
        let mut options = ClientOptions::parse(uri).await.expect("a URI");
        (options.retry_reads, options.retry_writes) = (Some(false), Some(false));
        options.max_pool_size = Some(100);
        options.sdam_event_handler = Some(EventHandler::callback(move |event| {
            if let SdamEvent::TopologyDescriptionChanged(event) = event {
                let known = event.new_description.servers();
                let of = |wanted: ServerType| {
                    let servers = known.iter();
                    servers.filter(move |(_, server)| server.server_type() == wanted)
                };
                let primary = of(ServerType::RsPrimary).next();
                let primary = primary.map(|(address, _)| address.to_string());
                let secondaries = of(ServerType::RsSecondary);
                let secondaries = secondaries.map(|(address, _)| address.to_string());
                view.note(primary, secondaries.collect());
            }
        }));
        Self(Client::with_options(options).expect("a client"))
    }

    async fn write(&self, collection: &str, id: i64) -> Write {
        let document = doc! {"_id": id};
        let collection = self.collection(collection);
        let insert = async { collection.insert_one(document).await };
        let outcome = match timeout(BOUND, insert).await {
            Ok(outcome) => outcome.map(drop).map_err(|error| judge(&error)),
            Err(_) => Err(cut()),
        };
        Write {
            sent: None,
            outcome,
        }
    }

    async fn read(&self, collection: &str, id: i64, of_primary: bool) -> Result<Vec<i64>, Failure> {
        let preference = match of_primary {
            true => ReadPreference::Primary,
            false => ReadPreference::SecondaryPreferred { options: None },
        };
        let collection = self.collection(collection);
        let find = async {
            let find = collection.find_one(doc! {"_id": id});
            let criteria = SelectionCriteria::ReadPreference(preference);
            find.selection_criteria(criteria).await
        };
        match timeout(BOUND, find).await {
            Ok(Ok(found)) => Ok(found
                .iter()
                .filter_map(|own| own.get_i64("_id").ok())
                .collect()),
            Ok(Err(error)) => Err(judge(&error)),
            Err(_) => Err(cut()),
        }
    }

    async fn close(self) {
        self.0.shutdown().await;
    }
}

/// The bench's own timeout ended the operation.
fn cut() -> Failure {
    Failure {
        kind: "timed out".to_owned(),
        text: "timed out".to_owned(),
        is_retryable: true,
        is_ambiguous: true,
    }
}

fn judge(error: &Error) -> Failure {
    let code = match &*error.kind {
        ErrorKind::Command(refusal) => Some((refusal.code, refusal.code_name.clone())),
        ErrorKind::Write(WriteFailure::WriteConcernError(refusal)) => {
            Some((refusal.code, refusal.code_name.clone()))
        }
        _ => None,
    };
    let (kind, may_retry) = match (code, &*error.kind) {
        (Some((code, name)), _) => (name, is_retryable(code)),
        (None, ErrorKind::Io(_)) => ("network".to_owned(), true),
        (None, ErrorKind::ConnectionPoolCleared { .. }) => ("pool cleared".to_owned(), true),
        (None, ErrorKind::ServerSelection { .. }) => ("server selection".to_owned(), true),
        (None, other) => (format!("{other:?}"), false),
    };
    Failure {
        is_ambiguous: matches!(&*error.kind, ErrorKind::Io(_)),
        text: error.to_string(),
        kind,
        is_retryable: may_retry,
    }
}
