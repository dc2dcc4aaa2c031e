//! The database of an application and the role that owns it. They are made once; whoever takes them away afterwards has a
//! reason. The role's password is what the operator says now.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;
use tracing::info;

use super::server::NotOpen;
use crate::model::orders::Application;

/// How long it may take: a database is made by a copy and a checkpoint.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody is waited for, and nothing of it is logged, a password's verifier least of all.
const QUIETLY: &str = "SET synchronous_commit = local;
     SET log_statement = none;
     SET log_min_duration_statement = -1;
     SET log_min_duration_sample = -1;
     SET log_transaction_sample_rate = 0;
     SET log_min_error_statement = panic;
     SET password_encryption = 'scram-sha-256'";

/// Whoever has this comment was made here: the password of another is not ours to set.
const OURS: &str = "made by waltree for postgres.bootstrap";

/// Makes what is not made yet, and sets the password where it is another. Says so where somebody else made the role.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub(super) async fn ensure(primary: &Client, application: &Application) -> Result<Option<String>, NotOpen> {
    let not = |error| NotOpen::Application(application.database.clone(), application.owner.clone(), error);
    timeout(PATIENCE, make(primary, application)).await.map_err(|_| not(None))?.map_err(|error| not(Some(error)))
}

/// The role has no password before the database is made: one that has none was not finished.
async fn make(primary: &Client, application: &Application) -> Result<Option<String>, tokio_postgres::Error> {
    let Application { database, owner, verifier, .. } = application;
    primary.batch_execute(QUIETLY).await?;
    let role = "SELECT rolpassword, pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_authid WHERE rolname = $1";
    let role = primary.query_opt(role, &[owner]).await?;
    let has: Option<String> = role.as_ref().and_then(|role| role.get(0));
    if has.as_ref() == Some(verifier) {
        return Ok(None);
    }
    if role.as_ref().is_some_and(|role| role.get::<_, Option<&str>>(1) != Some(OURS)) {
        return Ok(Some(format!(
            "postgres.bootstrap.owner: the role {owner} is there and was not made for this, so its password is not set, and that \
             in the Secret is not its. To have it set run: COMMENT ON ROLE {owner} IS '{OURS}'"
        )));
    }
    if role.is_none() {
        let sql = "SELECT format('CREATE ROLE %1$I; COMMENT ON ROLE %1$I IS %2$L', $1::text, $2::text)";
        quoted(primary, sql, &[owner, &OURS.to_owned()]).await?;
    }
    if has.is_none() {
        let there = "SELECT FROM pg_catalog.pg_database WHERE datname = $1";
        if primary.query_opt(there, &[database]).await?.is_none() {
            let sql = "SELECT format('CREATE DATABASE %I OWNER %I', $1::text, $2::text)";
            quoted(primary, sql, &[database, owner]).await?;
            info!(database, owner, "the application's database is made");
        }
    }
    quoted(primary, "SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)", &[owner, verifier]).await?;
    info!(owner, "the application's password is set");
    Ok(None)
}

/// Runs what the server itself has put together, with every name in its quotes.
async fn quoted(primary: &Client, sql: &str, names: &[&String]) -> Result<(), tokio_postgres::Error> {
    let names: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        names.iter().map(|name| *name as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
    let statement: String = primary.query_one(sql, &names).await?.get(0);
    primary.batch_execute(&statement).await
}
