//! `kubectl waltree what-if`: draws what would happen; `simulate` finds it out.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use super::draw::bytes;
use super::look::Look;
use super::plugin::Output;
use super::{DEGRADED, OK, REFUSED};
use crate::api::{ReplicaTopology, ReplicaTopologySpec};
use crate::model::primary::Primary;
use crate::model::{Automation, Loss};
use crate::simulate::what_if::{Aftermath, Answer, Move, Scene, Streams};

/// What is lost, and from which fleet.
#[derive(Debug, Args)]
pub(super) struct WhatIf {
    /// Name of the ReplicaTopology.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(super) name: Option<String>,
    /// What is lost: a node, `zone=NAME` or `region=NAME` (`region=` for the hosts without one).
    #[arg(long, value_name = "NODE|zone=Z|region=R", required_unless_present = "repeat", conflicts_with = "repeat")]
    lose: Option<Loss>,
    /// Try every node in turn, and show the worst first. The primary's loss is shown and does not count.
    #[arg(long)]
    repeat: Option<Repeat>,
    /// A manifest whose servers need not be there: they are taken to be as it declares them. How much is sent again is made
    /// up then.
    #[arg(long, short)]
    pub(super) file: Option<PathBuf>,
    /// How to print it.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Repeat {
    All,
}

impl WhatIf {
    /// On the servers as they are seen.
    pub(super) fn seen(&self, topology: ReplicaTopology, look: &Look, out: &mut impl Write) -> anyhow::Result<u8> {
        if !matches!(look.plan.sight.primary, Primary::Known { .. }) {
            bail!("no primary is seen from here, so nothing can be said of a loss; see kubectl waltree tree");
        }
        self.answer(&Scene::seen(topology, &look.desired, &look.observed), out)
    }

    /// On servers as they are declared.
    pub(super) fn declared(&self, spec: ReplicaTopologySpec, out: &mut impl Write) -> anyhow::Result<u8> {
        match Scene::declared(spec) {
            Ok(scene) => self.answer(&scene, out),
            Err(rejections) => {
                rejections.iter().try_for_each(|rejection| writeln!(out, "{rejection}"))?;
                Ok(REFUSED)
            }
        }
    }

    fn answer(&self, scene: &Scene, out: &mut impl Write) -> anyhow::Result<u8> {
        let Some(loss) = &self.lose else {
            let answers = scene.lose_each();
            match self.output {
                Output::Text => write!(out, "{}", table(&answers))?,
                Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answers)?)?,
            }
            let survived = answers.iter().all(|answer| answer.tolerated || answer.with_the_primary);
            return Ok(if survived { OK } else { DEGRADED });
        };
        if loss.members(scene.desired()).is_empty() {
            writeln!(out, "there is no {loss} in this topology")?;
            return Ok(REFUSED);
        }
        let answer = scene.lose(loss);
        match self.output {
            Output::Text => write!(out, "{}", text(&answer, scene.desired().automation)),
            Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answer)?),
        }
        .context("write to the standard output")?;
        Ok(if answer.tolerated { OK } else { DEGRADED })
    }
}

/// One answer for people.
fn text(answer: &Answer, automation: Automation) -> String {
    let mut text = format!("Without {} ({} lost):\n", answer.loss, answer.lost.join(", "));
    for node in &answer.unseen {
        let _ = writeln!(text, "{node} is not seen now, and taken to be down.");
    }
    let _ = writeln!(text, "\nAt once, by PostgreSQL itself:");
    text.push_str(&moves(&answer.at_once.moves));
    text.push_str(&troubles(&answer.at_once));
    let who = match automation {
        Automation::Heal => "Then, by the operator:",
        Automation::Observe => "Then nothing more, as automation is Observe:",
    };
    let _ = writeln!(text, "\n{who}");
    text.push_str(&moves(&answer.in_the_end.moves));
    text.push_str(&troubles(&answer.in_the_end));
    if !answer.rests {
        text.push_str("  it does not come to rest within ten minutes\n");
    }
    let again = answer.at_once.bytes_again().saturating_add(answer.in_the_end.bytes_again());
    let since = if again > 0 { ", counted from the start of the WAL segment that each one replays" } else { "" };
    let _ = writeln!(text, "\nSent again: {}{since}.", bytes(Some(again)));
    match answer.wal_gone.as_slice() {
        [] => text.push_str("Clones: none.\n"),
        nodes => {
            let _ = writeln!(text, "Clones: {} would need one, which a person has to make.", nodes.join(", "));
        }
    }
    let _ = writeln!(text, "{}", verdict(answer, automation));
    text
}

fn verdict(answer: &Answer, automation: Automation) -> String {
    let left = "everybody who is left is fed at once, within all limits.";
    if answer.tolerated {
        return format!("Survived: {left}");
    }
    let emptied = answer.emptied_groups.iter().map(|group| unread(group)).collect::<Vec<_>>().join(", ");
    if answer.at_once.is_within_limits() {
        return format!("Not survived: {emptied}. Otherwise {left}");
    }
    let emptied = if emptied.is_empty() { emptied } else { format!(" And {emptied}.") };
    let after = if answer.with_the_primary {
        "nobody is promoted: promote a server of the root group by hand, unless another manager keeps it"
    } else if automation == Automation::Observe {
        "the operator may put nothing right, as automation is Observe"
    } else if answer.in_the_end.is_within_limits() {
        "the operator puts it right"
    } else {
        "the operator cannot put all of it right"
    };
    format!("Not survived by PostgreSQL alone; {after}.{emptied}")
}

fn unread(group: &str) -> String {
    format!("group {group} has no node left to read from")
}

fn moves(moves: &[Move]) -> String {
    if moves.is_empty() {
        return "  nobody moves\n".to_owned();
    }
    let mut text = String::new();
    for Move { node, from, to, bytes_again } in moves {
        let from = from.as_deref().unwrap_or("nobody");
        let _ = writeln!(text, "  {node}: from {from} to {to}, {} again", bytes(Some(*bytes_again)));
    }
    text
}

fn troubles(aftermath: &Aftermath) -> String {
    let mut text = String::new();
    if !aftermath.without_a_path.is_empty() {
        let _ = writeln!(text, "  without a path: {}", aftermath.without_a_path.join(", "));
    }
    for crowded in &aftermath.crowded {
        let _ = writeln!(text, "  over its limit: {}, {} children of {}", crowded.node, crowded.children, crowded.most);
    }
    for Streams { region, before, after, most } in &aftermath.across_regions {
        let into = Loss::Region(region.clone());
        let _ = writeln!(text, "  WAL streams into {into}: {after} in place of {before}, at most {most}");
    }
    text
}

/// A line for each node, the worst first. Streams across regions are those of the region that got the most of them, and how
/// many it may have; clones are what a person would have to make.
fn table(answers: &[Answer]) -> String {
    let width = answers.iter().map(|answer| answer.loss.len()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$}  {:<8} {:>5} {:>7} {:>7} {:>7} {:>10} {:>4} {:>6}  {}\n",
        "LOST", "SURVIVED", "MOVES", "NO PATH", "CROWDED", "STREAMS", "SENT AGAIN", "THEN", "CLONES", "IN THE END"
    );
    for answer in answers {
        let survived = match (answer.tolerated, answer.with_the_primary) {
            (true, _) => "yes",
            (false, true) => "primary",
            (false, false) => "no",
        };
        let across = answer.at_once.across_regions.iter().max_by_key(|streams| streams.after);
        let streams = across.map_or_else(|| "-".to_owned(), |streams| format!("{}/{}", streams.after, streams.most));
        let _ = writeln!(
            text,
            "{:<width$}  {survived:<8} {:>5} {:>7} {:>7} {streams:>7} {:>10} {:>4} {:>6}  {}",
            answer.loss,
            answer.at_once.moves.len(),
            answer.at_once.without_a_path.len(),
            answer.at_once.crowded.len(),
            bytes(Some(answer.at_once.bytes_again().saturating_add(answer.in_the_end.bytes_again()))),
            answer.in_the_end.moves.len(),
            answer.wal_gone.len(),
            end(answer),
        );
    }
    text
}

/// What is left in the end that is not as it should be.
fn end(answer: &Answer) -> String {
    let end = &answer.in_the_end;
    let mut left = Vec::new();
    if !end.without_a_path.is_empty() {
        left.push(format!("{} without a path", end.without_a_path.len()));
    }
    left.extend(end.crowded.iter().map(|one| format!("{} has {} children of {}", one.node, one.children, one.most)));
    let flooded = end.across_regions.iter().filter(|streams| streams.after > streams.most);
    left.extend(flooded.map(|Streams { region, after, most, .. }| {
        format!("{after} streams into {}, at most {most}", Loss::Region(region.clone()))
    }));
    if !answer.rests {
        left.push("no rest within ten minutes".to_owned());
    }
    left.extend(answer.emptied_groups.iter().map(|group| unread(group)));
    if left.is_empty() { "as it should be".to_owned() } else { left.join("; ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::simulate::what_if::Crowded;

    /// What is said of a loss, and the exit code; the region eu is one group, and two more hosts are in no region.
    fn told(lose: Option<&str>, output: Output) -> (u8, String) {
        let host = |node: &str, last: u8| json!({"name": node, "address": format!("192.0.2.{last}")});
        let spec = json!({"automation": "Heal", "groups": [
            {"name": "core", "hosts": [host("core-1", 1), host("core-2", 2)]},
            {"name": "eu", "region": "eu", "upstreams": ["core"], "hosts": [host("eu-1", 3), host("eu-2", 4)]},
            {"name": "one", "upstreams": ["core"], "hosts": [host("one-1", 5)]},
        ]});
        let repeat = lose.is_none().then_some(Repeat::All);
        let lose = lose.map(|loss| loss.parse().unwrap());
        let (asked, mut out) = (WhatIf { name: None, lose, repeat, file: None, output }, Vec::new());
        let code = asked.declared(serde_json::from_value(spec).unwrap(), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_group_of_which_nobody_is_left_is_not_survived_however_well_the_others_are_fed() {
        let (code, text) = told(Some("region=eu"), Output::Text);
        let last = "Not survived: group eu has no node left to read from. Otherwise everybody who is left is fed at once, \
                    within all limits.";
        assert_eq!((code, text.lines().last()), (DEGRADED, Some(last)), "{text}");
        let (code, data) = told(Some("region=eu"), Output::Json);
        let data: serde_json::Value = serde_json::from_str(&data).unwrap();
        assert_eq!((code, &data["tolerated"], &data["emptiedGroups"]), (DEGRADED, &json!(false), &json!(["eu"])));

        let (code, text) = told(Some("eu-1"), Output::Text);
        let last = "Survived: everybody who is left is fed at once, within all limits.";
        assert_eq!((code, text.lines().last()), (OK, Some(last)), "{text}");

        let (code, text) = told(Some("region="), Output::Text);
        assert_eq!(code, DEGRADED);
        assert!(text.contains("Not survived by PostgreSQL alone; nobody is promoted: "), "{text}");
        assert!(text.contains(". And group core has no node left to read from, group one has no node"), "{text}");

        let (code, table) = told(None, Output::Text);
        assert_eq!(code, DEGRADED);
        let row = |node: &str| table.lines().find(|line| line.starts_with(node)).unwrap();
        let survived = |node: &str| row(node).split_whitespace().nth(1);
        assert_eq!((survived("one-1"), survived("eu-1")), (Some("no"), Some("yes")), "{table}");
        assert!(row("one-1").ends_with("group one has no node left to read from"), "{table}");
        assert!(row("eu-1").ends_with("as it should be"), "{table}");
    }

    #[test]
    fn from_where_the_bytes_are_counted_that_are_sent_again_is_said_once() {
        let (_, text) = told(Some("core-2"), Output::Text);
        assert!(!text.contains("Sent again: 0 B"), "{text}");
        let count = text.matches("counted from the start of the WAL segment that each one replays").count();
        assert_eq!(count, 1, "{text}");
    }

    #[test]
    fn what_is_over_a_limit_in_the_end_is_named_though_everybody_is_fed() {
        let over = Aftermath {
            crowded: vec![Crowded { node: "eu-2".to_owned(), children: 5, most: 3 }],
            across_regions: vec![
                Streams { region: "us".to_owned(), before: 1, after: 2, most: 2 },
                Streams { region: "eu".to_owned(), before: 1, after: 3, most: 2 },
            ],
            ..Aftermath::default()
        };
        let answer = |at_once: &Aftermath, in_the_end: &Aftermath, rests| Answer {
            loss: "eu-1".to_owned(),
            lost: vec!["eu-1".to_owned()],
            with_the_primary: false,
            unseen: Vec::new(),
            tolerated: false,
            emptied_groups: Vec::new(),
            at_once: at_once.clone(),
            in_the_end: in_the_end.clone(),
            rests,
            wal_gone: vec!["eu-4".to_owned()],
        };
        let well = Aftermath::default();
        let rows = [answer(&over, &over, true), answer(&well, &well, false)];
        let table = table(&rows);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let joined = |line: &[&str]| line.join(" ");
        let title = "LOST SURVIVED MOVES NO PATH CROWDED STREAMS SENT AGAIN THEN CLONES IN THE END";
        assert_eq!(joined(&lines[0]), title);
        let said = "eu-1 no 0 0 1 3/2 0 B 0 1 eu-2 has 5 children of 3; 3 streams into region eu, at most 2";
        assert_eq!(joined(&lines[1]), said);
        assert_eq!(joined(&lines[2]), "eu-1 no 0 0 0 - 0 B 0 1 no rest within ten minutes");
    }
}
