//! Who acts: the holder of one Lease. Every taking of it is one compare-and-swap that also raises the term, and every
//! duration is measured here, on the boot-time clock, from what was seen (law 14; safety.md I4): the times written in the
//! Lease are for people. What keeps a leader that was paused from writing is not this but the fence on every server.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock;
use crate::model::Millis;

/// Name of the Lease.
pub const LEASE: &str = "waltree-operator";

/// A follower takes a Lease that stood still for so long, in seconds.
const LEASE_SECONDS: i32 = 15;
/// A leader that could not renew for so long stops, in milliseconds. It looks at this after every failed request, which
/// is one pace and one deadline later at most: at 14 s of the 15.
const RENEW_WITHIN_MILLISECONDS: u64 = 9_000;
/// Between two looks at the Lease, and between two renewals.
const PACE: Duration = Duration::from_secs(2);
/// Deadline of one look with its write: a frozen API server accepts TCP and says nothing.
const REQUEST: Duration = Duration::from_secs(3);

/// Grows with every change of leader: an order of an older term is refused (law 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub u64);

/// What stands in the Lease, as far as it decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seen {
    holder: Option<String>,
    term: u64,
    renewed: Option<MicroTime>,
    seconds: u64,
}

/// What is to be done about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    /// It is ours: say that we live.
    Renew,
    /// It is free, or its holder is silent: make it ours, under the next term.
    Take,
    /// It is somebody else's.
    Wait,
}

/// How often one look is taken anew because the Lease changed between reading and writing it.
const LOOKS: usize = 3;

/// A write of ours whose answer has not come: it may be stored all the same, now or later.
#[derive(Debug)]
struct Sent {
    term: Term,
    renewed: MicroTime,
    at: Millis,
}

/// What decides, without the API server.
#[derive(Debug, Default)]
struct Judge {
    identity: String,
    /// The term under which we hold the Lease.
    held: Option<Term>,
    /// When the request was sent by which we held it last.
    confirmed_at: Millis,
    /// What was sent since, the oldest first.
    sent: Vec<Sent>,
    /// What stood in the Lease when it last changed, and when that was seen.
    seen: Option<(Seen, Millis)>,
    /// The highest term that ever stood in the Lease, as far as we saw. One that is deleted and made anew begins at nothing,
    /// and whoever led before keeps its sessions: their right to write has to be outranked all the same (safety.md 1.15).
    highest_term: u64,
    /// Whether the Lease was ever seen: a holder of our name before that was an earlier life of ours.
    began: bool,
}

/// One candidate for leadership.
struct Candidate {
    leases: Api<Lease>,
    judge: Judge,
}

/// Competes for the Lease until `stop`, then gives it back, so that another can begin at once: whoever cancels `stop`
/// has ended all acting before. `leading` has the term while we lead. `answered` becomes true with the first answer of
/// the API server.
pub async fn campaign(
    leases: Api<Lease>,
    identity: String,
    leading: watch::Sender<Option<Term>>,
    answered: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut candidate = Candidate { leases, judge: Judge { identity, ..Judge::default() } };
    let mut failing = false;
    while !stop.is_cancelled() {
        match tokio::time::timeout(REQUEST, candidate.attempt()).await.unwrap_or(Err(Trouble::Silent)) {
            Ok(()) => {
                failing = false;
                answered.send_if_modified(|known| !std::mem::replace(known, true));
            }
            Err(trouble) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %trouble, cause = trouble.cause(), "the Lease cannot be reached");
                }
            }
        }
        // Also after an answer: we may have been paused since.
        candidate.judge.expire(clock::now());
        announce(&leading, candidate.judge.held);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PACE) => {}
        }
    }
    announce(&leading, None);
    if candidate.judge.may_hold()
        && let Err(trouble) = tokio::time::timeout(REQUEST, candidate.release()).await.unwrap_or(Err(Trouble::Silent))
    {
        tracing::warn!(error = %trouble, cause = trouble.cause(), "the Lease was not given back; it ends by itself");
    }
}

fn announce(leading: &watch::Sender<Option<Term>>, held: Option<Term>) {
    let changed = leading.send_if_modified(|known| std::mem::replace(known, held) != held);
    match (changed, held) {
        (true, Some(Term(term))) => tracing::info!(term, "leading"),
        (true, None) => tracing::info!("not leading"),
        (false, _) => {}
    }
}

/// Why the Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("no answer within {REQUEST:?}")]
    Silent,
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    #[error("it was changed {LOOKS} times between reading and writing it")]
    Contended,
}

impl Trouble {
    fn cause(&self) -> Option<String> {
        std::error::Error::source(self).map(ToString::to_string)
    }
}

impl Candidate {
    /// Looks at the Lease, and renews or takes it when that is right.
    async fn attempt(&mut self) -> Result<(), Trouble> {
        for _ in 0..LOOKS {
            let sent_at = clock::now();
            let found = self.leases.get_opt(LEASE).await?;
            let seen = found.as_ref().map(read).unwrap_or_default();
            let deed = self.judge.decide(&seen, sent_at);
            if deed != Deed::Renew {
                self.judge.held = None;
            }
            let term = match deed {
                Deed::Renew => Term(seen.term),
                Deed::Take => self.judge.next_term(),
                Deed::Wait => return Ok(()),
            };
            let renewed = now();
            // Before it is sent: the answer may never come.
            self.judge.sent.push(Sent { term, renewed: renewed.clone(), at: sent_at });
            if self.write(found, (term, renewed), deed == Deed::Take).await? {
                self.judge.confirm(term, sent_at);
                return Ok(());
            }
            // Somebody wrote to it since it was read. That may be no more than an annotation, so it is read again; what
            // we hold is bounded by when it was confirmed.
        }
        Err(Trouble::Contended)
    }

    /// Writes the Lease over the version that was read. False: somebody else was faster.
    async fn write(
        &self,
        found: Option<Lease>,
        (Term(term), renewed): (Term, MicroTime),
        taking: bool,
    ) -> Result<bool, Trouble> {
        let exists = found.is_some();
        let mut lease = found.unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.judge.identity.clone());
        spec.lease_duration_seconds = Some(LEASE_SECONDS);
        spec.lease_transitions = Some(i32::try_from(term).unwrap_or(i32::MAX));
        spec.renew_time = Some(renewed.clone());
        if taking {
            spec.acquire_time = Some(renewed);
        }
        lease.metadata.managed_fields = None;
        self.store(exists, lease).await
    }

    /// Gives the Lease back, if it is ours.
    async fn release(&mut self) -> Result<(), Trouble> {
        let Some(mut lease) = self.leases.get_opt(LEASE).await? else { return Ok(()) };
        let seen = read(&lease);
        self.judge.recognise(&seen, clock::now());
        if seen.holder.as_deref() == Some(&self.judge.identity) && self.judge.held == Some(Term(seen.term)) {
            // The term stays: it only ever grows.
            lease.spec = Some(LeaseSpec { lease_transitions: i32::try_from(seen.term).ok(), ..LeaseSpec::default() });
            lease.metadata.managed_fields = None;
            self.store(true, lease).await?;
        }
        Ok(())
    }

    async fn store(&self, exists: bool, mut lease: Lease) -> Result<bool, Trouble> {
        let post = PostParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let result = if exists {
            self.leases.replace(LEASE, &post, &lease).await
        } else {
            lease.metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
            self.leases.create(&post, &lease).await
        };
        match result {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Judge {
    fn decide(&mut self, seen: &Seen, now: Millis) -> Deed {
        let first = !std::mem::replace(&mut self.began, true);
        if self.seen.as_ref().is_none_or(|(known, _)| known != seen) {
            self.seen = Some((seen.clone(), now));
        }
        self.highest_term = self.highest_term.max(seen.term);
        self.recognise(seen, now);
        let still_for = self.seen.as_ref().map_or(0, |(_, since)| now.since(*since));
        match &seen.holder {
            None => Deed::Take,
            Some(holder) if *holder == self.identity && self.held == Some(Term(seen.term)) => Deed::Renew,
            // Our own name, but not our term: an earlier life of ours when we have just begun, a twin otherwise.
            Some(holder) if *holder == self.identity && first => Deed::Take,
            Some(_) if still_for >= seen.seconds.saturating_mul(1000) => Deed::Take,
            Some(_) => Deed::Wait,
        }
    }

    /// The term of whoever takes the Lease now.
    fn next_term(&self) -> Term {
        Term(self.highest_term + 1)
    }

    /// A write of ours that was stored, whatever became of its answer, counts from when it was sent: nobody can have seen
    /// it, and begun to wait for us, before. One that is older than that is worth nothing.
    fn recognise(&mut self, seen: &Seen, now: Millis) {
        self.sent.retain(|sent| now.since(sent.at) < RENEW_WITHIN_MILLISECONDS);
        let stored = |sent: &&Sent| sent.term == Term(seen.term) && seen.renewed.as_ref() == Some(&sent.renewed);
        let ours = seen.holder.as_deref() == Some(&self.identity);
        if let Some(sent) = self.sent.iter().find(stored).filter(|_| ours) {
            (self.held, self.confirmed_at) = (Some(sent.term), sent.at);
        }
    }

    /// We hold the Lease by a write that was answered. What was sent before it was sent over an older version, and is
    /// refused.
    fn confirm(&mut self, term: Term, sent_at: Millis) {
        (self.held, self.confirmed_at) = (Some(term), sent_at);
        self.sent.clear();
    }

    /// Whether the Lease may be ours.
    fn may_hold(&self) -> bool {
        self.held.is_some() || !self.sent.is_empty()
    }

    /// Stops leading when it could not be confirmed for too long.
    fn expire(&mut self, now: Millis) {
        if now.since(self.confirmed_at) >= RENEW_WITHIN_MILLISECONDS {
            self.held = None;
        }
    }
}

/// As fine as the API server keeps it, so that our own is known again.
fn now() -> MicroTime {
    let now = Timestamp::now();
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}

fn read(lease: &Lease) -> Seen {
    let Some(spec) = &lease.spec else { return Seen::default() };
    let number = |value: Option<i32>| value.and_then(|value| u64::try_from(value).ok());
    Seen {
        holder: spec.holder_identity.clone().filter(|holder| !holder.is_empty()),
        term: number(spec.lease_transitions).unwrap_or(0),
        renewed: spec.renew_time.clone(),
        seconds: number(spec.lease_duration_seconds).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(held: Option<u64>) -> Judge {
        Judge { identity: "a".to_owned(), held: held.map(Term), ..Judge::default() }
    }

    fn lease(holder: &str, term: u64, renewed: i64) -> Seen {
        let renewed = Timestamp::from_second(renewed).ok().map(MicroTime);
        Seen { holder: Some(holder.to_owned()), term, renewed, seconds: 15 }
    }

    #[test]
    fn a_free_lease_is_taken() {
        assert_eq!(judge(None).decide(&Seen::default(), Millis(0)), Deed::Take);
    }

    #[test]
    fn a_lease_is_taken_when_it_stood_still_here_whatever_time_is_written_in_it() {
        let mut judge = judge(None);
        assert_eq!(judge.decide(&lease("b", 3, 1), Millis(100_000)), Deed::Wait);
        assert_eq!(judge.decide(&lease("b", 3, 1), Millis(114_999)), Deed::Wait);
        assert_eq!(judge.decide(&lease("b", 3, 2), Millis(115_000)), Deed::Wait, "it was renewed");
        assert_eq!(judge.decide(&lease("b", 3, 2), Millis(129_999)), Deed::Wait);
        assert_eq!(judge.decide(&lease("b", 3, 2), Millis(130_000)), Deed::Take);
    }

    #[test]
    fn a_lease_that_was_deleted_and_made_anew_does_not_bring_back_an_old_term() {
        let mut judge = judge(None);
        assert_eq!(judge.decide(&lease("b", 7, 1), Millis(0)), Deed::Wait);
        assert_eq!(judge.decide(&Seen::default(), Millis(1)), Deed::Take);
        assert_eq!(judge.next_term(), Term(8));
    }

    #[test]
    fn a_lease_of_an_earlier_life_is_taken_under_a_new_term_and_one_of_a_twin_is_left() {
        assert_eq!(judge(None).decide(&lease("a", 3, 1), Millis(0)), Deed::Take);
        let mut judge = judge(Some(3));
        assert_eq!(judge.decide(&lease("a", 3, 1), Millis(0)), Deed::Renew);
        assert_eq!(judge.decide(&lease("a", 4, 1), Millis(1)), Deed::Wait);
    }

    fn sent(term: u64, renewed: i64, at: u64) -> Sent {
        let renewed = MicroTime(Timestamp::from_second(renewed).unwrap());
        Sent { term: Term(term), renewed, at: Millis(at) }
    }

    #[test]
    fn a_write_that_was_stored_and_not_answered_holds_from_when_it_was_sent_and_no_longer() {
        let mut judge = Judge { began: true, sent: vec![sent(3, 7, 1_000), sent(3, 8, 6_000)], ..judge(None) };
        assert_eq!(judge.decide(&lease("a", 3, 8), Millis(9_000)), Deed::Renew);
        assert_eq!((judge.held, judge.confirmed_at), (Some(Term(3)), Millis(6_000)));
        judge.expire(Millis(15_000));
        assert_eq!(judge.held, None);
        assert_eq!(judge.decide(&lease("a", 3, 8), Millis(15_000)), Deed::Wait, "it was paused for too long");
    }

    #[test]
    fn a_lease_that_is_not_exactly_what_was_sent_is_not_ours_by_it() {
        for other in [lease("b", 3, 7), lease("a", 4, 7), lease("a", 3, 8), Seen { renewed: None, ..lease("a", 3, 7) }]
        {
            let mut judge = Judge { began: true, sent: vec![sent(3, 7, 1_000)], ..judge(None) };
            assert_eq!((judge.decide(&other, Millis(2_000)), judge.held), (Deed::Wait, None), "{other:?}");
        }
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_before_another_may_begin() {
        let mut judge = Judge { confirmed_at: Millis(1_000), ..judge(Some(3)) };
        judge.expire(Millis(9_999));
        assert_eq!(judge.held, Some(Term(3)));
        judge.expire(Millis(10_000));
        assert_eq!(judge.held, None);
        let step = u64::try_from((PACE + REQUEST).as_millis()).unwrap();
        assert!(RENEW_WITHIN_MILLISECONDS + step < u64::try_from(LEASE_SECONDS).unwrap() * 1000);
    }
}
