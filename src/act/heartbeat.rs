//! One small WAL record.

use tokio_postgres::Client;

use super::NotDone;

/// Writes an empty logical message in a transaction of its own, flushed here and waited for nowhere: with
/// `synchronous_commit = local` it does not hang when synchronous standbys are away. One statement, because the setting
/// is to end with its transaction.
pub(super) async fn write(session: &Client) -> Result<(), NotDone> {
    let sql = "SELECT set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'waltree', '')";
    session.query_typed(sql, &[]).await?;
    Ok(())
}
