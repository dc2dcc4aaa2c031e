//! `kubectl waltree why`: draws why a node is where it is. What is decided was decided by the plan.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::look::Look;
use super::plugin::Output;
use super::proposal::counted;
use super::{DEGRADED, OK, REFUSED};
use crate::api::ReplicaTopology;
use crate::model::observed::Receiver;
use crate::model::rooted::Rooted;
use crate::model::tree::Edge;
use crate::model::{Facts, Millis, NodeName, Observed, Route};
use crate::plan::{Candidate, Planned, explain};

/// Which node.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// Name of the ReplicaTopology.
    pub(super) name: String,
    /// Name of the node.
    node: String,
    /// How to print it.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// The shape of `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    node: String,
    group: String,
    zone: Option<String>,
    region: String,
    /// The route it ought to have, and why its first entry is the first.
    wanted: Vec<String>,
    because: String,
    /// Nothing while it is not seen and was not before: that is not known then.
    installed: Option<Vec<String>>,
    #[serde(skip)]
    installed_now: bool,
    seen: Vec<String>,
    evidence: Vec<String>,
    candidates: Vec<Upstream>,
    wrong: Vec<String>,
    next: Vec<String>,
    /// What the operator last wrote about it.
    reported: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Upstream {
    node: String,
    tier: usize,
    same_zone: bool,
    standing: String,
    children: usize,
    fan_out: usize,
    /// Its place in the wanted route.
    place: Option<usize>,
    ready: bool,
    not_ready: Option<String>,
}

impl Why {
    /// Exit code 0: nothing is wrong with it, 2: something is, 3: there is no such node.
    pub(super) fn run(&self, topology: &ReplicaTopology, look: &Look, out: &mut impl Write) -> anyhow::Result<u8> {
        let Some(node) = look.desired.nodes.keys().find(|name| name.as_str() == self.node) else {
            writeln!(out, "there is no {} in {}", self.node, self.name)?;
            return Ok(REFUSED);
        };
        let answer = answer(topology, look, node);
        match self.output {
            Output::Text => write!(out, "{}", text(&answer))?,
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?,
        }
        Ok(if answer.wrong.is_empty() { OK } else { DEGRADED })
    }
}

fn answer(topology: &ReplicaTopology, look: &Look, node: &NodeName) -> Answer {
    let Look { desired, observed, plan, .. } = look;
    let explained = explain(desired, observed, plan, node, observed.memory.at);
    let wanted = plan.wanted.get(node);
    let names = |route: Option<&Route>| {
        route.into_iter().flat_map(|route| &route.entries).map(NodeName::to_string).collect::<Vec<_>>()
    };
    let status = topology.status.iter().flat_map(|status| &status.nodes).find(|told| told.name == node.as_str());
    let reported = status.and_then(|told| {
        let reason = told.reason.as_ref()?;
        Some(told.message.as_ref().map_or_else(|| reason.clone(), |message| format!("{reason}: {message}")))
    });
    Answer {
        node: node.to_string(),
        group: desired.group_of(node).map(|group| group.name.to_string()).unwrap_or_default(),
        zone: desired.zone_of(node).map(str::to_owned),
        region: desired.region_of(node).to_owned(),
        because: because(look, node, explained.tier_one, &explained.candidates),
        wanted: names(wanted),
        installed: observed.last(node).map(|_| names(explained.installed.as_ref())),
        installed_now: observed.seen(node).is_some(),
        seen: seen(look, node),
        evidence: evidence(observed, node),
        candidates: explained.candidates.iter().map(upstream).collect(),
        wrong: plan
            .findings
            .iter()
            .filter(|finding| finding.node == *node)
            .map(|finding| format!("{}: {}", finding.diagnosis, finding.message))
            .collect(),
        next: next(look, node),
        reported,
    }
}

fn upstream(candidate: &Candidate) -> Upstream {
    let refused = candidate
        .refused_for_milliseconds
        .map(|left| format!("it gave nothing, and is not tried again for {}", seconds(left)));
    let not_ready = refused.or_else(|| candidate.not_ready.clone());
    Upstream {
        node: candidate.node.to_string(),
        tier: candidate.tier,
        same_zone: candidate.same_zone,
        standing: candidate.standing.to_string(),
        children: candidate.children,
        fan_out: candidate.fan_out,
        place: candidate.place,
        ready: not_ready.is_none(),
        not_ready,
    }
}

/// Why the first entry of the wanted route is the first.
fn because(look: &Look, node: &NodeName, tier_one: bool, candidates: &[Candidate]) -> String {
    let Some(first) = look.plan.wanted.get(node).and_then(Route::first) else {
        let primary = look.observed.memory.primary.as_ref() == Some(node);
        return if primary { "it is the primary" } else { "nobody is left that could feed it" }.to_owned();
    };
    if tier_one {
        return format!("it hangs right below the primary, which is {first} now");
    }
    let passed: Vec<String> = candidates
        .iter()
        .take_while(|candidate| candidate.node != *first)
        .map(|candidate| match candidate.refused_for_milliseconds {
            Some(_) => format!("{} gave it nothing a while ago", candidate.node),
            None => format!("{} is {}", candidate.node, candidate.standing),
        })
        .collect();
    match passed.as_slice() {
        [] => format!("{first} is what it prefers, by the spec alone"),
        passed => format!("{first} comes next: {}", passed.join(", ")),
    }
}

/// What both ends say, and how old that is.
fn seen(look: &Look, node: &NodeName) -> Vec<String> {
    let observed = &look.observed;
    let mut said = Vec::new();
    match observed.seen(node) {
        None => said.push(match observed.nodes.get(node).and_then(|view| view.unseen.as_ref()) {
            Some(unseen) => format!("it is not seen, {}: {}", unseen.why, unseen.detail),
            None => "it was not asked".to_owned(),
        }),
        Some(facts) => {
            let role = if facts.in_recovery { "a standby" } else { "a primary" };
            let told = age(observed.memory.at, facts);
            said.push(format!("it answers as {role} at {}, replayed {} ({told})", facts.position, facts.replay));
            said.push(match &facts.receiver {
                Some(Receiver { status, host, port, .. }) => format!("its walreceiver is {status} from {host}:{port}"),
                None if facts.connecting => "its walreceiver is connecting, and nobody has answered yet".to_owned(),
                None if facts.in_recovery => "it has no walreceiver".to_owned(),
                None => format!("it has {} walsenders", facts.senders.len()),
            });
        }
    }
    let edge = match look.plan.sight.edges.get(node) {
        Some(Edge::Both(up)) => Some((up, "says the same: it holds the slot with this walsender")),
        Some(Edge::ChildOnly(up)) => Some((up, "is not seen, or knows it by slot or name only")),
        Some(Edge::Denied(up)) => Some((up, "does not know of it")),
        Some(Edge::Stranger(address)) => {
            said.push(format!("{address} is not in the topology"));
            None
        }
        Some(Edge::None) | None => None,
    };
    said.extend(edge.map(|(up, what)| format!("{up} {what}{}", told(observed, up))));
    match look.plan.sight.rooted.get(node) {
        Some(Rooted::Yes { hops, .. }) => {
            said.push(format!("it has a path to the primary, {} long", counted(*hops, "hop")));
        }
        Some(Rooted::No(why)) => said.push(format!("it has no path to the primary: {why}")),
        Some(Rooted::Unknown(why)) => said.push(format!("whether it has a path cannot be told: {why}")),
        None => {}
    }
    said
}

fn told(observed: &Observed, node: &NodeName) -> String {
    observed.seen(node).map(|facts| format!(" ({})", age(observed.memory.at, facts))).unwrap_or_default()
}

fn age(now: Millis, facts: &Facts) -> String {
    format!("asked {} ago", seconds(now.since(facts.asked_at)))
}

/// Since when what is so, as far as this look has seen it.
fn evidence(observed: &Observed, node: &NodeName) -> Vec<String> {
    let Some(memory) = observed.memory.node(node) else { return Vec::new() };
    let now = observed.memory.at;
    let since = |what: &str, at: Option<Millis>| at.map(|at| format!("{what} for {}", seconds(now.since(at))));
    let until = memory.settling_until.filter(|until| *until > now);
    let mut all: Vec<String> = [
        since("not seen", memory.unseen_since),
        since("without a path", memory.unrooted_since),
        since("without a stream", memory.alone_since),
        since("connecting, without an answer", memory.connecting_since),
        since("no good as an upstream", memory.failing_since),
        until.map(|until| {
            format!("settling for {} more, failure number {}", seconds(until.since(now)), memory.failures)
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (by, refused) in memory.refused.iter().filter(|(_, refused)| refused.until > now) {
        all.push(format!("gets nothing from {by}, {} times in a row", refused.times));
    }
    all
}

/// What is done for it, or waited for.
fn next(look: &Look, node: &NodeName) -> Vec<String> {
    let about = |planned: &&Planned| planned.step.owner() == node || planned.step.server() == node;
    let steps = look.plan.steps.iter().filter(about).map(ToString::to_string);
    let withheld = look.plan.withheld.iter().filter(about).map(|planned| format!("withheld: {planned}"));
    let waits = look.plan.waits.iter().filter(|wait| wait.node == *node);
    let waits = waits.map(|wait| format!("waits, {}: {}", wait.reason, wait.message));
    steps.chain(withheld).chain(waits).collect()
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}

fn text(answer: &Answer) -> String {
    let mut text = answer.node.clone();
    let _ = write!(text, ", group {}", answer.group);
    for (word, value) in [("zone", answer.zone.as_deref()), ("region", Some(answer.region.as_str()))] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = write!(text, ", {word} {value}");
        }
    }
    let list = |names: &[String]| if names.is_empty() { "nobody".to_owned() } else { names.join(" > ") };
    let _ = writeln!(text, "\n\nwanted     {}\nbecause    {}", list(&answer.wanted), answer.because);
    let installed = match &answer.installed {
        None => "not known while it is not seen".to_owned(),
        Some(names) if answer.installed_now => list(names),
        Some(names) => format!("not known while it is not seen; when it was seen last: {}", list(names)),
    };
    let _ = writeln!(text, "installed  {installed}");
    let sections = [
        ("seen", &answer.seen),
        ("evidence, of this look alone: the operator has looked for longer", &answer.evidence),
        ("wrong", &answer.wrong),
        ("next", &answer.next),
    ];
    for (title, lines) in sections.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        let _ = writeln!(text, "\n{title}:");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    if !answer.candidates.is_empty() {
        let _ = writeln!(text, "\nwho could feed it, the most wanted first (choice 1: where the spec puts it):");
        for one in &answer.candidates {
            let place = match one.place {
                Some(0) => "first".to_owned(),
                Some(place) => format!("fallback {place}"),
                None => "-".to_owned(),
            };
            let zone = if one.same_zone { ", same zone" } else { "" };
            let ready = one.not_ready.as_ref().map_or_else(|| "ready".to_owned(), |why| format!("not ready: {why}"));
            let room = format!("{} of {} children", one.children, one.fan_out);
            let _ = writeln!(
                text,
                "  {:<10} {place:<10} choice {}{zone}, {}, {room}, {ready}",
                one.node,
                one.tier + 1,
                one.standing
            );
        }
    }
    if let Some(reported) = &answer.reported {
        let _ = writeln!(text, "\nthe operator says: {reported}");
    }
    text
}
