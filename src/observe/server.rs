//! The task of one server: a session for ever, one question a tick, and a word at once when something changes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::decode::Before;
use super::session::Session;
use super::unseen::unseen;
use super::{Clock, ServerSpec, Timing, Wallet};
use crate::model::{Facts, Lsn, NodeName, NodeView, Unseen, WhyUnseen};

/// After a poke the server is asked at once and again after these milliseconds: a reload is acted on within about 20 ms
/// (postgres-facts.md 1.2).
const LOOKS_AFTER_A_POKE_MILLISECONDS: [u64; 5] = [0, 15, 30, 75, 200];
/// Logins at a time, of each kind.
const LOGINS_AT_A_TIME: usize = 64;
/// How often it is asked whether our role has got what it lacked.
const RIGHTS_AGAIN: Duration = Duration::from_secs(5);
/// How often it is asked whether our role has still what it had.
const RIGHTS_NOW_AND_THEN: Duration = Duration::from_secs(60);

/// What is known of one server now.
#[derive(Clone)]
pub(super) struct Sighting {
    pub(super) view: NodeView,
    pub(super) session: Option<Arc<Session>>,
}

/// What the tasks of all servers share.
pub(super) struct Shared {
    /// For the log, `namespace/name`; nobody's while we only look.
    pub(super) topology: String,
    pub(super) wallet: Wallet,
    pub(super) timing: Timing,
    pub(super) clock: Clock,
    pub(super) wake: Notify,
    pub(super) logins: Logins,
}

/// How many log in at a time. A login costs milliseconds of our own processor, so that hundreds at once would pass every
/// deadline and begin again. Servers that let the last deadline pass wait among themselves: a frozen zone keeps nobody
/// else from being seen.
pub(super) struct Logins {
    prompt: Semaphore,
    slow: Semaphore,
}

impl Default for Logins {
    fn default() -> Self {
        Self { prompt: Semaphore::new(LOGINS_AT_A_TIME), slow: Semaphore::new(LOGINS_AT_A_TIME) }
    }
}

/// One server and where its sightings go.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) node: NodeName,
    pub(super) spec: ServerSpec,
    pub(super) sighting: watch::Sender<Sighting>,
    pub(super) poke: Arc<Notify>,
}

impl Task {
    /// Watches until it is aborted.
    pub(super) async fn run(self) {
        let mut failures = 0;
        let mut rejected = false;
        // Where the server was when its disk had no place. Whoever has moved since has found one; another session of ours
        // changes nothing about that.
        let mut full_at = None;
        loop {
            match self.open(rejected).await {
                Ok(session) => {
                    rejected = false;
                    let opened = Instant::now();
                    let unseen = self.watch(&session, &mut full_at).await;
                    self.not_seen(unseen);
                    // One that ends again and again is paced like one that cannot be had.
                    if opened.elapsed() > self.shared.timing.tick {
                        failures = 0;
                    }
                }
                Err(unseen) => {
                    rejected = unseen.why == WhyUnseen::CredentialsRejected;
                    self.not_seen(unseen);
                }
            }
            // A session that was just lost is tried again at once: whether the server is gone is known then.
            if failures > 0 {
                let soon = failures <= self.shared.timing.retries_soon;
                let pause = if soon { self.shared.timing.retry_soon } else { self.shared.timing.retry_later };
                let _ = tokio::time::timeout(pause, self.poke.notified()).await;
            }
            failures += 1;
        }
    }

    async fn open(&self, rejected: bool) -> Result<Arc<Session>, Unseen> {
        let shared = &self.shared;
        let secret = self.spec.access.secret.as_deref();
        let credentials = shared.wallet.credentials(secret, rejected, (shared.clock)()).await?;
        let slow = self.sighting.borrow().view.unseen.as_ref().is_some_and(|u| u.why == WhyUnseen::Timeout);
        let turn = if slow { &shared.logins.slow } else { &shared.logins.prompt };
        let _turn = turn.acquire().await;
        let opened =
            Session::open((&self.node, &self.spec), &credentials, &shared.timing).instrument(self.span()).await;
        Ok(Arc::new(opened.map_err(|unseen| self.at(&unseen))?))
    }

    /// What is logged by a session is logged about this node.
    fn span(&self) -> tracing::Span {
        tracing::info_span!("session", topology = self.shared.topology, node = %self.node)
    }

    /// Says where, and for a rejection with which Secret: the server and the network name neither, and a wrong port or
    /// Secret is seen by that.
    fn at(&self, Unseen { why, detail }: &Unseen) -> Unseen {
        let ServerSpec { address, port, access, .. } = &self.spec;
        let secret = access.secret.as_ref().filter(|_| *why == WhyUnseen::CredentialsRejected);
        let with = secret.map(|secret| format!(", with Secret {secret:?}")).unwrap_or_default();
        unseen(*why, format!("{address}:{port}: {detail}{with}"))
    }

    /// Asks again and again until the session ends or does not answer; returns why.
    async fn watch(&self, session: &Arc<Session>, full_at: &mut Option<Lsn>) -> Unseen {
        let mut next_tick = Instant::now();
        let mut looks = std::collections::VecDeque::new();
        let mut rights_at = Instant::now() + RIGHTS_AGAIN;
        // The first tick is shorter by a part that differs from server to server, so that they are not all asked at once.
        let mut pause = self.shared.timing.tick.mul_f64(phase(&self.node));
        loop {
            let next = looks.front().map_or(next_tick, |look| next_tick.min(*look));
            tokio::select! {
                unseen = session.ended() => return unseen,
                () = self.poke.notified() => {
                    let now = Instant::now();
                    looks = LOOKS_AFTER_A_POKE_MILLISECONDS.map(|ms| now + Duration::from_millis(ms)).into();
                    continue;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            if looks.front().is_some_and(|look| *look <= next) {
                looks.pop_front();
            }
            if next_tick <= next {
                next_tick = Instant::now() + pause;
                pause = self.shared.timing.tick;
                session.take_right(self.spec.fence.as_ref()).instrument(self.span()).await;
            }
            if let Err(unseen) = self.look(session, full_at).await {
                return unseen;
            }
            if rights_at <= Instant::now() {
                let again = if session.lacks_rights().await { RIGHTS_AGAIN } else { RIGHTS_NOW_AND_THEN };
                rights_at = Instant::now() + again;
                if let Ok(Err(unseen)) = tokio::time::timeout(self.shared.timing.answer, session.learn_rights()).await {
                    return unseen;
                }
            }
        }
    }

    /// Asks once and says what was seen. An answer that cannot be used is no reason to log in again.
    async fn look(&self, session: &Arc<Session>, full_at: &mut Option<Lsn>) -> Result<(), Unseen> {
        let before = self.sighting.borrow().view.last.as_deref().map_or(Before::Nothing, Before::of);
        let asked = tokio::select! {
            unseen = session.ended() => return Err(unseen),
            asked = session.ask(self.shared.clock, &self.shared.timing, before) => asked,
        };
        match asked {
            Ok(mut facts) => {
                if session.disk_is_doubted() {
                    let full = session.disk_is_full(facts.segment_bytes).await;
                    *full_at = full.unwrap_or(false).then_some(facts.position);
                }
                facts.disk_full = *full_at == Some(facts.position);
                self.seen(facts, session);
            }
            Err(unseen) if matches!(unseen.why, WhyUnseen::BadAnswer | WhyUnseen::Starting) => self.not_seen(unseen),
            Err(unseen) => return Err(unseen),
        }
        Ok(())
    }

    fn seen(&self, facts: Facts, session: &Arc<Session>) {
        let new = Sighting {
            view: NodeView { last: Some(Arc::new(facts)), unseen: None },
            session: Some(Arc::clone(session)),
        };
        let old = self.sighting.send_replace(new.clone());
        if old.view.unseen.is_some() {
            tracing::info!(topology = self.shared.topology, node = %self.node, "seen");
        }
        if !alike(&old.view, &new.view) {
            self.shared.wake.notify_one();
        }
    }

    fn not_seen(&self, unseen: Unseen) {
        let old = self.sighting.borrow().view.clone();
        if old.unseen.as_ref().map(|u| u.why) != Some(unseen.why) {
            tracing::info!(topology = self.shared.topology, node = %self.node, why = %unseen.why, detail = unseen.detail, "not seen");
            self.shared.wake.notify_one();
        }
        let view = NodeView { last: old.last, unseen: Some(unseen) };
        self.sighting.send_replace(Sighting { view, session: None });
    }
}

/// Whether nothing changed that is worth a pass of its own: whether it is seen, what it is, whom it receives from and is
/// told to.
fn alike(old: &NodeView, new: &NodeView) -> bool {
    let (Some(old), Some(new)) = (old.seen(), new.seen()) else { return old.seen().is_some() == new.seen().is_some() };
    let upstream = |facts: &Facts| facts.receiver.as_ref().map(|r| (r.host.clone(), r.port));
    old.in_recovery == new.in_recovery && upstream(old) == upstream(new) && old.route == new.route
}

/// A number from 0 to 1 that depends on the name.
fn phase(node: &NodeName) -> f64 {
    let sum = node.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    f64::from(sum % 1000) / 1000.0
}
