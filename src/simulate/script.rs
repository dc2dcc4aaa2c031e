//! Scenes that a person can read: commands, and below each what it told. A file of them is its own expected output.

use std::fmt::Write as _;

use super::drama::Told;
use super::shape::Shape;
use super::show::show;
use super::{Drama, Fault, laws};
use crate::model::{Millis, NodeName};

/// The longest time that `rest` waits when none is given, in milliseconds: ten minutes.
const REST_MILLISECONDS: u64 = 600_000;

/// Plays a script: every line that begins with `> ` is a command, one that begins with `#` is prose, and everything
/// else is what commands told before. Returns the script with what they tell now.
pub fn play(script: &str, seed: u64) -> String {
    let mut stage = Stage { shape: Shape::default(), drama: None, seed };
    let mut text = String::new();
    let mut prose = false;
    for line in script.lines().filter(|line| line.starts_with("> ") || line.starts_with('#')) {
        if line.starts_with('#') && !prose && !text.is_empty() {
            text.push('\n');
        }
        prose = line.starts_with('#');
        let _ = writeln!(text, "{line}");
        if let Some(command) = line.strip_prefix("> ") {
            match stage.command(command) {
                Ok(told) => text.push_str(&told),
                Err(error) => {
                    let _ = writeln!(text, "error: {error}");
                }
            }
        }
    }
    text
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
            ["group", words @ ..] => self.shape.group(words)?,
            ["set", words @ ..] => {
                self.shape.set(words)?;
                return self.apply();
            }
            ["remove", node] => {
                self.shape.remove(node);
                return self.apply();
            }
            ["begin"] => self.begin()?,
            ["acknowledge", nodes] => self.drama()?.acknowledge(nodes),
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
            ["show"] => return Ok(show(&self.drama()?.cluster().world())),
            ["plan"] => return self.plan(),
            ["status"] => return self.status(),
            _ => {
                let fault: Fault = command.parse().map_err(|error: super::fault::NotAFault| error.to_string())?;
                self.drama()?.strike(&fault);
            }
        }
        Ok(String::new())
    }

    fn drama(&mut self) -> Result<&mut Drama, String> {
        self.drama.as_mut().ok_or_else(|| "nothing has begun: begin".to_owned())
    }

    /// All servers stream from the first, as somebody may have left them.
    fn begin(&mut self) -> Result<(), String> {
        let spec = self.shape.spec()?;
        let first = spec.groups.first().and_then(|group| NodeName::new(&group.hosts.first()?.name).ok());
        let drama = Drama::new(spec, self.seed, |node| first.clone().unwrap_or_else(|| node.clone()));
        self.drama = Some(drama.map_err(|rejections| rejections[0].to_string())?);
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
