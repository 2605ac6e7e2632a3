//! The real server over TLS, on both backends.

use bson::doc;
use mongo_core::ErrorKind;
use mongo_testkit::{Authority, RealServer, User};

use crate::support::{escape, trusting};

macro_rules! on_backend {
    ($name:ident, $backend:ident) => {
        mod $name {
            use super::*;

            async fn check_out(uri: &str) -> Result<$backend::Connection, $backend::Error> {
                let config = $backend::Config::from_url(uri);
                let pool = config.create_pool(Some($backend::Runtime::Tokio1));
                pool.expect("a pool").get().await
            }

            async fn reads_and_writes(uri: &str) {
                let mut connection = check_out(uri).await.expect("a connection");
                let text = "x".repeat(100_000);
                let insert = doc! { "insert": "c", "documents": [{ "text": &text }] };
                connection
                    .run_command("tls", &insert)
                    .await
                    .expect("written");
                let find = doc! { "find": "c" };
                let reply = connection.run_command("tls", &find).await.expect("read");
                let reply = reply.to_document().expect("a document");
                let cursor = reply.get_document("cursor").expect("a cursor");
                assert!(cursor.to_string().contains(&text));
            }

            #[tokio::test]
            async fn tls_with_a_password() {
                let authority = Authority::new();
                let user = User::new("app", "pencil");
                let server = RealServer::builder().tls(&authority).user(user).start();
                let uri = server.uri_for("app", "pencil") + "&tls=true";
                reads_and_writes(&(uri.clone() + &trusting(&authority))).await;
                let wrong = server.uri_for("app", "chalk") + "&tls=true";
                let error = check_out(&(wrong + &trusting(&authority))).await;
                assert!(error.map(drop).expect_err("refused").is_authentication());
                let stranger = Authority::new();
                let error = check_out(&(uri + &trusting(&stranger))).await;
                let error = error.map(drop).expect_err("refused");
                assert!(matches!(error.kind(), ErrorKind::Tls(_)), "{error}");
            }

            #[tokio::test]
            async fn mutual_tls() {
                let authority = Authority::new();
                let server = RealServer::builder().mutual_tls(&authority).start();
                let uri = server.uri() + "&tls=true" + &trusting(&authority);
                let client = authority.client("app").file();
                let own = format!("{uri}&tlsCertificateKeyFile={}", escape(&client));
                reads_and_writes(&own).await;
                let error = check_out(&uri).await.map(drop).expect_err("refused");
                assert!(matches!(error.kind(), ErrorKind::Tls(_)), "{error}");
            }

            #[tokio::test]
            async fn a_certificate_as_the_credential() {
                let authority = Authority::new();
                let server = RealServer::builder()
                    .mutual_tls(&authority)
                    .user(User::new("root", "pencil"))
                    .start();
                let roles = vec![doc! { "role": "root", "db": "admin" }];
                let user = doc! { "createUser": "CN=app", "roles": roles };
                server.run_command("$external", user);
                let by_certificate = |name: &str| {
                    let client = escape(&authority.client(name).file());
                    let options = trusting(&authority);
                    format!(
                        "{}&tls=true{options}&authMechanism=MONGODB-X509&tlsCertificateKeyFile={client}",
                        server.uri()
                    )
                };
                reads_and_writes(&by_certificate("app")).await;
                let error = check_out(&by_certificate("nobody")).await;
                let error = error.map(drop).expect_err("no such user");
                assert!(error.is_authentication(), "{error}");
            }
        }
    };
}

on_backend!(deadpool, mongo_deadpool);
on_backend!(bb8, mongo_bb8);
