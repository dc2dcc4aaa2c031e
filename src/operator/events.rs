//! Events: one for every change of what is wrong with a node, one for every deed that is more than upkeep.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::Acknowledgement;
use crate::model::{Diagnosis, Finding, Millis, NodeName, about};
use crate::plan::{Outcome, Step, Why};

/// Longest note the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1024;

/// One thing that people should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is bad news.
    pub warning: bool,
    /// One word: a diagnosis, the reason of a step, or `Recovered`.
    pub reason: &'static str,
    /// What was done, in one word.
    pub action: &'static str,
    /// Whom it is about.
    pub node: NodeName,
    /// One or two sentences.
    pub note: String,
}

/// For so long a diagnosis that goes on is not told again, whatever else its message says by then, in milliseconds: of a
/// server that hangs two looks in a row say different things.
const AGAIN_MILLISECONDS: u64 = 60_000;

/// The diagnoses of one pass, to be compared with the next: with what was told of each, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known(BTreeMap<(NodeName, Diagnosis), (String, Millis)>);

impl Known {
    /// Remembers what is wrong now, and tells what is new and what is over. The same diagnosis with another message is
    /// another cause or another upstream, so it is told too, after a while.
    pub fn learn(&mut self, findings: &[Finding], now: Millis) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut known = BTreeMap::new();
        for Finding { node, diagnosis, message } in findings {
            let key = (node.clone(), *diagnosis);
            let told = self.0.remove(&key);
            let stays = |(text, at): &(String, Millis)| text == message || now.since(*at) < AGAIN_MILLISECONDS;
            let told = told.filter(stays).unwrap_or_else(|| {
                notices.push(Notice {
                    warning: diagnosis.is_failure(),
                    reason: diagnosis.into(),
                    action: "Diagnose",
                    node: node.clone(),
                    note: note(&about(node.as_str(), message)),
                });
                (message.clone(), now)
            });
            known.insert(key, told);
        }
        let over = std::mem::replace(&mut self.0, known);
        notices.extend(over.into_keys().map(|(node, diagnosis)| Notice {
            warning: false,
            reason: "Recovered",
            action: "Diagnose",
            note: note(&format!("{node}: {diagnosis} is over. Nothing to do.")),
            node,
        }));
        notices
    }
}

/// What a person took note of; nothing when nobody of ours was meant.
pub fn acknowledged(taken: &Acknowledgement) -> Option<Notice> {
    const NAMED: usize = 5;
    let first = taken.nodes.first()?.clone();
    let named: Vec<&str> = taken.nodes.iter().take(NAMED).map(NodeName::as_str).collect();
    let more = match taken.nodes.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let unknown = match taken.unknown.as_slice() {
        [] => String::new(),
        unknown => format!(" There is no {} here.", unknown.join(", ")),
    };
    let note =
        format!("{}{more}: acknowledged; earlier failures and refusals are forgotten.{unknown}", named.join(", "));
    let note = self::note(&note);
    Some(Notice { warning: false, reason: "Acknowledged", action: "Acknowledge", node: first, note })
}

/// The deeds of one pass that people should hear of: routes that were set, slots that were given up or made anew, sessions
/// that were ended. What comes again and again is not told, nor what prepares or clears up after a route: that one is.
pub fn deeds(outcome: &Outcome) -> Vec<Notice> {
    let done = outcome.done.iter().filter(|done| done.result.is_ok());
    let notice = |step: &Step, why: &'static str| match step {
        Step::SetRoute { node, route, .. } => {
            let names: Vec<&str> = route.entries.iter().map(NodeName::as_str).collect();
            let note = note(&format!("{node}: route set to {}. Nothing to do.", names.join(", then ")));
            Some(Notice { warning: false, reason: why, action: "SetRoute", node: node.clone(), note })
        }
        Step::DropSlot { on, owner } if why == <&str>::from(Why::RetainedWal) => {
            let seen = format!("{owner}: its slot on {on} kept more WAL than limits.retainedWal and was dropped");
            let cure = "Bring the node back, or nearer, and it is made again; or raise the limit";
            let note = note(&format!("{seen}. {cure}."));
            Some(Notice { warning: true, reason: why, action: "DropSlot", node: owner.clone(), note })
        }
        Step::RecreateSlot { on, owner } if why == <&str>::from(Why::SlotLost) => {
            let note = note(&format!("{owner}: its slot on {on} was lost and is made anew. Nothing to do."));
            Some(Notice { warning: false, reason: why, action: "RecreateSlot", node: owner.clone(), note })
        }
        Step::RecreateSlot { on, owner } => {
            let done = format!("{owner}: its slot on {on} held back what vacuum may remove and was made anew");
            let cure = "Let our role in for replication there, in pg_hba.conf, and it is cleared without that";
            let note = note(&format!("{done}. {cure}."));
            Some(Notice { warning: false, reason: why, action: "RecreateSlot", node: owner.clone(), note })
        }
        Step::EndSender { on, owner, pid } => {
            let done = format!("{owner}: walsender {pid} on {on} held its slot for a connection that {owner} has left");
            let note = note(&format!("{done}, and was ended. Nothing to do."));
            Some(Notice { warning: false, reason: why, action: "EndSender", node: owner.clone(), note })
        }
        Step::Heartbeat { .. }
        | Step::CreateSlot { .. }
        | Step::AdvanceSlot { .. }
        | Step::ClearXmin { .. }
        | Step::DropSlot { .. }
        | Step::TryDisk { .. }
        | Step::Reload { .. } => None,
    };
    done.filter_map(|done| notice(&done.planned.step, done.planned.why.into())).collect()
}

/// Slots that nobody drops any more, on a server that is out of the spec, or was out of sight while the topology was deleted.
pub fn slots_left(server: &NodeName, owners: &BTreeSet<NodeName>, deleting: bool) -> Notice {
    const NAMED: usize = 8;
    let which = match owners.len() {
        0 => "slots that it has for nodes of this topology are".to_owned(),
        few if few <= NAMED => {
            let slots: Vec<&str> = owners.iter().map(NodeName::slot).collect();
            format!("its slots {} are", slots.join(", "))
        }
        many => format!("its slots of {many} nodes are"),
    };
    let reason = if deleting {
        "was not seen, or did not let go, while the topology was deleted"
    } else {
        "was taken out of the spec"
    };
    let cure = "If it runs on, call pg_drop_replication_slot there for each, or they hold its WAL for ever";
    let note = note(&format!("{server} {reason}: {which} not dropped. {cure}."));
    Notice { warning: true, reason: "SlotsLeft", action: "DropSlot", node: server.clone(), note }
}

fn note(text: &str) -> String {
    let end = (0..=NOTE_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Conninfo, Route, SessionAttrs};
    use crate::plan::{Done, Planned};

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn finding(name: &str, diagnosis: Diagnosis, message: &str) -> Finding {
        Finding { node: node(name), diagnosis, message: message.to_owned() }
    }

    fn told(notices: &[Notice]) -> Vec<(&str, &str, bool)> {
        notices.iter().map(|notice| (notice.node.as_str(), notice.reason, notice.warning)).collect()
    }

    #[test]
    fn a_diagnosis_is_told_when_it_begins_and_when_it_ends_and_another_cause_of_it_after_a_while() {
        let mut known = Known::default();
        let dead = |message| [finding("r1", Diagnosis::DeadRelay, message)];
        assert_eq!(told(&known.learn(&dead("refused"), Millis(0))), [("r1", "DeadRelay", true)]);
        assert_eq!(known.learn(&dead("reset"), Millis(59_999)), []);
        assert_eq!(known.learn(&dead("refused"), Millis(60_000)), []);
        let notices = known.learn(&dead("r1 resets"), Millis(60_001));
        assert_eq!((told(&notices), notices[0].note.as_str()), (vec![("r1", "DeadRelay", true)], "r1 resets"));
        let notices = known.learn(&dead("reset"), Millis(120_001));
        assert_eq!((told(&notices), notices[0].note.as_str()), (vec![("r1", "DeadRelay", true)], "r1: reset"));
        assert_eq!(known.learn(&dead("reset"), Millis(900_000)), []);
        let settling = [finding("r1", Diagnosis::Settling, "well since 1 s")];
        let notices = known.learn(&settling, Millis(900_000));
        assert_eq!(told(&notices), [("r1", "Settling", false), ("r1", "Recovered", false)]);
        assert_eq!(told(&known.learn(&[], Millis(900_000))), [("r1", "Recovered", false)]);
        assert_eq!(known.learn(&[], Millis(900_000)), []);
    }

    #[test]
    fn a_route_that_was_set_is_told_and_one_that_failed_is_not() {
        let entries = vec![node("r2"), node("r1")];
        let step = Step::SetRoute {
            node: node("l1"),
            route: Route { entries, attrs: SessionAttrs::Any },
            conninfo: Conninfo::default(),
            nudge: false,
            slot: None,
        };
        let done = |step, result| Done { planned: Planned { step, why: Why::Unrooted }, result };
        let failed = done(step.clone(), Err("no".to_owned()));
        let reload = done(Step::Reload { node: node("l1") }, Ok(()));
        let notices = deeds(&Outcome { done: vec![failed, reload, done(step, Ok(()))] });
        assert_eq!(told(&notices), [("l1", "Unrooted", false)]);
        assert_eq!(notices[0].note, "l1: route set to r2, then r1. Nothing to do.");
    }

    #[test]
    fn whoever_is_ended_and_whatever_is_made_anew_is_told_and_upkeep_is_not() {
        let (on, owner) = (node("r1"), node("l1"));
        let steps = [
            (Step::EndSender { on: on.clone(), owner: owner.clone(), pid: 7 }, Why::Zombie),
            (Step::RecreateSlot { on: on.clone(), owner: owner.clone() }, Why::SlotLost),
            (Step::RecreateSlot { on: on.clone(), owner: owner.clone() }, Why::ReleaseXmin),
            (Step::DropSlot { on: on.clone(), owner: owner.clone() }, Why::LeftRoute),
            (Step::CreateSlot { on: on.clone(), owner: owner.clone() }, Why::Prepare),
            (Step::ClearXmin { on, owner }, Why::ReleaseXmin),
        ];
        let done = steps.map(|(step, why)| Done { planned: Planned { step, why }, result: Ok(()) });
        let notices = deeds(&Outcome { done: done.into() });
        let words = [("l1", "Zombie", false), ("l1", "SlotLost", false), ("l1", "ReleaseXmin", false)];
        assert_eq!(told(&notices), words);
        let ended =
            "l1: walsender 7 on r1 held its slot for a connection that l1 has left, and was ended. Nothing to do.";
        assert_eq!((notices[0].action, notices[0].note.as_str()), ("EndSender", ended));
    }

    #[test]
    fn a_long_note_is_cut_between_two_letters() {
        assert_eq!(note(&"é".repeat(600)).len(), 1024);
        assert_eq!(note(&format!("x{}", "é".repeat(600))).len(), 1023);
    }

    #[test]
    fn slots_that_nobody_drops_are_named_with_what_to_do() {
        let owners = BTreeSet::from([node("eu-3"), node("eu-4")]);
        let notice = slots_left(&node("eu-1"), &owners, false);
        let seen = "eu-1 was taken out of the spec: its slots eu_3, eu_4 are not dropped. If it runs on, call pg_drop_";
        assert!(notice.warning && notice.note.starts_with(seen), "{}", notice.note);
        let unknown = slots_left(&node("core-3"), &BTreeSet::new(), true).note;
        assert!(unknown.contains("deleted: slots that it has for nodes of this topology are not"), "{unknown}");
    }
}
