//! An answer of a server as [`Facts`]. Total: whatever it says is either facts or a named reason why not.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::rights::Rights;
use crate::model::conninfo::{MASK, SECRETS, is_blank};
use crate::model::observed::{InstalledRoute, Receiver, Sender, Slot};
use crate::model::{Conninfo, Facts, Lsn, Millis, Timeline};

/// The answer to [`super::query::tick`].
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the columns of one row")]
pub(super) struct Answer {
    system_identifier: String,
    cluster_name: String,
    version_num: u32,
    started: u64,
    in_recovery: bool,
    position: String,
    replay: Option<String>,
    timeline: Option<u32>,
    control_timeline: Option<u32>,
    redo: String,
    oldest_wal: Option<String>,
    segment_bytes: u64,
    replay_paused: bool,
    startup_wait: Option<String>,
    receiver: Option<ReceiverRow>,
    connecting: bool,
    conninfo: String,
    has_password: bool,
    slot_name: String,
    pending_route: Option<String>,
    history: Option<String>,
    senders: Vec<SenderRow>,
    slots: Vec<SlotRow>,
    synchronous_standby_names: String,
    alter_system_allowed: bool,
    parameters: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct ReceiverRow {
    pid: Option<i32>,
    status: Option<String>,
    host: Option<String>,
    port: Option<i32>,
    slot: Option<String>,
    timeline: Option<u32>,
    silent_for_milliseconds: Option<i64>,
}

#[derive(Deserialize)]
struct SenderRow {
    pid: i32,
    application_name: Option<String>,
    state: Option<String>,
    sync: Option<bool>,
    slot: Option<String>,
    client: Option<String>,
    replied: Option<i64>,
}

#[derive(Deserialize)]
struct SlotRow {
    name: String,
    active_pid: Option<i32>,
    restart_lsn: Option<String>,
    xmin: Option<String>,
    lost: bool,
}

/// A part of an answer that is not what it has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value:?}")]
pub(super) struct BadAnswer {
    field: &'static str,
    value: String,
}

fn bad(field: &'static str, value: &str) -> BadAnswer {
    BadAnswer { field, value: value.chars().take(60).collect() }
}

fn lsn(field: &'static str, text: &str) -> Result<Lsn, BadAnswer> {
    text.parse().map_err(|_| bad(field, text))
}

/// The facts in an answer as a server writes it, asked and answered at `at` with every right; or why they are none. Total:
/// any text is read or refused.
///
/// # Errors
/// A sentence about the first part that is not what it has to be.
pub fn read(text: &str, at: Millis) -> Result<Facts, String> {
    let answer = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let rights = Rights { missing_grants: Vec::new(), end_senders: true, timeline_history: true, pending_route: true };
    facts(answer, &rights, Asked { at, answered: at }, Before::Nothing).map_err(|error| error.to_string())
}

/// When a question was asked and when its answer was here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) at: Millis,
    pub(super) answered: Millis,
}

/// What is known from the look before of the timeline that a server is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// It was a standby, last seen receiving this one.
    Received(Timeline),
    /// It took writes, on this one, which its own `pg_control` holds then.
    Wrote(Timeline),
}

impl Before {
    pub(super) fn of(last: &Facts) -> Self {
        last.timeline.map_or(Self::Nothing, if last.in_recovery { Self::Received } else { Self::Wrote })
    }

    pub(super) fn received(self) -> Option<Timeline> {
        match self {
            Self::Received(timeline) => Some(timeline),
            Self::Nothing | Self::Wrote(_) => None,
        }
    }

    /// On which timeline a standby is that does not receive, where `pg_control` says `control`. What took writes and says less
    /// now has been made anew from another server, of which nothing is known yet.
    fn with(self, control: Option<Timeline>) -> Option<Timeline> {
        match self {
            Self::Nothing => None,
            Self::Received(known) => Some(control.map_or(known, |control| control.max(known))),
            Self::Wrote(known) => control.filter(|control| *control >= known),
        }
    }
}

/// The facts in an answer, of a server of which `before` is known.
///
/// The timeline of a standby without a walreceiver cannot be asked for by SQL: `pg_control` lags (postgres-facts.md
/// 5.2). It only grows, so what it was last seen on and what `pg_control` says are both lower bounds, and the greater
/// is the best that is known. Never seen receiving, it is `None`: `pg_control` alone may be one promotion behind.
pub(super) fn facts(answer: Answer, rights: &Rights, asked: Asked, before: Before) -> Result<Facts, BadAnswer> {
    let position = lsn("position", &answer.position)?;
    let receiver = answer.receiver.and_then(receiver);
    let timeline = if answer.in_recovery {
        receiver.as_ref().map(|r| r.timeline).or_else(|| before.with(answer.control_timeline.map(Timeline)))
    } else {
        answer.timeline.map(Timeline)
    };
    let history = match timeline {
        Some(timeline) => history(answer.history.as_deref().unwrap_or_default(), timeline)?,
        None => Vec::new(),
    };
    Ok(Facts {
        asked_at: asked.at,
        at: asked.answered,
        system_identifier: answer
            .system_identifier
            .parse()
            .map_err(|_| bad("system_identifier", &answer.system_identifier))?,
        cluster_name: answer.cluster_name,
        version_num: answer.version_num,
        started: answer.started,
        in_recovery: answer.in_recovery,
        position,
        replay: answer.replay.map_or(Ok(position), |text| lsn("replay", &text))?,
        timeline,
        timeline_at_least: answer.control_timeline.map(Timeline),
        history,
        redo: lsn("redo", &answer.redo)?,
        oldest_wal: answer.oldest_wal.map(|name| oldest_wal(&name, answer.segment_bytes)).transpose()?,
        segment_bytes: answer.segment_bytes,
        replay_paused: answer.replay_paused,
        startup_wait: answer.startup_wait,
        receiver,
        connecting: answer.connecting,
        route: route(&answer.conninfo, answer.has_password, answer.slot_name, rights, answer.pending_route),
        senders: answer.senders.into_iter().map(sender).collect(),
        slots: answer.slots.into_iter().map(slot).collect::<Result<_, _>>()?,
        synchronous_standby_names: answer.synchronous_standby_names,
        alter_system_allowed: answer.alter_system_allowed,
        disk_full: false,
        missing_grants: rights.missing_grants.clone(),
        may_end_senders: rights.end_senders,
        parameters: answer.parameters,
    })
}

/// A row without a host is one that is not yet connected; a role without `pg_monitor` sees none either.
fn receiver(row: ReceiverRow) -> Option<Receiver> {
    Some(Receiver {
        pid: row.pid?,
        status: row.status?,
        host: row.host?,
        port: u16::try_from(row.port?).ok()?,
        slot: row.slot.filter(|slot| !slot.is_empty()),
        timeline: Timeline(row.timeline?),
        silent_for_milliseconds: row.silent_for_milliseconds.and_then(|t| u64::try_from(t).ok()).unwrap_or(0),
    })
}

fn sender(row: SenderRow) -> Sender {
    Sender {
        pid: row.pid,
        application_name: row.application_name.unwrap_or_default(),
        state: row.state.unwrap_or_default(),
        sync: row.sync,
        slot: row.slot,
        client: row.client,
        replied: row.replied,
    }
}

fn slot(row: SlotRow) -> Result<(String, Slot), BadAnswer> {
    let slot = Slot {
        active_pid: row.active_pid,
        restart_lsn: row.restart_lsn.map(|text| lsn("restart_lsn", &text)).transpose()?,
        xmin: row.xmin.map(|text| text.parse().map_err(|_| bad("xmin", &text))).transpose()?,
        lost: row.lost,
    };
    Ok((row.name, slot))
}

fn route(conninfo: &str, has_password: bool, slot: String, rights: &Rights, pending: Option<String>) -> InstalledRoute {
    // The server masks them; if ever it did not, they go no further.
    let is_masked = |parsed: &Conninfo| SECRETS.iter().all(|key| parsed.get(key).is_none_or(|value| value == MASK));
    let parsed = Conninfo::parse(conninfo).ok().filter(is_masked);
    // Files without the line bring the default, which is empty.
    let pending = rights.pending_route.then(|| pending.unwrap_or_default());
    InstalledRoute {
        unreadable: parsed.is_none(),
        conninfo: parsed.unwrap_or_default(),
        slot,
        nudged: conninfo.ends_with(is_blank),
        has_password,
        pending: pending
            .filter(|text| text != conninfo)
            .map(|text| Conninfo::parse(&text).ok().filter(is_masked).unwrap_or_default()),
    }
}

/// Where a WAL segment begins, from the last 16 digits of its file's name.
fn oldest_wal(digits: &str, segment_bytes: u64) -> Result<Lsn, BadAnswer> {
    let part = |part: Option<&str>| part.and_then(|text| u64::from_str_radix(text, 16).ok());
    match (part(digits.get(..8)), part(digits.get(8..))) {
        (Some(high), Some(segment)) => Ok(Lsn((high << 32).saturating_add(segment.saturating_mul(segment_bytes)))),
        _ => Err(bad("oldest_wal", digits)),
    }
}

/// The lines `timeline <tab> LSN <tab> reason` of a history file, without those of `own` and later: a server that
/// stands on an older timeline than the file may have it already (postgres-facts.md 5.2).
fn history(text: &str, own: Timeline) -> Result<Vec<(Timeline, Lsn)>, BadAnswer> {
    let mut ends = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let timeline = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| bad("history", line))?;
        let end = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| bad("history", line))?;
        ends.insert(Timeline(timeline), end);
    }
    Ok(ends.into_iter().filter(|(timeline, _)| *timeline < own).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(change: impl Fn(&mut serde_json::Value)) -> serde_json::Value {
        let mut json = serde_json::json!({
            "system_identifier": "7000000000000000001", "cluster_name": "", "version_num": 150_018, "started": 1, "in_recovery": true,
            "position": "0/3000060", "replay": "0/3000028", "timeline": null, "control_timeline": 1,
            "redo": "0/2000028", "oldest_wal": "0000000000000002", "segment_bytes": 16 << 20, "replay_paused": false,
            "startup_wait": null, "connecting": false, "conninfo": "host=a port=1", "has_password": false, "slot_name": "", "history": null,
            "receiver": {"pid": 5, "status": "streaming", "host": "a", "port": 1, "slot": "", "timeline": 2},
            "pending_route": "host=a port=1", "senders": [], "slots": [], "alter_system_allowed": true,
            "synchronous_standby_names": "",
            "parameters": {"max_wal_senders": 10},
        });
        change(&mut json);
        json
    }

    fn answer(change: impl Fn(&mut serde_json::Value)) -> Result<Facts, String> {
        let asked = Asked { at: Millis(1), answered: Millis(2) };
        let rights = Rights { pending_route: true, ..Rights::default() };
        let answer = serde_json::from_value(json(change)).map_err(|e| e.to_string())?;
        facts(answer, &rights, asked, Before::Received(Timeline(3))).map_err(|e| e.to_string())
    }

    #[test]
    fn whoever_took_writes_and_is_a_standby_now_is_on_that_timeline_unless_its_pg_control_says_that_it_was_made_anew() {
        let primary = answer(|json| (json["in_recovery"], json["timeline"]) = (false.into(), 3.into())).unwrap();
        let standby = answer(|_| ()).unwrap();
        let known = [Before::of(&primary), Before::of(&standby)];
        assert_eq!(known, [Before::Wrote(Timeline(3)), Before::Received(Timeline(2))]);
        let again = |control: u32| {
            let answer = json(|json| {
                json["receiver"] = serde_json::Value::Null;
                json["control_timeline"] = control.into();
            });
            let answer = serde_json::from_value(answer).unwrap();
            facts(answer, &Rights::default(), Asked { at: Millis(1), answered: Millis(2) }, known[0])
        };
        // Made anew; as it was; and one that has followed somebody since.
        let expected = [None, Some(Timeline(3)), Some(Timeline(4))];
        assert_eq!([1, 3, 4].map(|control| again(control).unwrap().timeline), expected);
    }

    #[test]
    fn a_receiving_standby_is_on_the_timeline_that_it_receives() {
        let facts = answer(|_| ()).unwrap();
        assert_eq!((facts.timeline, facts.oldest_wal), (Some(Timeline(2)), Some(Lsn(0x200_0000))));
        assert_eq!(facts.route.pending, None);
    }

    #[test]
    fn a_standby_that_does_not_receive_is_on_the_one_that_it_received_last() {
        let without = |control: u32| {
            answer(|json| {
                json["receiver"] = serde_json::Value::Null;
                json["control_timeline"] = control.into();
            })
        };
        assert_eq!(without(1).unwrap().timeline, Some(Timeline(3)));
        assert_eq!(without(4).unwrap().timeline, Some(Timeline(4)));
    }

    #[test]
    fn a_route_that_only_the_files_hold_is_pending() {
        let facts = answer(|json| json["pending_route"] = "host=b port=1".into()).unwrap();
        assert_eq!(facts.route.pending.map(|c| c.hosts()), Some(vec![("b".to_owned(), 1)]));
        let facts = answer(|json| json["pending_route"] = serde_json::Value::Null).unwrap();
        assert_eq!(facts.route.pending, Some(Conninfo::default()));
    }

    #[test]
    fn a_uri_is_unreadable() {
        let facts = answer(|json| json["conninfo"] = "postgresql://".into()).unwrap();
        assert!(facts.route.unreadable);
    }

    #[test]
    fn an_answer_that_is_none_is_named() {
        let refused = answer(|json| json["position"] = "nonsense".into());
        assert_eq!(refused.unwrap_err(), "position is \"nonsense\"");
        assert!(answer(|json| json["slots"] = 7.into()).is_err());
    }

    #[test]
    fn a_history_file_says_where_older_timelines_ended() {
        let text = "1\t0/4000060\tno recovery target specified\n\n2\t0/5000000\tx\n";
        assert_eq!(history(text, Timeline(2)).unwrap(), [(Timeline(1), Lsn(0x400_0060))]);
        assert_eq!(history(text, Timeline(3)).unwrap().len(), 2);
        assert!(history("one two", Timeline(3)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_decoded_or_refused(text in ".{0,40}", field in prop::sample::select(vec![
            "system_identifier", "position", "replay", "redo", "oldest_wal", "conninfo", "pending_route", "history",
        ])) {
            let _ = answer(|json| json[field] = text.clone().into());
        }
    }
}
