//! The right to write on one server: an advisory lock that at most one session of one leader holds (safety.md 1.15).
//!
//! An advisory lock belongs to one database, and which one we log in to is written in a Secret that may change: so whoever
//! has the lock looks for others who have it elsewhere, and has the right only when there are none. Both lock before they
//! look, so of two at least one sees the other.
//!
//! The lock lives in the session that writes. A newer leader ends an older one's session, and with it every write that
//! the older one may still send; losing the session loses the right.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::unseen;
use crate::model::{NodeName, Unseen};

/// First half of the lock's key: "walt".
const KEY: i32 = 0x7761_6C74;
/// Longest `application_name` in bytes; the server cuts longer ones.
const NAME_BYTES_MAX: usize = 63;
/// How often a lock that was just freed is asked for again; somebody else may take it first.
const ATTEMPTS: usize = 5;
/// Deadline for taking the lock, with the end of an older session in it.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long one end of an older session is waited for.
const END_MILLISECONDS: i64 = 500;

/// Who may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// What is written about: the topology, as `namespace/name`. Two topologies may share a server, such as a primary
    /// that neither manages, and then do not fence each other.
    pub scope: String,
    /// Grows with every change of leader.
    pub term: u64,
    /// Who leads, for people.
    pub identity: String,
}

/// Why nothing may be written on a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRight {
    /// We do not lead, or are to observe only.
    #[error("ObserveOnly: nothing is written without leadership")]
    ObserveOnly,
    /// A session of a newer leader, or of somebody unknown, holds the lock.
    #[error(
        "Superseded: session {holder:?} holds the right to write on this server; stop that second operator of this \
         topology, or end the session"
    )]
    Superseded {
        /// Its `application_name`.
        holder: String,
    },
    /// Our own session of another node holds the lock: both are one server.
    #[error(
        "SameServer: our own session of another node, {holder:?}, holds the right to write on this server; take one of \
         the two out of the spec"
    )]
    SameServer {
        /// Its `application_name`.
        holder: String,
    },
    /// There is no session.
    #[error("{}: {}", .0.why, .0.detail)]
    Unseen(Unseen),
    /// The lock could not be asked for.
    #[error("the right to write could not be taken: {0}")]
    Failed(String),
}

impl Fence {
    /// The `application_name` of a session with this right on a node's server. It ends with a mark of the node: one server
    /// may be in the spec as two nodes, and the sessions of the two are not to end each other for ever.
    pub fn application_name(&self, node: &NodeName) -> String {
        let mark = format!(":{:08x}", fnv(node.as_str()));
        let mut name = self.our_name();
        name.truncate(NAME_BYTES_MAX - mark.len());
        name + &mark
    }

    /// What the names of all our sessions begin with, as far as there is room for it.
    fn our_name(&self) -> String {
        let name = format!("waltree:{}:{}", self.term, self.identity);
        // As the server does it, so that names can be compared.
        name.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
    }

    /// Second half of the lock's key.
    fn key(&self) -> i32 {
        fnv(&self.scope).cast_signed()
    }

    /// Whether a session of this name has to give way on a node's server: one of an older term, or our own of before.
    fn outranks(&self, holder: &str, node: &NodeName) -> bool {
        let term = holder.strip_prefix("waltree:").and_then(|rest| rest.split(':').next()?.parse::<u64>().ok());
        term.is_some_and(|term| term < self.term) || holder == self.application_name(node)
    }

    /// Why a session that does not give way keeps the right from us.
    fn refusal(&self, holder: String, node: &NodeName) -> NoRight {
        let own = self.application_name(node);
        let unmarked = |name: &str| name.rsplit_once(':').map(|(ours, _)| ours.to_owned());
        if unmarked(&holder) == unmarked(&own) {
            NoRight::SameServer { holder }
        } else {
            NoRight::Superseded { holder }
        }
    }
}

/// FNV-1a, the same in every build, as an old and a new operator must meet at one lock.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Takes the right for the session of `client`.
///
/// # Errors
/// [`NoRight::Superseded`] when the holder is not older than we are, [`NoRight::SameServer`] when it is ourselves.
pub(super) async fn take(client: &Client, fence: &Fence, node: &NodeName) -> Result<(), NoRight> {
    match tokio::time::timeout(DEADLINE, contend(client, fence, node)).await {
        Ok(verdict) => verdict,
        Err(_) => Err(NoRight::Failed(format!("no answer within {DEADLINE:?}"))),
    }
}

async fn contend(client: &Client, fence: &Fence, node: &NodeName) -> Result<(), NoRight> {
    let failed = |error: tokio_postgres::Error| NoRight::Failed(unseen::text(&error));
    let key = fence.key();
    let mut locked = false;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        if !locked {
            let lock = "SELECT pg_try_advisory_lock($1, $2)";
            let rows = client.query_typed(lock, &[(&KEY, Type::INT4), (&key, Type::INT4)]).await.map_err(failed)?;
            locked = rows.first().and_then(|row| row.try_get(0).ok()) == Some(true);
        }
        let others = holders(client, key).await.map_err(failed)?;
        if locked && others.is_empty() {
            return Ok(());
        }
        for (pid, holder) in others {
            if !fence.outranks(&holder, node) {
                // Whoever has no right keeps it from nobody.
                client.query_typed("SELECT pg_advisory_unlock_all()", &[]).await.map_err(failed)?;
                return Err(fence.refusal(holder, node));
            }
            let (topology, term) = (&fence.scope, fence.term);
            tracing::info!(topology, holder, term, "an older session is ended to take its right to write");
            let end = "SELECT pg_terminate_backend($1, $2)";
            client.query_typed(end, &[(&pid, Type::INT4), (&END_MILLISECONDS, Type::INT8)]).await.map_err(failed)?;
            last = holder;
        }
    }
    client.query_typed("SELECT pg_advisory_unlock_all()", &[]).await.map_err(failed)?;
    Err(NoRight::Superseded { holder: last })
}

/// The other sessions that hold the lock, of whatever database, with their `application_name`.
async fn holders(client: &Client, key: i32) -> Result<Vec<(i32, String)>, tokio_postgres::Error> {
    // A pair of keys has objsubid 2. All of them are shown, not only those of our database.
    let holders = "SELECT a.pid, coalesce(a.application_name, '') FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                   WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = $1 AND l.objid::bigint = $2 \
                   AND l.objsubid = 2 AND l.pid <> pg_backend_pid()";
    // They are shown without a sign.
    let keys = (i64::from(KEY.cast_unsigned()), i64::from(key.cast_unsigned()));
    let rows = client.query_typed(holders, &[(&keys.0, Type::INT8), (&keys.1, Type::INT8)]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_of_the_lock_is_the_same_in_every_build() {
        let fence = |scope: &str| super::Fence { scope: scope.to_owned(), term: 1, identity: "a".to_owned() };
        assert_eq!(fence("a").key().cast_unsigned(), 0xe40c_292c);
        assert_ne!(fence("shop/orders").key(), fence("shop/other").key());
    }

    use super::*;

    fn name(node: &str) -> NodeName {
        NodeName::new(node).unwrap()
    }

    fn fence(term: u64, identity: &str) -> Fence {
        Fence { scope: "shop/orders".into(), term, identity: identity.into() }
    }

    #[test]
    fn an_older_term_and_our_own_of_before_give_way() {
        let node = name("eu-1");
        assert!(fence(7, "a").outranks("waltree:6:b", &node));
        assert!(fence(7, "a").outranks(&fence(6, "b").application_name(&name("ap-1")), &node));
        assert!(fence(7, "a").outranks(&fence(7, "a").application_name(&node), &node));
        let (newer, other) = (fence(8, "a").application_name(&node), fence(7, "b").application_name(&node));
        for newer in [&newer, &other, "waltree:7:a", "waltree", "psql", "", "waltree:x:a"] {
            assert!(!fence(7, "a").outranks(newer, &node), "{newer}");
            assert_eq!(fence(7, "a").refusal(newer.into(), &node), NoRight::Superseded { holder: newer.into() });
        }
    }

    #[test]
    fn our_own_session_by_another_name_of_the_server_does_not_give_way() {
        for identity in ["a", &"pod-".repeat(30)] {
            let fence = fence(7, identity);
            let holder = fence.application_name(&name("ap-1"));
            assert!(!fence.outranks(&holder, &name("eu-1")));
            assert_eq!(fence.refusal(holder.clone(), &name("eu-1")), NoRight::SameServer { holder });
        }
    }

    #[test]
    fn a_long_identity_is_cut_as_the_server_cuts_it() {
        let long = fence(7, &"pod-\u{e9}".repeat(30)).application_name(&name("eu-1"));
        assert_eq!(long.len(), 63);
        assert!(fence(7, &"pod-\u{e9}".repeat(30)).outranks(&long, &name("eu-1")));
    }
}
