//! The tree as it is seen, as text and as data. Draws; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::{ByNode, Desired, Diagnosis, Facts, Finding, Lsn, Millis, NodeName, NodeView, Observed, about};
use crate::plan::{Plan, Readiness, installed_fallbacks, intents};

/// One node of the tree as seen. The shape of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Its name.
    pub node: String,
    /// The server it receives from, as both ends or at least the node itself tells.
    pub upstream: Option<String>,
    /// The server that it is to receive from, where that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// Edges between it and the primary; absent for a node without a path.
    pub depth: Option<usize>,
    /// `primary`, `rooted`, or the name of what is wrong.
    pub state: String,
    /// Bytes of WAL that its upstream had at a look before the node's answer, and that the node has not received.
    pub hop_lag_bytes: Option<u64>,
    /// Bytes of WAL that the primary had at a look before the node's answer, and that readers of the node do not see,
    /// as it is not replayed yet.
    pub total_lag_bytes: Option<u64>,
    /// Where it goes on by itself when its upstream dies, in order: what is installed and runs, not what is wanted.
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

/// The tree as lines, the primary first, children below their upstream; nodes without a path to it last. `earlier` is the look
/// before: who was asked after its child had something more by then, whose lag that is not.
pub fn lines(desired: &Desired, observed: &Observed, earlier: &ByNode<NodeView>, plan: &Plan) -> Vec<Line> {
    let edges = &plan.sight.edges;
    let mut children: BTreeMap<&NodeName, Vec<&NodeName>> = BTreeMap::new();
    for (child, edge) in edges {
        if let Some(upstream) = edge.upstream() {
            children.entry(upstream).or_default().push(child);
        }
    }
    let mut drawing = Drawing {
        observed,
        earlier,
        findings: plan.findings.iter().map(|finding| (&finding.node, finding)).collect(),
        plan,
        fallbacks: installed_fallbacks(desired, observed, plan, observed.memory.at),
        wanted: wanted(desired, observed, plan),
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

/// Whom those are to receive from who receive from another. While there is no primary to be seen nobody is asked back.
fn wanted(desired: &Desired, observed: &Observed, plan: &Plan) -> BTreeMap<NodeName, NodeName> {
    if !matches!(plan.sight.primary, Primary::Known { .. }) {
        return BTreeMap::new();
    }
    let moves = intents(desired, observed, plan).into_iter().filter(|intent| intent.is_move);
    moves
        .filter_map(|intent| Some((intent.wanted.first()?.clone(), intent.node)))
        .map(|(to, node)| (node, to))
        .collect()
}

/// Nothing is wrong, and everybody receives from the server that he is to.
pub fn is_as_declared(lines: &[Line], plan: &Plan) -> bool {
    let failing = plan.findings.iter().any(|finding| Diagnosis::is_failure(finding.diagnosis));
    !failing && lines.iter().all(|line| line.wanted.is_none())
}

struct Drawing<'a> {
    observed: &'a Observed,
    earlier: &'a ByNode<NodeView>,
    plan: &'a Plan,
    fallbacks: ByNode<Vec<(NodeName, Readiness)>>,
    wanted: BTreeMap<NodeName, NodeName>,
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

    /// What a server that is seen had in its newest answer that was here by then.
    fn had(&self, server: &NodeName, by: Millis) -> Option<Lsn> {
        let now = self.observed.seen(server)?;
        let before = self.earlier.get(server).and_then(|view| view.last.as_deref());
        [Some(now), before].into_iter().flatten().find(|facts| facts.at <= by).map(|facts| facts.position)
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
            let facts = self.observed.seen(node)?;
            Some(self.had(other?, facts.asked_at)?.bytes_since(own(facts)))
        };
        let hop_lag_bytes = behind(upstream, |facts| facts.position);
        let total_lag_bytes = behind(self.observed.memory.primary.as_ref().filter(|_| !is_primary), Facts::shown);
        let fallbacks = self.fallbacks.get(node).into_iter().flatten();
        let fallback = |(name, readiness): &(NodeName, Readiness)| Fallback {
            node: name.to_string(),
            prepared: readiness.is_ready(),
        };
        Line {
            node: node.to_string(),
            upstream: upstream.map(NodeName::to_string),
            wanted: self.wanted.get(node).map(NodeName::to_string),
            depth: match verdict {
                Some(Rooted::Yes { hops, .. }) => Some(*hops),
                _ => None,
            },
            state,
            hop_lag_bytes,
            // The servers are not asked at one instant: what its upstream had, the primary had by then too.
            total_lag_bytes: total_lag_bytes.max(total_lag_bytes.and(hop_lag_bytes)),
            fallbacks: fallbacks.map(fallback).collect(),
            message: finding.map(|finding| finding.message.clone()).or(sentence),
            indent,
        }
    }
}

/// The lines as a table for people. A `?` marks a fallback that is not prepared.
pub fn text(lines: &[Line]) -> String {
    let name = |line: &Line| {
        let wanted = line.wanted.as_ref().map(|wanted| format!(" (wants {wanted})"));
        format!("{}{}{}", line.indent, line.node, wanted.unwrap_or_default())
    };
    let width = lines.iter().map(|line| name(line).chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$}  {:<14} {:>9} {:>9}  FALLBACKS\n", "NODE", "STATE", "HOP LAG", "LAG");
    for line in lines {
        let mark = |f: &Fallback| if f.prepared { f.node.clone() } else { format!("{}?", f.node) };
        let fallbacks = line.fallbacks.iter().map(mark).collect::<Vec<_>>().join(", ");
        let row = format!(
            "{:<width$}  {:<14} {:>9} {:>9}  {fallbacks}",
            name(line),
            line.state,
            bytes(line.hop_lag_bytes),
            bytes(line.total_lag_bytes)
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    if lines.iter().flat_map(|line| &line.fallbacks).any(|fallback| !fallback.prepared) {
        text.push_str("\n?: named by its route, and not ready: it lacks the slot, the WAL, the history or a path.\n");
    }
    for (nodes, message) in messages(lines) {
        let _ = writeln!(text, "\n{}", about(&nodes.join(", "), message));
    }
    text
}

/// What is said about nodes, in the order of the lines; what is the same of many is said once.
fn messages(lines: &[Line]) -> Vec<(Vec<&str>, &str)> {
    let mut all: Vec<(Vec<&str>, &str)> = Vec::new();
    for (line, message) in lines.iter().filter_map(|line| Some((line, line.message.as_deref()?))) {
        match all.iter_mut().find(|(_, said)| *said == message) {
            Some((nodes, _)) => nodes.push(&line.node),
            None => all.push((vec![&line.node], message)),
        }
    }
    all
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
        let lines = lines(drama.desired(), &observed, &ByNode::default(), &drama.plan());
        let lags: Vec<_> = lines.iter().map(|line| (line.hop_lag_bytes, line.total_lag_bytes)).collect();
        assert_eq!(lags, [(None, None), (Some(0), Some(0)), (Some(150), Some(300))]);
    }

    #[test]
    fn what_was_written_after_a_node_answered_is_not_its_lag_and_what_it_lacked_before_is() {
        let (mut drama, name) = star();
        assert!(drama.rest(600_000));
        let look = |facts: [(&str, u64, u64); 4]| {
            let mut observed = drama.cluster().observe(drama.desired()).now_or_never().unwrap();
            for (node, asked_at, position) in facts {
                let facts = Arc::make_mut(observed.nodes.get_mut(&name(node)).unwrap().last.as_mut().unwrap());
                (facts.asked_at, facts.at) = (Millis(asked_at), Millis(asked_at + 1));
                (facts.position, facts.replay) = (Lsn(position), Lsn(position));
            }
            observed
        };
        // eu-3 has all that eu-1 had before it; eu-4 lacks what eu-2 had half a second before it, and eu-2 nothing.
        let earlier = look([("core-1", 400, 9_000), ("eu-1", 300, 9_000), ("eu-2", 200, 8_000), ("eu-3", 100, 7_000)]);
        let mut observed =
            look([("core-1", 900, 14_000), ("eu-1", 800, 13_000), ("eu-2", 1_000, 14_000), ("eu-3", 600, 11_000)]);
        let leaf = Arc::make_mut(observed.nodes.get_mut(&name("eu-4")).unwrap().last.as_mut().unwrap());
        (leaf.asked_at, leaf.at, leaf.position, leaf.replay) = (Millis(700), Millis(701), Lsn(3_000), Lsn(2_000));
        let plan = drama.plan();
        let drawn = lines(drama.desired(), &observed, &earlier.nodes, &plan);
        let lag = |lines: &[Line], node: &str| {
            let line = line(lines, node);
            (line.upstream.clone().unwrap(), line.hop_lag_bytes, line.total_lag_bytes)
        };
        assert_eq!(lag(&drawn, "eu-1"), ("core-1".to_owned(), Some(0), Some(0)));
        assert_eq!(lag(&drawn, "eu-2"), ("core-1".to_owned(), Some(0), Some(0)));
        assert_eq!(lag(&drawn, "eu-3"), ("eu-1".to_owned(), Some(0), Some(0)));
        assert_eq!(lag(&drawn, "eu-4"), ("eu-2".to_owned(), Some(5_000), Some(7_000)));
        // Without a look before it is not known of those that answered first.
        let drawn = lines(drama.desired(), &observed, &ByNode::default(), &plan);
        assert_eq!(lag(&drawn, "eu-2"), ("core-1".to_owned(), Some(0), Some(0)));
        assert_eq!(lag(&drawn, "eu-3"), ("eu-1".to_owned(), None, None));
    }

    /// A primary, a standby, two relays and their two leaves; all stream from the primary.
    fn star() -> (Drama, impl Fn(&str) -> NodeName) {
        let host = |node: &str| json!({"name": node, "address": node});
        let hosts = ["eu-1", "eu-2", "eu-3", "eu-4"].map(host);
        let spec = json!({"automation": "Heal", "groups": [
            {"name": "core", "hosts": [host("core-1"), host("core-2")]},
            {"name": "eu", "upstreams": ["core"], "relays": 2, "hosts": hosts},
        ]});
        let name = |text: &str| NodeName::new(text).unwrap();
        (Drama::new(serde_json::from_value(spec).unwrap(), 1, move |_| name("core-1")).unwrap(), name)
    }

    fn drawn(drama: &Drama, observed: &Observed) -> (Vec<Line>, Plan) {
        let plan = crate::plan::plan(drama.desired(), observed, observed.memory.at);
        (lines(drama.desired(), observed, &ByNode::default(), &plan), plan)
    }

    fn line<'a>(lines: &'a [Line], node: &str) -> &'a Line {
        lines.iter().find(|line| line.node == node).unwrap()
    }

    #[test]
    fn fallbacks_are_those_that_are_installed_and_who_is_to_be_elsewhere_is_marked_and_not_as_declared() {
        let (mut drama, name) = star();
        let observed = drama.cluster().observe(drama.desired()).now_or_never().unwrap();
        let (before, plan) = drawn(&drama, &observed);
        assert!(!plan.fallbacks[&name("eu-3")].is_empty(), "some are planned");
        assert_eq!(line(&before, "eu-3").fallbacks, []);
        assert_eq!(line(&before, "eu-3").wanted.as_deref(), Some("eu-1"));
        assert_eq!(line(&before, "eu-1").wanted, None);
        assert!(!is_as_declared(&before, &plan));
        assert!(text(&before).contains("eu-3 (wants eu-1)"), "{}", text(&before));

        assert!(drama.rest(600_000));
        let mut observed = drama.cluster().observe(drama.desired()).now_or_never().unwrap();
        let (after, plan) = drawn(&drama, &observed);
        let fallbacks = |lines: &[Line]| {
            let all = line(lines, "eu-3").fallbacks.iter();
            all.map(|one| (one.node.clone(), one.prepared)).collect::<Vec<_>>()
        };
        assert_eq!(line(&after, "eu-3").upstream.as_deref(), Some("eu-1"));
        assert_eq!(fallbacks(&after), [("eu-2".to_owned(), true), ("core-2".to_owned(), true)]);
        assert!(is_as_declared(&after, &plan));
        assert!(!text(&after).contains('?'), "{}", text(&after));

        let relay = Arc::make_mut(observed.nodes.get_mut(&name("eu-2")).unwrap().last.as_mut().unwrap());
        relay.slots.remove("eu_3").unwrap();
        let (after, _) = drawn(&drama, &observed);
        assert_eq!(fallbacks(&after), [("eu-2".to_owned(), false), ("core-2".to_owned(), true)]);
        assert!(text(&after).contains("eu-2?, core-2"), "{}", text(&after));
        assert!(text(&after).contains("\n?: named by its route, and not ready"), "{}", text(&after));
    }

    #[test]
    fn who_went_on_to_a_fallback_has_the_first_of_its_route_as_one_now() {
        let (mut drama, name) = star();
        assert!(drama.rest(600_000));
        drama.strike(&crate::simulate::Fault::OperatorStop);
        drama.strike(&crate::simulate::Fault::Kill(name("eu-1")));
        drama.pass(1_000);
        let observed = drama.cluster().observe(drama.desired()).now_or_never().unwrap();
        let (lines, _) = drawn(&drama, &observed);
        let leaf = line(&lines, "eu-3");
        assert_eq!(leaf.upstream.as_deref(), Some("eu-2"));
        let fallbacks: Vec<_> = leaf.fallbacks.iter().map(|one| (one.node.as_str(), one.prepared)).collect();
        assert_eq!(fallbacks, [("eu-1", false), ("core-2", true)]);
    }

    #[test]
    fn what_is_the_same_of_many_is_said_once() {
        let (mut drama, name) = star();
        assert!(drama.rest(600_000));
        drama.strike(&crate::simulate::Fault::Kill(name("core-1")));
        drama.pass(10_000);
        let observed = drama.cluster().observe(drama.desired()).now_or_never().unwrap();
        let (lines, plan) = drawn(&drama, &observed);
        assert!(!is_as_declared(&lines, &plan));
        let text = text(&lines);
        assert_eq!(text.matches("the primary, core-1, is not seen").count(), 1, "{text}");
        assert!(text.contains("core-2, eu-1, "), "{text}");
    }
}
