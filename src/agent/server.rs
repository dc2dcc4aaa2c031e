//! The agent's own session on its PostgreSQL.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, Row};
use tracing::info;

use super::Place;
use super::configure::lines_there;
use super::data::SUPERUSER;
use super::{application, roles};
use crate::model::orders::{Orders, Role};

/// How long a login and a question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a promotion may take: `pg_promote` itself gives up after a minute.
const PROMOTION: Duration = Duration::from_secs(90);
/// How long what is in memory may be written before it is stopped all the same.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// Why a server is not open, or is when it is not to be.
#[derive(Debug, thiserror::Error)]
pub enum NotOpen {
    /// It does not let us in yet, or not any more.
    #[error("PostgreSQL does not answer")]
    NoAnswer(#[source] Option<tokio_postgres::Error>),
    /// It refuses.
    #[error("PostgreSQL was not promoted")]
    Refused(#[source] Option<tokio_postgres::Error>),
    /// Our roles cannot be made.
    #[error("the roles of the operator and of the other servers cannot be made")]
    Roles(#[source] Option<tokio_postgres::Error>),
    /// The database of the application, or its role.
    #[error("the database {0} and its owner {1} are not as they are to be")]
    Application(String, String, #[source] Option<tokio_postgres::Error>),
    /// It takes writes. Stopping it is not for the agent to decide.
    #[error("it is to be a standby, and takes writes; it is left as it is")]
    IsOpen,
}

/// Opens a server that is to be the primary and is a standby still, as every server is at its start. Says what is not as it is
/// to be all the same.
///
/// # Errors
/// When it cannot be asked, or refuses.
pub(super) async fn open(place: &Place, orders: &Orders) -> Result<Option<String>, NotOpen> {
    let session = connect(place).await?;
    let no_answer = |error| NotOpen::NoAnswer(Some(error));
    let question = session.query_one("SELECT pg_is_in_recovery()", &[]);
    let answer = timeout(PATIENCE, question).await.map_err(|_| NotOpen::NoAnswer(None))?.map_err(no_answer)?;
    match (orders.role, answer.get::<_, bool>(0)) {
        (Role::Standby, true) => return Ok(None),
        (Role::Primary, false) => return let_in(&session, orders).await,
        (Role::Standby, false) => return Err(NotOpen::IsOpen),
        (Role::Primary, true) => {}
    }
    let promoting = timeout(PROMOTION, session.query_one("SELECT pg_promote()", &[]));
    let promoted = promoting.await.map_err(|_| NotOpen::NoAnswer(None))?;
    let promoted = promoted.map_err(|error| NotOpen::Refused(Some(error)))?;
    if !promoted.get::<_, bool>(0) {
        return Err(NotOpen::Refused(None));
    }
    info!(node = orders.node, "promoted");
    let_in(&session, orders).await
}

/// Whoever has to get into a primary.
async fn let_in(primary: &Client, orders: &Orders) -> Result<Option<String>, NotOpen> {
    roles::ensure(primary).await?;
    match &orders.application {
        Some(application) => application::ensure(primary, application).await,
        None => Ok(None),
    }
}

/// Lines of pg_hba.conf that it does not take, as they are on the disk now, with what it says of them.
///
/// # Errors
/// When it cannot be asked.
pub(super) async fn refused_lines(place: &Place) -> Result<Vec<(String, String)>, NotOpen> {
    let lines = lines_there(&place.data);
    let faults = ask(place, "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL").await?;
    let line = |number: i32| lines.get(usize::try_from(number).ok()?.checked_sub(1)?).cloned();
    Ok(faults.iter().filter_map(|fault| Some((line(fault.get(0))?, fault.get(1)))).collect())
}

/// Parameters whose new values it takes at its next start.
///
/// # Errors
/// When it cannot be asked.
pub(super) async fn restart_for(place: &Place) -> Result<Vec<String>, NotOpen> {
    let names = ask(place, "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name").await?;
    Ok(names.iter().map(|name| name.get(0)).collect())
}

/// Has it write what is in its memory, as far as that is done in a while: the rest is written when it stops.
///
/// # Errors
/// When it cannot be asked.
pub(super) async fn checkpoint(place: &Place) -> Result<(), NotOpen> {
    let session = connect(place).await?;
    let writing = timeout(CHECKPOINT, session.batch_execute("CHECKPOINT")).await;
    writing.unwrap_or(Ok(())).map_err(|error| NotOpen::NoAnswer(Some(error)))
}

async fn ask(place: &Place, sql: &str) -> Result<Vec<Row>, NotOpen> {
    let session = connect(place).await?;
    let answer = timeout(PATIENCE, session.query(sql, &[])).await.map_err(|_| NotOpen::NoAnswer(None))?;
    answer.map_err(|error| NotOpen::NoAnswer(Some(error)))
}

pub(super) async fn connect(place: &Place) -> Result<Client, NotOpen> {
    let mut config = Config::new();
    config.host_path(&place.socket).port(place.port).user(SUPERUSER).dbname("postgres");
    config.application_name("waltree agent");
    // What users set for their sessions is not for ours.
    config.options(
        "-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 -c default_transaction_read_only=off",
    );
    let connecting = timeout(PATIENCE, config.connect(NoTls)).await.map_err(|_| NotOpen::NoAnswer(None))?;
    let (session, connection) = connecting.map_err(|error| NotOpen::NoAnswer(Some(error)))?;
    tokio::spawn(connection);
    Ok(session)
}
