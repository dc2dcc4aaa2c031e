//! Physical slots, on primaries and standbys alike.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::NotDone;
use crate::model::Lsn;

/// A slot as it is now.
pub(super) struct Present {
    active_pid: Option<i32>,
    restart_lsn: Option<Lsn>,
    lost: bool,
    /// It holds back transactions that vacuum could remove otherwise.
    pub(super) holds_xmin: bool,
}

impl Present {
    /// It keeps WAL. One that was never used and was made without reserving keeps none and cannot be advanced
    /// (postgres-facts.md 2.1).
    fn reserves(&self) -> bool {
        self.restart_lsn.is_some() && !self.lost
    }

    /// That nobody uses it.
    pub(super) fn idle(&self, slot: &str) -> Result<(), NotDone> {
        self.active_pid.map_or(Ok(()), |pid| Err(NotDone::Active { slot: slot.to_owned(), pid }))
    }
}

/// `wal_status` is wrong on a standby but for `lost`; from 17 on `invalidation_reason` says it as well.
async fn present(session: &Client, slot: &str) -> Result<Option<Present>, NotDone> {
    let sql = "SELECT s.active_pid, s.restart_lsn::text, coalesce(s.wal_status = 'lost', false) \
               OR to_jsonb(s)->>'invalidation_reason' IS NOT NULL, s.slot_type = 'physical', \
               s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL \
               FROM pg_replication_slots s WHERE s.slot_name = $1::text::name";
    let rows = session.query_typed(sql, &[(&slot, Type::TEXT)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if !row.try_get::<_, bool>(3)? {
        return Err(NotDone::LogicalSlot(slot.to_owned()));
    }
    let restart: Option<String> = row.try_get(1)?;
    Ok(Some(Present {
        active_pid: row.try_get(0)?,
        restart_lsn: restart.and_then(|text| text.parse().ok()),
        lost: row.try_get(2)?,
        holds_xmin: row.try_get(4)?,
    }))
}

/// A slot that reserves WAL.
pub(super) async fn holding(session: &Client, slot: &str) -> Result<Present, NotDone> {
    let gone = || NotDone::NoSlot(slot.to_owned());
    present(session, slot).await?.filter(Present::reserves).ok_or_else(gone)
}

/// Makes sure that a slot is there and reserves WAL; one that does is left as it is.
pub(super) async fn create(session: &Client, slot: &str) -> Result<(), NotDone> {
    match present(session, slot).await? {
        Some(present) if present.reserves() => Ok(()),
        Some(present) => {
            present.idle(slot)?;
            drop_it(session, slot).await?;
            reserve(session, slot).await
        }
        None => reserve(session, slot).await,
    }
}

/// Moves an idle slot forward. One that is further already, or moves by itself, is left as it is; the server goes to
/// its own replay position at most (postgres-facts.md 2.2).
pub(super) async fn advance(session: &Client, slot: &str, to: Lsn) -> Result<(), NotDone> {
    let present = holding(session, slot).await?;
    if present.active_pid.is_some() || present.restart_lsn.is_some_and(|lsn| lsn >= to) {
        return Ok(());
    }
    let sql = "SELECT pg_replication_slot_advance($1::text::name, $2::text::pg_lsn)";
    session.query_typed(sql, &[(&slot, Type::TEXT), (&to.to_string(), Type::TEXT)]).await?;
    Ok(())
}

/// Drops a slot that nobody uses and makes it anew.
pub(super) async fn recreate(session: &Client, slot: &str) -> Result<(), NotDone> {
    remove(session, slot).await?;
    reserve(session, slot).await
}

/// Makes sure that a slot is not there; one that is in use stays.
pub(super) async fn remove(session: &Client, slot: &str) -> Result<(), NotDone> {
    let Some(present) = present(session, slot).await? else { return Ok(()) };
    present.idle(slot)?;
    drop_it(session, slot).await
}

/// Ends the walsender of this process id, if it holds the slot still.
pub(super) async fn end_sender(session: &Client, slot: &str, pid: i32) -> Result<(), NotDone> {
    if present(session, slot).await?.is_none_or(|present| present.active_pid != Some(pid)) {
        return Ok(());
    }
    let sql = "SELECT pg_terminate_backend(s.active_pid) FROM pg_replication_slots s \
               WHERE s.slot_name = $1::text::name AND s.active_pid = $2";
    session.query_typed(sql, &[(&slot, Type::TEXT), (&pid, Type::INT4)]).await?;
    Ok(())
}

async fn reserve(session: &Client, slot: &str) -> Result<(), NotDone> {
    let sql = "SELECT pg_create_physical_replication_slot($1::text::name, true)";
    session.query_typed(sql, &[(&slot, Type::TEXT)]).await?;
    Ok(())
}

async fn drop_it(session: &Client, slot: &str) -> Result<(), NotDone> {
    session.query_typed("SELECT pg_drop_replication_slot($1::text::name)", &[(&slot, Type::TEXT)]).await?;
    Ok(())
}
