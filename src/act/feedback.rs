//! What a standby tells of its transactions, said for one that is not there any more.

use super::{NotDone, slots};
use crate::observe::Writer;

/// A hot standby feedback message: its letter, the time of sending, xmin and its epoch, catalog xmin and its epoch. All
/// zero: nothing is held back.
const NOTHING_IS_HELD: [u8; 25] = {
    let mut message = [0; 25];
    message[0] = b'h';
    message
};

/// Clears the xmin of an idle slot and leaves its reservation of WAL as it is (safety.md X6). The connection asks for WAL
/// from the server's own end on, so that nothing old has to be there or is sent, and never says how far it got: that is
/// what would move the reservation.
pub(super) async fn clear_xmin(session: &Writer, slot: &str) -> Result<(), NotDone> {
    let present = slots::holding(session, slot).await?;
    present.idle(slot)?;
    if !present.holds_xmin {
        return Ok(());
    }
    let end = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text";
    let end: String = session.query_one(end, &[]).await?.try_get(0)?;
    let mut replication = session.replication().await?;
    // The name of a slot has lower-case letters, digits and '_' only.
    replication.command(&format!("START_REPLICATION SLOT {slot} PHYSICAL {end}")).await?;
    replication.wait_for(b'W').await?;
    // The slot is ours now. The right to write may be another leader's by now, and then this session is ended.
    session.batch_execute("SELECT 1").await?;
    replication.say_last(&NOTHING_IS_HELD).await?;
    // The end of the command is told when all before it was heard.
    replication.wait_for(b'Z').await?;
    replication.end().await?;
    let held = slots::holding(session, slot).await?.holds_xmin;
    if held { Err(NotDone::StillHeld(slot.to_owned())) } else { Ok(()) }
}
