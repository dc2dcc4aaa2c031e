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
            kind: "Change".to_owned(),
            why: change.why.clone(),
            what: change.what.clone(),
            healed_after_seconds: change.healed_after_seconds,
            times: 1,
        }));
        // Times of the status are whole seconds, so what it tells of one second keeps its order.
        entries.sort_by_key(|entry| entry.at);
        match self.output {
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&entries)?)?,
            Output::Text if entries.is_empty() => writeln!(out, "nothing is told of it yet")?,
            Output::Text => entries.iter().try_for_each(|entry| line(entry, out))?,
        }
        Ok(OK)
    }
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
    if let Some(seconds) = entry.healed_after_seconds {
        write!(out, " (as declared again after {seconds} s)")?;
    }
    if entry.times > 1 {
        write!(out, " ({} times)", entry.times)?;
    }
    writeln!(out)
}
