//! `waltree simulate`: plays a script, or random faults for a long time.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use super::{ERROR, OK};
use crate::operator::clock;
use crate::simulate::script::play;
use crate::simulate::soak::{Report, Soak};

/// What to simulate.
#[derive(Debug, Args)]
pub struct Simulate {
    /// A file with a script, such as those of tests/scripts: it is printed with what happens.
    #[arg(conflicts_with = "hours", required_unless_present = "hours")]
    script: Option<PathBuf>,
    /// Hours of random faults; the laws of the tree are checked at every moment. Exit code 1: one was broken, and a
    /// short script is printed that breaks it.
    #[arg(long)]
    hours: Option<u64>,
    /// Servers of the fleet that is put under random faults.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// The seed of everything that happens by chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many seeds, from the given one on; the hours are shared among them.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
}

/// Plays it.
pub(super) fn run(what: &Simulate, out: &mut impl Write) -> anyhow::Result<u8> {
    if let Some(script) = &what.script {
        let text = std::fs::read_to_string(script).with_context(|| format!("cannot read {}", script.display()))?;
        if !text.lines().any(|line| line.starts_with("> ")) {
            bail!("{} has no commands: each begins with \"> \", see tests/scripts", script.display());
        }
        let told = play(&text, what.seed);
        write!(out, "{told}")?;
        return Ok(if told.lines().any(|line| line.starts_with("error: ")) { ERROR } else { OK });
    }
    let began = clock::now();
    let hours = what.hours.unwrap_or(0).div_ceil(what.seeds.max(1));
    let mut all = Report::default();
    for seed in what.seed..what.seed + what.seeds {
        match (Soak { seed, nodes: what.nodes, hours }).run() {
            Ok(report) => all.add(report),
            Err(broken) => {
                writeln!(out, "{broken}")?;
                return Ok(ERROR);
            }
        }
    }
    let faults = all.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ");
    let hours = all.milliseconds / 3_600_000;
    let seconds = clock::now().since(began) / 1000;
    writeln!(out, "{hours} hours of {} servers over {} seeds: no law was broken", what.nodes, what.seeds)?;
    writeln!(out, "faults and mendings: {faults}")?;
    writeln!(out, "{} passes, {} routes set, in {seconds} s of real time", all.passes, all.moves)?;
    Ok(OK)
}
