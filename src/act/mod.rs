//! Writes: one arm a step, each idempotent, each with a deadline. Nothing here makes a choice.
//!
//! Every arm reads first, in the same session: a server that froze since it was last seen does not answer that, so no
//! write waits in its socket to be carried out when it thaws and the plan is old.

mod feedback;
mod heartbeat;
pub mod pods;
mod route;
mod slots;

use std::time::Duration;

use crate::observe::{NoReplication, Writer};
use crate::plan::Step;

/// Deadline of one step.
pub const STEP_DEADLINE: Duration = Duration::from_secs(2);

/// Why a step was not done. Holds no secret: no step has one, and the server says none.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// The server did not answer in time; what it does with the step is unknown, and the session is to be ended.
    #[error("no answer within {STEP_DEADLINE:?}")]
    Overdue,
    /// The server refused.
    #[error("{} ({})", .0.message(), .0.code().code())]
    Refused(Box<tokio_postgres::error::DbError>),
    /// The session was lost.
    #[error("the session was lost")]
    Lost(#[source] tokio_postgres::Error),
    /// A slot is held by a walsender, so it is left as it is.
    #[error("slot {slot:?} is active for PID {pid}")]
    Active {
        /// Which slot.
        slot: String,
        /// Of its walsender.
        pid: i32,
    },
    /// There is no such slot.
    #[error("slot {0:?} does not exist or was lost")]
    NoSlot(String),
    /// A slot of that name is not ours.
    #[error("slot {0:?} is a logical slot")]
    LogicalSlot(String),
    /// It was said that the slot holds back nothing, and it does.
    #[error("slot {0:?} holds back transactions as before")]
    StillHeld(String),
    /// The replication connection that the step needs cannot be had, or was lost.
    #[error("replication connection: {0}")]
    NoReplication(#[from] NoReplication),
    /// The new route would write a password into the configuration and into the server's log.
    #[error("the connection string holds a password in {0:?}; it is never written: use a passfile or a certificate")]
    Password(String),
}

impl From<tokio_postgres::Error> for NotDone {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => Self::Refused(Box::new(said.clone())),
            None => Self::Lost(error),
        }
    }
}

/// Carries out one step on the server of `session`.
///
/// # Errors
/// [`NotDone`] says why. After [`NotDone::Overdue`] the session must be ended.
pub async fn carry_out(session: &Writer, step: &Step) -> Result<(), NotDone> {
    let work = async {
        match step {
            Step::Heartbeat { .. } => heartbeat::write(session).await,
            Step::CreateSlot { owner, .. } => slots::create(session, owner.slot()).await,
            Step::AdvanceSlot { owner, to, .. } => slots::advance(session, owner.slot(), *to).await,
            Step::RecreateSlot { owner, .. } => slots::recreate(session, owner.slot()).await,
            Step::ClearXmin { owner, .. } => feedback::clear_xmin(session, owner.slot()).await,
            Step::DropSlot { owner, .. } => slots::remove(session, owner.slot()).await,
            Step::EndSender { owner, pid, .. } => slots::end_sender(session, owner.slot(), *pid).await,
            Step::SetRoute { conninfo, nudge, slot, .. } => {
                route::set(session, conninfo, *nudge, slot.as_deref()).await
            }
            Step::Reload { .. } => route::reload(session).await,
            // Not waited for: a disk that is slow too would hold up what is done elsewhere.
            Step::TryDisk { .. } => {
                session.doubt_disk();
                Ok(())
            }
        }
    };
    tokio::time::timeout(STEP_DEADLINE, work).await.unwrap_or(Err(NotDone::Overdue))
}
