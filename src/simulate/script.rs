//! Scenes that a person can read: commands, and below each what it told. A file of them is its own expected output.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::drama::Told;
use super::fault::NotAFault;
use super::shape::Shape;
use super::show::show;
use super::{Drama, Fault, laws};
use crate::model::{Millis, NodeName};

/// The longest time that `rest` waits when none is given, in milliseconds: ten minutes.
const REST_MILLISECONDS: u64 = 600_000;

/// The settings of PostgreSQL that a simulated server heeds.
const SETTINGS: [&str; 4] =
    ["hot_standby_feedback", "wal_receiver_timeout", "wal_retrieve_retry_interval", "wal_sender_timeout"];

/// Every command of a script. The first word says which it is; of some there is more than one form.
pub const COMMANDS: [&str; 40] = [
    "group NAME SIZE [FIELD=VALUE...]",
    "set PATH VALUE",
    "remove NODE",
    "begin",
    "acknowledge NODE[,NODE...]",
    "acknowledge all",
    "postgres SETTING VALUE",
    "quietly COMMAND",
    "tick TIME",
    "rest [TIME]",
    "lose any",
    "show",
    "plan",
    "status",
    "kill NODE",
    "start NODE",
    "freeze NODE",
    "thaw NODE",
    "cut NODE|operator NODE|operator",
    "cut zone ZONE",
    "mend NODE|operator NODE|operator",
    "mend zone ZONE",
    "mend all",
    "pause NODE",
    "resume NODE",
    "reject NODE",
    "accept NODE",
    "lockout NODE",
    "admit NODE",
    "senders NODE COUNT",
    "slow NODE BYTES",
    "fast NODE",
    "repoint NODE UPSTREAM",
    "drop-slot NODE ON",
    "lose-slot NODE ON",
    "promote NODE",
    "reclone NODE",
    "operator stop",
    "operator start",
    "operator dies-after STEPS",
];

/// Plays a script: every line that begins with `> ` is a command, one that begins with `#` is prose, and everything
/// else is what commands told before. Returns the script with what they tell now.
pub fn play(script: &str, seed: u64) -> String {
    let mut stage = Stage { shape: Shape::default(), drama: None, seed };
    let mut text = String::new();
    let mut prose = false;
    let lines = script.lines().zip(1..).filter(|(line, _)| line.starts_with("> ") || line.starts_with('#'));
    for (line, number) in lines {
        if line.starts_with('#') && !prose && !text.is_empty() {
            text.push('\n');
        }
        prose = line.starts_with('#');
        let _ = writeln!(text, "{line}");
        if let Some(command) = line.strip_prefix("> ") {
            match stage.command(command) {
                Ok(told) => text.push_str(&told),
                Err(error) => {
                    let _ = writeln!(text, "error: line {number}: {error}");
                }
            }
        }
    }
    text
}

/// Whether a script that was played told of a law that was broken, of a tree that is not as declared at rest or comes to
/// none, or of an error. Its own commands and prose tell nothing.
pub fn is_broken(told: &str) -> bool {
    told.lines().filter(|line| !line.starts_with(['>', '#'])).any(is_remarkable)
}

struct Stage {
    shape: Shape,
    drama: Option<Drama>,
    seed: u64,
}

impl Stage {
    fn command(&mut self, command: &str) -> Result<String, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["group", ..] if self.drama.is_some() => return Err("the fleet has begun: groups come before".to_owned()),
            ["group", words @ ..] => self.shape.group(words)?,
            ["set", words @ ..] => {
                self.shape.set(words)?;
                return self.apply();
            }
            ["remove", node] => {
                self.shape.remove(node)?;
                return self.apply();
            }
            ["begin"] => self.begin()?,
            ["acknowledge", "all"] => self.drama()?.acknowledge("all"),
            ["acknowledge", nodes] => {
                nodes.split(',').try_for_each(|node| self.is_there(node))?;
                self.drama()?.acknowledge(nodes);
            }
            ["mend", "all"] => self.drama()?.mend(),
            ["quietly", words @ ..] => {
                let command = words.join(" ");
                let told = self.command(&command)?;
                return Ok(told.split_inclusive('\n').filter(|line| is_remarkable(line)).collect());
            }
            ["tick", time] => {
                let milliseconds = duration(time)?;
                return self.told(|drama| drama.pass(milliseconds));
            }
            ["rest"] => return self.rest(REST_MILLISECONDS),
            ["rest", time] => return self.rest(duration(time)?),
            ["postgres", setting, value] => self.postgres(setting, value)?,
            ["lose", "any"] => return self.lose_any(),
            ["show"] => return Ok(show(&self.drama()?.cluster().world())),
            ["plan"] => return self.plan(),
            ["status"] => return self.status(),
            _ => {
                let fault: Fault = command.parse().map_err(|error: NotAFault| not_understood(command, &error))?;
                fault.nodes().into_iter().try_for_each(|node| self.is_there(node.as_str()))?;
                if let Fault::CutZone(zone) | Fault::MendZone(zone) = &fault {
                    self.is_a_zone(zone)?;
                }
                self.drama()?.strike(&fault);
            }
        }
        Ok(String::new())
    }

    fn is_there(&mut self, node: &str) -> Result<(), String> {
        let world = self.drama()?.cluster().world();
        let names: Vec<&str> = world.servers.keys().map(NodeName::as_str).collect();
        let there = names.contains(&node).then_some(());
        there.ok_or_else(|| format!("there is no server {node:?}: use one of {}", names.join(", ")))
    }

    fn is_a_zone(&mut self, zone: &str) -> Result<(), String> {
        let desired = self.drama()?.desired();
        let zones: BTreeSet<&str> = desired.nodes.values().filter_map(|node| node.zone.as_deref()).collect();
        let there = zones.contains(zone).then_some(());
        let known = zones.into_iter().collect::<Vec<_>>().join(", ");
        there.ok_or_else(|| format!("there is no zone {zone:?}: use one of {known}"))
    }

    fn drama(&mut self) -> Result<&mut Drama, String> {
        self.drama.as_mut().ok_or_else(|| "nothing has begun: begin".to_owned())
    }

    /// All servers stream from the first, as somebody may have left them.
    fn begin(&mut self) -> Result<(), String> {
        let spec = self.shape.spec()?;
        let first = spec.groups.first().and_then(|group| {
            let host = group.hosts.first().map(|host| host.name.clone());
            NodeName::new(&host.unwrap_or_else(|| format!("{}-1", group.name))).ok()
        });
        let drama = Drama::new(spec, self.seed, |node| first.clone().unwrap_or_else(|| node.clone()));
        self.drama = Some(drama.map_err(|rejections| rejections[0].to_string())?);
        Ok(())
    }

    /// Sets what PostgreSQL calls so on every server.
    fn postgres(&mut self, setting: &str, value: &str) -> Result<(), String> {
        let settings = &mut self.drama()?.cluster().world().settings;
        match setting {
            "hot_standby_feedback" if ["on", "off"].contains(&value) => settings.feedback = value == "on",
            "hot_standby_feedback" => return Err(format!("{value:?} is not on or off")),
            "wal_receiver_timeout" => settings.receiver_timeout_milliseconds = duration(value)?,
            "wal_retrieve_retry_interval" => settings.retry_milliseconds = duration(value)?,
            "wal_sender_timeout" => settings.sender_timeout_milliseconds = duration(value)?,
            _ => return Err(format!("{setting:?} is not simulated: use one of {}", SETTINGS.join(", "))),
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<String, String> {
        let spec = self.shape.spec()?;
        if let Some(drama) = &mut self.drama {
            drama.apply(spec).map_err(|rejections| rejections[0].to_string())?;
        }
        Ok(String::new())
    }

    fn told(&mut self, act: impl FnOnce(&mut Drama)) -> Result<String, String> {
        let drama = self.drama()?;
        let began = drama.now();
        act(drama);
        let mut text = String::new();
        for Told { at, what } in drama.take_told() {
            let _ = writeln!(text, "{}  {what}", since(began, at));
        }
        for Told { at, what } in drama.take_violations() {
            let _ = writeln!(text, "{}  BROKEN: {what}", since(began, at));
        }
        Ok(text)
    }

    fn rest(&mut self, milliseconds: u64) -> Result<String, String> {
        let mut rested = false;
        let mut text = self.told(|drama| rested = drama.rest(milliseconds))?;
        if !rested {
            let _ = writeln!(text, "no rest within {} s", milliseconds / 1000);
        }
        let drama = self.drama()?;
        for what in drama.broken_while_faults_stand() {
            let _ = writeln!(text, "BROKEN: {what}");
        }
        let all_run = drama.cluster().world().servers.values().all(super::server::Server::is_up);
        if rested && all_run {
            let plan = drama.plan();
            let broken = laws::at_rest(&drama.cluster().world(), drama.desired(), &plan);
            for what in broken {
                let _ = writeln!(text, "not as declared: {what}");
            }
        }
        Ok(text)
    }

    /// What would be broken if one server, whichever, were lost now.
    fn lose_any(&mut self) -> Result<String, String> {
        let drama = self.drama()?;
        let broken = laws::after_any_one_loss(&drama.cluster().world(), drama.desired());
        let mut text = String::new();
        for what in broken {
            let _ = writeln!(text, "BROKEN: {what}");
        }
        Ok(text)
    }

    fn plan(&mut self) -> Result<String, String> {
        let plan = self.drama()?.plan();
        let mut text = String::new();
        for planned in plan.steps.iter().filter(|planned| !planned.step.is_housekeeping()) {
            let _ = writeln!(text, "{planned}");
        }
        for wait in &plan.waits {
            let _ = writeln!(text, "{} waits, {}: {}", wait.node, wait.reason, wait.message);
        }
        for finding in &plan.findings {
            let _ = writeln!(text, "{}: {}", finding.diagnosis, finding.message);
        }
        if text.is_empty() {
            text.push_str("nothing to do\n");
        }
        Ok(text)
    }

    fn status(&mut self) -> Result<String, String> {
        let drama = self.drama()?;
        let Some(status) = drama.status() else { return Ok("no status yet\n".to_owned()) };
        let mut text = String::new();
        for condition in &status.conditions {
            let _ = writeln!(text, "{:<15} {:<8} {}", condition.type_, condition.status, condition.reason);
        }
        for node in status.nodes.iter().filter(|node| node.reason.is_some()) {
            let reason = node.reason.as_deref().unwrap_or_default();
            let _ = writeln!(text, "{}: {reason}", node.name);
        }
        Ok(text)
    }
}

/// Why words are no command, and what would be one.
fn not_understood(command: &str, NotAFault(words): &NotAFault) -> String {
    let first = |text: &'static str| text.split(' ').next().unwrap_or_default();
    let verb = command.split_whitespace().next().unwrap_or_default();
    let forms: Vec<&str> = COMMANDS.into_iter().filter(|form| first(form) == verb).collect();
    if forms.is_empty() {
        let verbs: BTreeSet<&str> = COMMANDS.into_iter().map(first).collect();
        let verbs = verbs.into_iter().collect::<Vec<_>>().join(", ");
        return format!("{verb:?} is no command: use one of {verbs}");
    }
    format!("{words:?} is not understood: write {}", forms.join(", or "))
}

fn is_remarkable(line: &str) -> bool {
    ["error:", "no rest", "not as declared:"].iter().any(|word| line.starts_with(word)) || line.contains("BROKEN")
}

fn since(began: Millis, at: Millis) -> String {
    let milliseconds = at.since(began);
    format!("{:>7}.{:02} s", milliseconds / 1000, milliseconds % 1000 / 10)
}

/// A time such as `500ms`, `10s`, `5m` or `2h`, in milliseconds.
fn duration(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text:?} is no time such as 500ms, 10s, 5m or 2h")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no time such as 500ms, 10s, 5m or 2h"))?;
    Ok(number.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::play;

    #[test]
    fn an_error_names_the_line_of_the_file_whatever_was_recorded_in_it() {
        let script = "# Prose.\n> begin\nerror: what it told before\nand more\n\n# More prose.\n> dance\n";
        let told = play(script, 1);
        let errors = told.lines().filter_map(|line| line.strip_prefix("error: ")?.split_once(": "));
        assert_eq!(errors.map(|(line, _)| line).collect::<Vec<_>>(), ["line 2", "line 7"], "{told}");
    }
}
