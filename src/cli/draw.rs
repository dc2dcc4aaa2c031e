//! The tree as it is seen, as text and as data. Draws; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::model::rooted::Rooted;
use crate::model::{Desired, Facts, Finding, Lsn, NodeName, Observed, about};
use crate::plan::{Plan, Readiness, Step};

/// One node of the tree as seen. The shape of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Its name.
    pub node: String,
    /// The server it receives from, as both ends or at least the node itself tells.
    pub upstream: Option<String>,
    /// Edges between it and the primary; absent for a node without a path.
    pub depth: Option<usize>,
    /// `primary`, `rooted`, or the name of what is wrong.
    pub state: String,
    /// Bytes of WAL its upstream has and it has not received.
    pub hop_lag_bytes: Option<u64>,
    /// Bytes of WAL the primary has and readers of it do not see, as it is not replayed yet.
    pub total_lag_bytes: Option<u64>,
    /// Where it goes on when its upstream dies, in order.
    pub fallbacks: Vec<Fallback>,
    /// What is seen and what to do, where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip)]
    indent: String,
}

/// One fallback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// Its name.
    pub node: String,
    /// Slot, WAL, history and path are there.
    pub prepared: bool,
}

/// The tree as lines, the primary first, children below their upstream; nodes without a path to it last.
pub fn lines(desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<Line> {
    let edges = &plan.sight.edges;
    let mut children: BTreeMap<&NodeName, Vec<&NodeName>> = BTreeMap::new();
    for (child, edge) in edges {
        if let Some(upstream) = edge.upstream() {
            children.entry(upstream).or_default().push(child);
        }
    }
    let mut drawing = Drawing {
        observed,
        findings: plan.findings.iter().map(|finding| (&finding.node, finding)).collect(),
        plan,
        upstream: edges.iter().filter_map(|(child, edge)| Some((child, edge.upstream()?))).collect(),
        children,
        drawn: BTreeSet::new(),
        lines: Vec::new(),
    };
    if let Some(primary) = observed.memory.primary.as_ref().and_then(|name| desired.nodes.get_key_value(name)) {
        drawing.draw(primary.0, "", "");
    }
    for node in desired.groups.iter().flat_map(|group| &group.members) {
        let hangs_below_another = drawing.upstream.contains_key(node);
        if !hangs_below_another {
            drawing.draw(node, "", "");
        }
    }
    // What is left is in a ring: nobody of it hangs below anybody drawn.
    for node in desired.nodes.keys() {
        drawing.draw(node, "", "");
    }
    drawing.lines
}

struct Drawing<'a> {
    observed: &'a Observed,
    plan: &'a Plan,
    findings: BTreeMap<&'a NodeName, &'a Finding>,
    upstream: BTreeMap<&'a NodeName, &'a NodeName>,
    children: BTreeMap<&'a NodeName, Vec<&'a NodeName>>,
    drawn: BTreeSet<&'a NodeName>,
    lines: Vec<Line>,
}

impl<'a> Drawing<'a> {
    fn draw(&mut self, node: &'a NodeName, own: &str, below: &str) {
        if !self.drawn.insert(node) {
            return;
        }
        let line = self.line(node, own.to_owned());
        self.lines.push(line);
        let children = self.children.get(node).cloned().unwrap_or_default();
        for (i, child) in children.iter().enumerate() {
            let last = i + 1 == children.len();
            let (branch, bar) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.draw(child, &format!("{below}{branch}"), &format!("{below}{bar}"));
        }
    }

    fn line(&self, node: &NodeName, indent: String) -> Line {
        let finding = self.findings.get(node);
        let verdict = self.plan.sight.rooted.get(node);
        let is_primary = self.observed.memory.primary.as_ref() == Some(node);
        let state = match (finding, verdict) {
            (Some(finding), _) => finding.diagnosis.to_string(),
            (None, _) if is_primary => "primary".to_owned(),
            (None, Some(Rooted::Yes { .. })) => "rooted".to_owned(),
            (None, Some(Rooted::No(_))) => "unrooted".to_owned(),
            (None, Some(Rooted::Unknown(_)) | None) => "unknown".to_owned(),
        };
        let sentence = match verdict {
            Some(Rooted::No(seen) | Rooted::Unknown(seen)) => Some(seen.clone()),
            Some(Rooted::Yes { .. }) | None => None,
        };
        let upstream = self.upstream.get(node).copied();
        let behind = |other: Option<&NodeName>, own: fn(&Facts) -> Lsn| {
            let theirs = self.observed.seen(other?)?.position;
            Some(theirs.bytes_since(own(self.observed.seen(node)?)))
        };
        let hop_lag_bytes = behind(upstream, |facts| facts.position);
        let total_lag_bytes = behind(self.observed.memory.primary.as_ref().filter(|_| !is_primary), Facts::shown);
        let fallbacks = self.plan.fallbacks.get(node).into_iter().flatten();
        let fallback = |(name, readiness): &(NodeName, Readiness)| Fallback {
            node: name.to_string(),
            prepared: *readiness == Readiness::Unproven,
        };
        Line {
            node: node.to_string(),
            upstream: upstream.map(NodeName::to_string),
            depth: match verdict {
                Some(Rooted::Yes { hops, .. }) => Some(*hops),
                _ => None,
            },
            state,
            hop_lag_bytes,
            // The servers are not asked at one instant: what its upstream has, the primary has by then too.
            total_lag_bytes: total_lag_bytes.max(total_lag_bytes.and(hop_lag_bytes)),
            fallbacks: fallbacks.map(fallback).collect(),
            message: finding.map(|finding| finding.message.clone()).or(sentence),
            indent,
        }
    }
}

/// The lines as a table for people. A `?` marks a fallback that is not prepared.
pub fn text(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.indent.chars().count() + line.node.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$}  {:<14} {:>9} {:>9}  FALLBACKS\n", "NODE", "STATE", "HOP LAG", "LAG");
    for line in lines {
        let name = format!("{}{}", line.indent, line.node);
        let pad = width - name.chars().count();
        let mark = |f: &Fallback| if f.prepared { f.node.clone() } else { format!("{}?", f.node) };
        let fallbacks = line.fallbacks.iter().map(mark).collect::<Vec<_>>().join(", ");
        let row = format!(
            "{name}{:pad$}  {:<14} {:>9} {:>9}  {fallbacks}",
            "",
            line.state,
            bytes(line.hop_lag_bytes),
            bytes(line.total_lag_bytes)
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    for (line, message) in lines.iter().filter_map(|line| Some((line, line.message.as_deref()?))) {
        let _ = writeln!(text, "\n{}", about(&line.node, message));
    }
    text
}

/// A number of bytes, or nothing where it is not known.
pub fn bytes(count: Option<u64>) -> String {
    match count {
        None => String::new(),
        Some(n) if n < 10 << 10 => format!("{n} B"),
        Some(n) if n < 10 << 20 => format!("{} KiB", n >> 10),
        Some(n) if n < 10 << 30 => format!("{} MiB", n >> 20),
        Some(n) => format!("{} GiB", n >> 30),
    }
}

/// A plan for people: what would be done and why, what is waited for.
pub fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    let groups = [("", &plan.steps), (" (withheld: automation or management is Observe)", &plan.withheld)];
    for (note, steps) in groups {
        for planned in steps {
            let _ = writeln!(text, "{planned}{note}");
        }
    }
    for wait in &plan.waits {
        let _ = writeln!(text, "{} waits, {}: {}", wait.node, wait.reason, wait.message);
    }
    for shortage in &plan.shortages {
        let _ = writeln!(text, "{shortage}");
    }
    for (node, route) in &plan.wanted {
        let entries = route.entries.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" > ");
        let _ = writeln!(text, "{node} is to receive from {entries}.");
    }
    let planned = || plan.steps.iter().chain(&plan.withheld);
    let routes = planned().filter(|p| matches!(p.step, Step::SetRoute { .. })).count();
    let moves = planned().filter(|p| plan.is_move(&p.step)).count();
    let _ = writeln!(text, "{routes} routes to set, {moves} moves planned.");
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use serde_json::json;

    use super::*;
    use crate::operator::Cluster as _;
    use crate::simulate::Drama;

    #[test]
    fn no_hop_is_further_behind_than_the_whole_way_though_the_servers_were_asked_one_after_the_other() {
        let host = |node: &str| json!({"name": node, "address": node});
        let spec = json!({"groups": [
            {"name": "core", "hosts": [host("core-1")]},
            {"name": "eu", "upstreams": ["core"], "relays": 1, "hosts": [host("eu-1"), host("eu-2")]},
        ]});
        let name = |text: &str| NodeName::new(text).unwrap();
        let mut drama = Drama::new(serde_json::from_value(spec).unwrap(), 1, |_| name("core-1")).unwrap();
        drama.pass(60_000);
        let mut observed = drama.cluster().observe(drama.desired()).now_or_never().unwrap();
        for (node, position, replay) in [("core-1", 900, 900), ("eu-1", 1_000, 1_000), ("eu-2", 850, 600)] {
            let facts = Arc::make_mut(observed.nodes.get_mut(&name(node)).unwrap().last.as_mut().unwrap());
            (facts.position, facts.replay) = (Lsn(position), Lsn(replay));
        }
        let lines = lines(drama.desired(), &observed, &drama.plan());
        let lags: Vec<_> = lines.iter().map(|line| (line.hop_lag_bytes, line.total_lag_bytes)).collect();
        assert_eq!(lags, [(None, None), (Some(0), Some(0)), (Some(150), Some(300))]);
    }
}
