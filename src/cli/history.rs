//! `kubectl waltree history`: what changed in a tree, from its status and its events.

use std::io::Write;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde::Serialize;

use super::OK;
use super::plugin::Output;
use crate::api::ReplicaTopology;

/// What the status tells.
const CHANGE: &str = "Change";
/// What was over so soon is not worth a word.
const AT_ONCE_SECONDS: i64 = 1;

/// Of which topology.
#[derive(Debug, Args)]
pub(super) struct History {
    /// Name of the ReplicaTopology.
    pub(super) name: String,
    /// How to print it.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// One thing that happened. The shape of `-o json`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    at: Timestamp,
    /// `Change` of the tree, or what an event says was done.
    kind: String,
    why: String,
    what: String,
    /// From then until the tree was as declared again.
    #[serde(skip_serializing_if = "Option::is_none")]
    healed_after_seconds: Option<i64>,
    /// How often it was told.
    times: i32,
}

impl History {
    /// The oldest first, as a log is read.
    pub(super) async fn run(
        &self,
        events: &Api<Event>,
        topology: &ReplicaTopology,
        out: &mut impl Write,
    ) -> anyhow::Result<u8> {
        let of_it =
            ListParams::default().fields(&format!("regarding.kind=ReplicaTopology,regarding.name={}", self.name));
        let events = events.list(&of_it).await.context("cannot read the events of the namespace")?;
        let mut entries: Vec<Entry> = events.items.iter().filter_map(event).collect();
        // The status has the newest first.
        entries.extend(topology.status.iter().flat_map(|status| status.history.iter().rev()).map(|change| Entry {
            at: change.at.0,
            kind: CHANGE.to_owned(),
            why: change.why.clone(),
            what: change.what.clone(),
            healed_after_seconds: change.healed_after_seconds,
            times: 1,
        }));
        in_order(&mut entries);
        match self.output {
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&entries)?)?,
            Output::Text if entries.is_empty() => writeln!(out, "nothing is told of it yet")?,
            Output::Text => entries.iter().try_for_each(|entry| line(entry, out))?,
        }
        Ok(OK)
    }
}

/// The oldest first. Times of the status are whole seconds, those of events are not: of one second, what was found and done
/// comes before what changed by it, and the status keeps its own order.
fn in_order(entries: &mut [Entry]) {
    entries.sort_by_key(|entry| {
        let is_change = entry.kind == CHANGE;
        let within = if is_change { 0 } else { entry.at.subsec_nanosecond() };
        (entry.at.as_second(), is_change, within)
    });
}

fn event(event: &Event) -> Option<Entry> {
    let series = event.series.as_ref();
    let at = series.map(|series| series.last_observed_time.0).or(event.event_time.as_ref().map(|time| time.0))?;
    Some(Entry {
        at,
        kind: event.action.clone().unwrap_or_default(),
        why: event.reason.clone().unwrap_or_default(),
        what: event.note.clone().unwrap_or_default(),
        healed_after_seconds: None,
        times: series.map_or(1, |series| series.count),
    })
}

fn line(entry: &Entry, out: &mut impl Write) -> std::io::Result<()> {
    let Entry { at, kind, why, what, .. } = entry;
    write!(out, "{at:.0}  {kind:<11} {why:<14} {what}")?;
    if let Some(seconds) = entry.healed_after_seconds.filter(|seconds| *seconds > AT_ONCE_SECONDS) {
        write!(out, " (as declared again after {seconds} s)")?;
    }
    if entry.times > 1 {
        write!(out, " ({} times)", entry.times)?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: &str, kind: &str, what: &str, healed_after_seconds: Option<i64>) -> Entry {
        let at = at.parse().unwrap();
        let (kind, what) = (kind.to_owned(), what.to_owned());
        Entry { at, kind, why: "DeadRelay".to_owned(), what, healed_after_seconds, times: 1 }
    }

    #[test]
    fn of_one_second_what_was_done_is_told_before_what_changed_by_it() {
        let mut entries = [
            entry("2026-01-01T00:00:05Z", CHANGE, "eu-1 cannot be seen", Some(1)),
            entry("2026-01-01T00:00:05Z", CHANGE, "eu-3 moved from eu-1 to eu-2", Some(2)),
            entry("2026-01-01T00:00:05.9Z", "SetRoute", "eu-3: route set", None),
            entry("2026-01-01T00:00:05.1Z", "Diagnose", "eu-1 refuses", None),
            entry("2026-01-01T00:00:04.9Z", "Prepare", "before", None),
        ];
        in_order(&mut entries);
        let mut told = Vec::new();
        for entry in &entries {
            line(entry, &mut told).unwrap();
        }
        let told = String::from_utf8(told).unwrap();
        let what: Vec<&str> = told.lines().map(|line| line.split_once("DeadRelay").unwrap().1.trim()).collect();
        assert_eq!(
            what,
            [
                "before",
                "eu-1 refuses",
                "eu-3: route set",
                "eu-1 cannot be seen",
                "eu-3 moved from eu-1 to eu-2 (as declared again after 2 s)"
            ]
        );
    }
}
