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

/// A line for each node, the worst first.
fn table(answers: &[Answer]) -> String {
    let width = answers.iter().map(|answer| answer.loss.len()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$}  {:<8} {:>5} {:>9} {:>9} {:>10} {:>6}  {}\n",
        "LOST", "SURVIVED", "MOVES", "NO PATH", "CROWDED", "SENT AGAIN", "THEN", "IN THE END"
    );
    for answer in answers {
        let survived = match (answer.tolerated, answer.with_the_primary) {
            (true, _) => "yes",
            (false, true) => "primary",
            (false, false) => "no",
        };
        let end = match &answer.in_the_end {
            end if end.is_within_limits() => match answer.emptied_groups.first() {
                Some(group) => unread(group),
                None => "as it should be".to_owned(),
            },
            end => format!("{} without a path", end.without_a_path.len()),
        };
        let _ = writeln!(
            text,
            "{:<width$}  {survived:<8} {:>5} {:>9} {:>9} {:>10} {:>6}  {end}",
            answer.loss,
            answer.at_once.moves.len(),
            answer.at_once.without_a_path.len(),
            answer.at_once.crowded.len(),
            bytes(Some(answer.at_once.bytes_again().saturating_add(answer.in_the_end.bytes_again()))),
            answer.in_the_end.moves.len(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
