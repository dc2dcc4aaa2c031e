//! `kubectl waltree plan`: draws what would be done. What is decided was decided by the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::draw::bytes;
use super::look::Look;
use super::plugin::Output;
use super::{DEGRADED, OK};
use crate::model::primary::Primary;
use crate::model::tree::Edge;
use crate::model::{Automation, Desired, Diagnosis, NodeName, Route, about};
use crate::plan::{Planned as Do, StepKind, intents};

/// Of which topology.
#[derive(Debug, Args)]
pub(super) struct Planned {
    /// Name of the ReplicaTopology.
    pub(super) name: String,
    /// A manifest to plan for instead of the applied one; there need be none applied.
    #[arg(long, short)]
    pub(super) file: Option<PathBuf>,
    /// How to print it.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

/// What would be done. The shape of `-o json`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Proposal {
    /// What is wrong, the worst first.
    findings: Vec<Wrong>,
    /// What would be done now.
    steps: Vec<Deed>,
    /// What is waited for.
    waits: Vec<Waiting>,
    /// Groups without enough fallbacks, a sentence for each.
    shortages: Vec<String>,
    /// Every wanted route, in the order of the spec.
    routes: Vec<Target>,
    /// Who would come to receive from another server, now or when it is ready.
    moves: Vec<Move>,
    /// What each upstream would send again to those who come to it, in bytes, as far as they are seen.
    bytes: BTreeMap<String, u64>,
    /// Who is to feed its group by this spec and was not by the one that is applied, with the group.
    declared_relays: BTreeMap<String, String>,
    /// Who feeds nobody now and would feed these.
    new_relays: BTreeMap<String, Vec<String>>,
    /// Who feeds others now and would feed nobody.
    relieved: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Wrong {
    node: String,
    diagnosis: String,
    message: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Deed {
    kind: &'static str,
    /// Where it is written.
    server: String,
    /// For whose sake.
    owner: String,
    why: String,
    /// The same in words.
    what: String,
    /// Automation or management forbids it.
    withheld: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    node: String,
    reason: String,
    message: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    node: String,
    /// The server that it receives from now.
    upstream: Option<String>,
    wanted: Vec<String>,
    installed: Vec<String>,
    set: When,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<Waiting>,
}

/// When a route is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum When {
    /// It is, or it is not ours to set.
    Never,
    Now,
    /// It would be now, and `automation: Observe` forbids it.
    Withheld,
    /// When what it waits for is there.
    Later,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Move {
    node: String,
    from: Option<String>,
    to: String,
    /// The next pass makes it. It waits for something else, or is withheld, as the route's [`Target::set`] says.
    now: bool,
}

/// Shows a plan. Exit code 0: nothing to do and nothing wrong, 2: there is. `before` is the spec that is applied.
pub(super) fn show(asked: &Planned, look: &Look, before: Option<&Desired>, out: &mut impl Write) -> anyhow::Result<u8> {
    let proposal = Proposal::of(look, before);
    match asked.output {
        Output::Text => write!(out, "{}", proposal.text(look))?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&proposal)?)?,
    }
    let mut steps = look.plan.steps.iter().chain(&look.plan.withheld);
    let calm = steps.all(|planned| planned.step.is_housekeeping()) && look.plan.waits.is_empty();
    let due = proposal.routes.iter().any(|route| route.set != When::Never);
    let failing = look.plan.findings.iter().any(|finding| Diagnosis::is_failure(finding.diagnosis));
    Ok(if calm && !due && !failing { OK } else { DEGRADED })
}

impl Proposal {
    fn of(look: &Look, before: Option<&Desired>) -> Self {
        let Look { desired, observed, plan, .. } = look;
        // That the primary is quiet is not to be told from one look, and a heartbeat moves nobody.
        let told = |planned: &&Do| planned.step.kind() != StepKind::Heartbeat;
        let deeds =
            |steps: &[Do], withheld| steps.iter().filter(told).map(|one| deed(one, withheld)).collect::<Vec<_>>();
        let mut steps = deeds(&plan.steps, false);
        steps.extend(deeds(&plan.withheld, true));
        let waiting = |wait: &crate::plan::Wait| Waiting {
            node: wait.node.to_string(),
            reason: wait.reason.to_string(),
            message: wait.message.clone(),
        };
        let mut this = Self {
            findings: plan
                .findings
                .iter()
                .map(|finding| Wrong {
                    node: finding.node.to_string(),
                    diagnosis: finding.diagnosis.to_string(),
                    message: finding.message.clone(),
                })
                .collect(),
            steps,
            waits: plan.waits.iter().map(waiting).collect(),
            shortages: plan.shortages.clone(),
            declared_relays: declared_relays(desired, before),
            ..Self::default()
        };
        let heals = desired.automation == Automation::Heal;
        for intent in intents(desired, observed, plan) {
            let upstream = receives_from(plan.sight.edges.get(&intent.node), before);
            let node = intent.node.to_string();
            if let Some(first) = intent.wanted.first().filter(|_| intent.is_move) {
                let (from, to) = (upstream.clone(), first.to_string());
                if let Some(bytes) = intent.bytes_again {
                    let sum = this.bytes.entry(to.clone()).or_default();
                    *sum = sum.saturating_add(bytes);
                }
                this.moves.push(Move { node: node.clone(), from, to, now: intent.is_now && heals });
            }
            this.routes.push(Target {
                node,
                upstream,
                wanted: names(Some(&intent.wanted)),
                installed: names(intent.installed.as_ref()),
                set: match (intent.is_due, intent.is_now) {
                    (false, _) => When::Never,
                    (true, true) if heals => When::Now,
                    (true, true) => When::Withheld,
                    (true, false) => When::Later,
                },
                waits_for: intent.wait.as_ref().filter(|_| intent.is_due && !intent.is_now).map(waiting),
            });
        }
        this.compare_relays();
        this
    }

    /// Who comes to feed others and who does not any more, the primary apart: it is not chosen.
    fn compare_relays(&mut self) {
        let feeds: BTreeSet<&str> = self.routes.iter().filter_map(|route| route.upstream.as_deref()).collect();
        let mut fed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for route in &self.routes {
            // Whose route is not ours to set stays where it is.
            let stays = || route.upstream.as_deref();
            let first = || route.wanted.first().map(String::as_str);
            let from = if self.moves.iter().any(|one| one.node == route.node) { first() } else { stays().or(first()) };
            fed.entry(from.unwrap_or_default()).or_default().push(route.node.clone());
        }
        let own = |node: &str| self.routes.iter().any(|route| route.node == node);
        let new = fed.iter().filter(|(node, _)| own(node) && !feeds.contains(*node));
        let new_relays = new.map(|(node, children)| ((*node).to_owned(), children.clone())).collect();
        let relieved = feeds.iter().filter(|node| own(node) && !fed.contains_key(*node));
        let relieved = relieved.map(|node| (*node).to_owned()).collect();
        (self.new_relays, self.relieved) = (new_relays, relieved);
    }

    /// A plan for people: what is wrong, what would be done and why, what is waited for, and what comes of it.
    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        for Wrong { node, diagnosis, message } in &self.findings {
            let _ = writeln!(text, "{diagnosis}: {}", about(node, message));
        }
        match &look.plan.sight.primary {
            Primary::Known { .. } => {}
            Primary::NotSeen => text.push_str("No primary is seen, so nobody is moved.\n"),
            Primary::Several(_) => text.push_str("More than one server answers as the primary, so nobody is moved.\n"),
        }
        for step in &self.steps {
            let note = if step.withheld { " (withheld: automation or management is Observe)" } else { "" };
            let _ = writeln!(text, "{}{note}", step.what);
        }
        for Waiting { node, reason, message } in &self.waits {
            let _ = writeln!(text, "{node} waits, {reason}: {message}");
        }
        for shortage in &self.shortages {
            let _ = writeln!(text, "{shortage}");
        }
        // Of hundreds only those that change: the others would hide them.
        let (stay, due): (Vec<_>, Vec<_>) = self.routes.iter().partition(|route| route.set == When::Never);
        for Target { node, wanted, .. } in due {
            let _ = writeln!(text, "{node} is to receive from {}.", wanted.join(" > "));
        }
        if !stay.is_empty() {
            let how = if stay.len() == 1 { "stays as it is" } else { "stay as they are" };
            let _ = writeln!(text, "{} {how}.", counted(stay.len(), "route"));
        }
        let heals = look.desired.automation == Automation::Heal;
        for Move { node, from, to, now } in &self.moves {
            let from = from.as_deref().unwrap_or("nobody");
            let withheld = self.routes.iter().any(|route| route.node == *node && route.set == When::Withheld);
            let when = match (now, withheld) {
                (true, _) => "now",
                (false, true) => "as soon as automation is Heal",
                (false, false) if heals => "when it is ready",
                (false, false) => "when automation is Heal and it is ready",
            };
            let _ = writeln!(text, "{node} moves from {from} to {to}, {when}.");
        }
        for (upstream, again) in &self.bytes {
            let _ = writeln!(text, "{upstream} sends {} again to those who come to it.", bytes(Some(*again)));
        }
        for (node, group) in &self.declared_relays {
            let _ = writeln!(text, "{node} becomes a relay of {group} by the spec.");
        }
        for (node, children) in &self.new_relays {
            let _ = writeln!(text, "{node} comes to feed {}.", children.join(", "));
        }
        for node in &self.relieved {
            let _ = writeln!(text, "{node} comes to feed nobody.");
        }
        let _ = writeln!(text, "{}", self.sum(heals));
        text
    }

    fn sum(&self, heals: bool) -> String {
        let count = |when| self.routes.iter().filter(|route| route.set == when).count();
        let (now, withheld, later) = (count(When::Now), count(When::Withheld), count(When::Later));
        let slots = self.routes.iter().filter_map(|route| route.waits_for.as_ref());
        let slots = slots.filter(|wait| wait.reason == "SlotNotReady").count();
        let first =
            if withheld > 0 { format!("{withheld} as soon as automation is Heal") } else { format!("{now} now") };
        let then = if heals { "" } else { "automation is Heal and " };
        let others = match later {
            0 if withheld > 0 => " (as soon as automation is Heal)".to_owned(),
            0 => String::new(),
            later if slots == later => format!(" ({first}, the others when {then}their slots are ready)"),
            _ => format!(" ({first}, the others when {then}what they wait for is there)"),
        };
        let due = counted(now + withheld + later, "route");
        format!("{due} to set{others}, {} planned.", counted(self.moves.len(), "move"))
    }
}

/// So many of these, in words.
pub(super) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn names(route: Option<&Route>) -> Vec<String> {
    route.into_iter().flat_map(|route| &route.entries).map(NodeName::to_string).collect()
}

fn declared_relays(desired: &Desired, before: Option<&Desired>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for group in desired.groups.iter().filter(|group| group.relays > 0) {
        let Some(old) = before.and_then(|before| before.group(&group.name)) else { continue };
        let new = group.feeders().iter().filter(|node| !old.feeders().contains(node));
        all.extend(new.map(|node| (node.to_string(), group.name.to_string())));
    }
    all
}

fn deed(planned: &Do, withheld: bool) -> Deed {
    Deed {
        kind: planned.step.kind().into(),
        server: planned.step.server().to_string(),
        owner: planned.step.owner().to_string(),
        why: planned.why.to_string(),
        what: planned.to_string(),
        withheld,
    }
}

/// The server at the other end, by its name in the spec that is applied where the new one has it no more.
fn receives_from(edge: Option<&Edge>, before: Option<&Desired>) -> Option<String> {
    let edge = edge?;
    let Edge::Stranger(address) = edge else { return edge.upstream().map(NodeName::to_string) };
    let known = before.and_then(|before| {
        let (host, port) = address.rsplit_once(':')?;
        before.addresses().node_at(host, port.parse().ok()?).map(NodeName::to_string)
    });
    Some(known.unwrap_or_else(|| address.clone()))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::operator::Cluster as _;
    use crate::plan::plan;
    use crate::simulate::{Drama, Fault};

    /// A primary, a standby, and hosts of a region with two relays; all stream from the primary.
    fn star(hosts: &[&str]) -> Drama {
        let spec = serde_json::from_value(spec(hosts)).unwrap();
        Drama::new(spec, 1, |_| NodeName::new("core-1").unwrap()).unwrap()
    }

    fn spec(hosts: &[&str]) -> Value {
        let all = |hosts: &[&str]| hosts.iter().map(|node| json!({"name": node, "address": node})).collect::<Vec<_>>();
        json!({"automation": "Heal", "groups": [
            {"name": "core", "hosts": all(&["core-1", "core-2"])},
            {"name": "eu", "upstreams": ["core"], "relays": 2, "hosts": all(hosts)},
        ]})
    }

    fn look(drama: &Drama, desired: &Desired) -> Look {
        let observed = drama.cluster().observe(desired).now_or_never().unwrap();
        let plan = plan(desired, &observed, observed.memory.at);
        Look { desired: desired.clone(), earlier: observed.nodes.clone(), observed, plan }
    }

    fn shown(look: &Look, before: Option<&Desired>, output: Output) -> (u8, String) {
        let (asked, mut out) = (Planned { name: "orders".to_owned(), file: None, output }, Vec::new());
        let code = show(&asked, look, before, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_move_that_waits_for_its_slots_is_told_before_it_is_made() {
        let mut drama = star(&["eu-1", "eu-2", "eu-3", "eu-4"]);
        let seen = look(&drama, drama.desired());
        assert!(!seen.plan.steps.iter().any(|one| seen.plan.is_move(&one.step)), "no move is of the first pass");
        let (code, text) = shown(&seen, None, Output::Text);
        assert_eq!(code, DEGRADED);
        for sentence in ["eu-3 moves from core-1 to eu-1, when it is ready.", "eu-1 comes to feed eu-3."] {
            assert!(text.contains(sentence), "{text}");
        }
        assert!(text.contains("eu-3 waits, SlotNotReady: the slot eu_3 on eu-1 is not there yet"), "{text}");
        assert!(text.ends_with(", the others when their slots are ready), 2 moves planned.\n"), "{text}");
        assert!(!text.contains("heartbeat"), "{text}");
        let (_, json) = shown(&seen, None, Output::Json);
        let told: Value = serde_json::from_str(&json).unwrap();
        let expected = json!({"node": "eu-3", "from": "core-1", "to": "eu-1", "now": false});
        assert_eq!(told["moves"][0], expected, "{told}");
        let world = drama.cluster().world();
        let mut again = BTreeMap::new();
        for one in told["moves"].as_array().unwrap() {
            let [node, to] =
                ["node", "to"].map(|key| &world.servers[&NodeName::new(one[key].as_str().unwrap()).unwrap()]);
            let from = node.replayed.segment_start(node.segment_bytes);
            *again.entry(one["to"].as_str().unwrap()).or_insert(0) += to.received.bytes_since(from);
        }
        drop(world);
        assert!(again.len() == 2 && again.values().all(|sum| *sum > 0), "{again:?}");
        for (upstream, sum) in again {
            assert_eq!(told["bytes"][upstream], sum, "{told}");
            let line = format!("\n{upstream} sends {} again to those who come to it.\n", bytes(Some(sum)));
            assert!(text.contains(&line), "{text}");
        }
        assert_eq!(told["bytes"].as_object().unwrap().len(), 2, "{told}");

        assert!(drama.rest(600_000));
        for one in told["moves"].as_array().unwrap() {
            let node = NodeName::new(one["node"].as_str().unwrap()).unwrap();
            let upstream = drama.cluster().world().servers[&node].upstream().cloned();
            assert_eq!(upstream.unwrap().as_str(), one["to"], "what was told is what came");
        }
        let (code, text) = shown(&look(&drama, drama.desired()), None, Output::Text);
        assert_eq!((code, text.lines().last()), (OK, Some("0 routes to set, 0 moves planned.")), "{text}");
    }

    #[test]
    fn what_automation_forbids_is_not_told_to_come_now() {
        let mut drama = star(&["eu-1", "eu-2", "eu-3", "eu-4"]);
        let mut desired = drama.desired().clone();
        let moves = |seen: &Look| seen.plan.steps.iter().any(|one| seen.plan.is_move(&one.step));
        assert!((0..10_000).any(|_| {
            drama.pass(10);
            moves(&look(&drama, &desired))
        }));
        let (_, heals) = shown(&look(&drama, &desired), None, Output::Json);
        desired.automation = Automation::Observe;
        let seen = look(&drama, &desired);
        let (code, text) = shown(&seen, None, Output::Text);
        let (_, json) = shown(&seen, None, Output::Json);
        let [heals, told]: [Value; 2] = [&heals, &json].map(|json| serde_json::from_str(json).unwrap());
        assert_eq!((code, &told["steps"][0]["withheld"]), (DEGRADED, &true.into()), "{told}");
        let of =
            |told: &Value, word: &str| told["routes"].as_array().unwrap().iter().filter(|r| r["set"] == word).count();
        let at_once = |told: &Value| told["moves"].as_array().unwrap().iter().filter(|one| one["now"] == true).count();
        assert!(of(&heals, "now") > 0 && at_once(&heals) > 0, "with Heal something is made now: {heals}");
        assert_eq!((of(&told, "now"), at_once(&told), of(&told, "withheld")), (0, 0, of(&heals, "now")), "{told}");
        assert!(text.contains(", as soon as automation is Heal.\n"), "{text}");
        assert!(!text.contains("now"), "{text}");
    }

    #[test]
    fn routes_that_stay_are_counted_and_those_that_change_are_told() {
        let mut drama = star(&["eu-1", "eu-2", "eu-3", "eu-4"]);
        assert!(drama.rest(600_000));
        let (code, text) = shown(&look(&drama, drama.desired()), None, Output::Text);
        assert_eq!((code, text.as_str()), (OK, "5 routes stay as they are.\n0 routes to set, 0 moves planned.\n"));
        drama.strike(&Fault::Kill(NodeName::new("eu-1").unwrap()));
        drama.pass(100);
        let seen = look(&drama, drama.desired());
        let (_, text) = shown(&seen, None, Output::Text);
        let (_, json) = shown(&seen, None, Output::Json);
        let json: Value = serde_json::from_str(&json).unwrap();
        for route in json["routes"].as_array().unwrap() {
            let line = format!("{} is to receive from ", route["node"].as_str().unwrap());
            assert_eq!(text.contains(&line), route["set"] != "never", "{text}");
        }
    }

    #[test]
    fn a_relay_that_is_taken_out_is_named_with_those_who_leave_it_and_the_host_that_takes_its_place() {
        let mut drama = star(&["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"]);
        assert!(drama.rest(600_000));
        let without = serde_json::from_value(spec(&["eu-2", "eu-3", "eu-4", "eu-5"])).unwrap();
        let desired = Desired::try_from(&without).unwrap();
        let (code, text) = shown(&look(&drama, &desired), Some(drama.desired()), Output::Text);
        assert_eq!(code, DEGRADED);
        assert!(text.contains("eu-3 moves from eu-1 to core-1, "), "{text}");
        assert!(text.contains("eu-5 moves from eu-1 to "), "{text}");
        assert!(text.contains("eu-3 becomes a relay of eu by the spec."), "{text}");
    }

    #[test]
    fn that_the_primary_is_dead_is_told_though_nothing_is_to_be_done() {
        let mut drama = star(&["eu-1", "eu-2", "eu-3"]);
        assert!(drama.rest(600_000));
        drama.strike(&Fault::Kill(NodeName::new("core-1").unwrap()));
        drama.pass(10_000);
        let (code, text) = shown(&look(&drama, drama.desired()), None, Output::Text);
        assert_eq!(code, DEGRADED);
        assert!(text.starts_with("DeadPrimary: core-1"), "{text}");
        assert!(text.contains("\nNo primary is seen, so nobody is moved.\n"), "{text}");
    }
}
