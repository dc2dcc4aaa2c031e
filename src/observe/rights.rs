//! What our role may do on a server.

use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::types::Json;

use super::query::RIGHTS;
use super::query::RIGHTS_BEFORE_15;

/// What our role may do on a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rights {
    /// What it lacks, as the SQL that grants it.
    pub(super) missing_grants: Vec<String>,
    /// `pg_signal_backend`. It is not among those that are missed: all but one remedy works without it.
    pub(super) end_senders: bool,
    /// `waltree.timeline_history` can be called.
    pub(super) timeline_history: bool,
    /// `waltree.pending_route` can be called.
    pub(super) pending_route: bool,
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the columns of one row")]
struct Answer {
    role: String,
    monitor: bool,
    replication: bool,
    conninfo: bool,
    slot: bool,
    reload: bool,
    emit: bool,
    emit_name: String,
    signal: bool,
    history: bool,
    pending: bool,
}

/// Asks once; one round trip.
pub(super) async fn probe(client: &Client, version_num: u32) -> Result<Rights, tokio_postgres::Error> {
    let sql = if version_num < 150_000 { RIGHTS_BEFORE_15 } else { RIGHTS };
    let rows = client.query_typed(sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok(Rights::default()) };
    let Json(answer) = row.try_get::<_, Json<Answer>>(0)?;
    Ok(Rights {
        missing_grants: missing(&answer),
        end_senders: answer.signal,
        timeline_history: answer.history,
        pending_route: answer.pending,
    })
}

fn missing(answer: &Answer) -> Vec<String> {
    let role = &answer.role;
    let wanted = [
        (answer.monitor, format!("GRANT pg_monitor TO {role}")),
        (answer.replication, format!("ALTER ROLE {role} REPLICATION")),
        (answer.conninfo, format!("GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO {role}")),
        (answer.slot, format!("GRANT ALTER SYSTEM ON PARAMETER primary_slot_name TO {role}")),
        (answer.reload, format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO {role}")),
        (answer.emit, format!("GRANT EXECUTE ON FUNCTION pg_catalog.{} TO {role}", answer.emit_name)),
    ];
    let mut missing: Vec<_> = wanted.into_iter().filter(|(granted, _)| !granted).map(|(_, sql)| sql + ";").collect();
    // Without them a route that waits in a file for the next reload (law 1) and a fork (law 2) cannot be seen.
    if !(answer.history && answer.pending) {
        missing.push(r"\i deploy/sql/operator-role.sql".to_owned());
    }
    missing
}
