//! The application's code, which is independent of the database and of the pool.

use futures_util::TryStreamExt;

use crate::{Database, DatabaseError, Session};

/// How often a transaction is run before its error counts.
const RUNS: usize = 3;

/// Counts a visit, and notes it, in one transaction.
///
/// # Errors
/// The database's, after a few runs if it is transient.
pub async fn visit(database: &dyn Database) -> Result<u64, DatabaseError> {
    let mut runs = 0;
    loop {
        runs += 1;
        match run(database).await {
            Err(error) if error.is_transient && runs < RUNS => {}
            outcome => return outcome,
        }
    }
}

async fn run(database: &dyn Database) -> Result<u64, DatabaseError> {
    // A new one for each run: the connection of the last one may be lost.
    let mut session = database.acquire().await?;
    session.begin().await?;
    match count(&mut *session).await {
        Ok(visits) => session.commit().await.map(|()| visits),
        Err(error) => {
            // If this fails, the end of the session rolls back.
            let _ = session.rollback().await;
            Err(error)
        }
    }
}

async fn count(session: &mut dyn Session) -> Result<u64, DatabaseError> {
    let visits = match session.get("visits").await? {
        Some(visits) => visits
            .parse()
            .map_err(|error| DatabaseError::permanent("visits", error))?,
        None => 0,
    };
    let visits = visits + 1;
    session.put("visits", &visits.to_string()).await?;
    session.put(&format!("visit {visits}"), "noted").await?;
    Ok(visits)
}

/// Resets the count, and changes its mind.
///
/// # Errors
/// The database's.
pub async fn forget(database: &dyn Database) -> Result<(), DatabaseError> {
    let mut session = database.acquire().await?;
    session.begin().await?;
    session.put("visits", "0").await?;
    println!("within: {:?}", session.get("visits").await?);
    session.rollback().await?;
    println!("rolled back: {:?}", session.get("visits").await?);
    Ok(())
}

/// Prints the rows as they come.
///
/// # Errors
/// The database's.
pub async fn print_rows(database: &dyn Database) -> Result<(), DatabaseError> {
    let mut session = database.acquire().await?;
    let mut rows = session.rows().await?;
    while let Some(row) = rows.try_next().await? {
        println!("row: {} = {}", row.key, row.value);
    }
    Ok(())
}
