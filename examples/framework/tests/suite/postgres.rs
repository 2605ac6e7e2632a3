//! A real PostgreSQL, of Debian's package or any other, in a folder of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use framework::Database;
use tokio_postgres::{Client, NoTls, Row};

use crate::{BETWEEN_LOOKS, Server};

const START_LIMIT: Duration = Duration::from_secs(60);

/// Sets the server up and runs it, until this shell's input ends: when the test process ends in any
/// way. It listens at a socket in its folder alone.
const GUARDIAN: &str = r#"
directory=$1 programs=$2 password=$3
cd "$directory" || exit
exec 2>server.log
as=
if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root.
    as='setpriv --reuid=nobody --regid=nogroup --clear-groups'
    chown nobody "$directory"
fi
echo "$password" >password
timeout 60 $as "$programs/initdb" --pgdata=data --username=app --pwfile=password \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync >&2 || exit
$as "$programs/postgres" -D data -k "$directory" -c listen_addresses= -c fsync=off \
    -c max_connections=300 </dev/null >&2 &
server=$!
echo started
exec >/dev/null
read -r _
kill -QUIT "$server"
wait "$server"
cd / && rm -rf "$directory"
"#;

/// The server that all tests share, with a database for each.
struct Shared {
    directory: PathBuf,
    _guardian: Child,
    /// Open as long as the process.
    _stdin: ChildStdin,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let name = format!("framework-postgres-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        // Left by an earlier process of the same id.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("a temporary directory");
        let mut guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "framework"])
            .args([&directory, &programs()])
            .arg("pencil")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start sh");
        let stdin = guardian.stdin.take().expect("piped");
        let mut line = String::new();
        let stdout = guardian.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let log = || std::fs::read_to_string(directory.join("server.log"));
        assert_eq!(line, "started\n", "{}", log().unwrap_or_default());
        Shared {
            directory,
            _guardian: guardian,
            _stdin: stdin,
        }
    })
}

/// The directory of `initdb` and `postgres`: `MONGO_TESTKIT_POSTGRES`, else the newest of Debian's,
/// else one in `PATH`.
fn programs() -> PathBuf {
    if let Some(given) = std::env::var_os("MONGO_TESTKIT_POSTGRES") {
        return given.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let versions = versions.into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|entry| entry.path()).max_by_key(version);
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest
        .map(|version| version.join("bin"))
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|directory| directory.join("initdb").is_file())
        .expect("PostgreSQL is missing: run `tests/run`, which installs it, or see the README")
}

impl Shared {
    fn url(&self, password: &str, database: &str) -> String {
        let directory = self.directory.display().to_string().replace('/', "%2F");
        format!("postgres://app:{password}@{directory}/{database}")
    }

    async fn connect(&self) -> Client {
        let url = self.url("pencil", "postgres");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                // It is starting.
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

/// A database of its own.
pub(crate) struct Postgres {
    name: String,
    /// A connection to another database.
    admin: Client,
}

impl Postgres {
    async fn query(&self, statement: &str) -> Vec<Row> {
        let rows = self.admin.query(statement, &[&self.name]).await;
        rows.expect("a statement")
    }
}

impl Server for Postgres {
    async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let shared = tokio::task::spawn_blocking(shared).await;
        let admin = shared.expect("a server").connect().await;
        let create = format!("CREATE DATABASE {name}");
        admin.batch_execute(&create).await.expect("a database");
        Self { name, admin }
    }

    fn url(&self, password: &str) -> String {
        shared().url(password, &self.name)
    }

    async fn connections(&self) -> usize {
        let all = "SELECT 1 FROM pg_stat_activity WHERE datname = $1";
        self.query(all).await.len()
    }

    async fn end_connections(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        self.query(end).await;
        while self.connections().await > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    async fn occupy(&self, database: &dyn Database) -> Box<dyn Send> {
        Box::new(database.acquire().await.expect("a session"))
    }
}
