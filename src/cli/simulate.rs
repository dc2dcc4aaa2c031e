//! `waltree simulate`: plays a script, or random faults for a long time.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use super::{ERROR, OK};
use crate::operator::clock;
use crate::simulate::script::{COMMANDS, is_broken, play};
use crate::simulate::soak::{Report, Soak};

/// What to simulate.
#[derive(Debug, Args)]
#[command(after_help = format!("Commands of a script, each on a line that begins with \"> \":\n  {}", COMMANDS.join("\n  ")))]
pub struct Simulate {
    /// A file with a script, such as those of tests/scripts: it is printed with what happens. Exit code 1: a law was broken
    /// (BROKEN), the tree was at rest and not as declared or found no rest, or a command was wrong.
    #[arg(conflicts_with = "hours", required_unless_present = "hours")]
    script: Option<PathBuf>,
    /// Hours of random faults; the laws of the tree are checked at every moment. Exit code 1: one was broken, and a
    /// short script is printed that breaks it.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    hours: Option<u64>,
    /// Servers of the fleet that is put under random faults, about: its regions have relays and leaves each.
    #[arg(long, default_value_t = 100, conflicts_with = "script")]
    nodes: usize,
    /// The seed of everything that happens by chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many seeds, from the given one on; the hours are shared among them.
    #[arg(long, default_value_t = 1, conflicts_with = "script", value_parser = clap::value_parser!(u64).range(1..))]
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
        return Ok(if is_broken(&told) { ERROR } else { OK });
    }
    let began = clock::now();
    let (hours, seeds) = (what.hours.unwrap_or(0), what.seeds);
    if hours < seeds {
        bail!("--hours {hours} are fewer than --seeds {seeds}: each seed gets an hour at least");
    }
    let mut all = Report::default();
    for turn in 0..seeds {
        // What does not divide is given to the first of them.
        let hours = hours / seeds + u64::from(turn < hours % seeds);
        match (Soak { seed: what.seed.saturating_add(turn), nodes: what.nodes, hours }).run() {
            Ok(report) => all.add(report),
            Err(broken) => {
                writeln!(out, "{broken}")?;
                return Ok(ERROR);
            }
        }
    }
    let faults = all.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ");
    let hours = |milliseconds: u64| {
        let tenths = milliseconds / 360_000;
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    let lived = hours(all.milliseconds.saturating_sub(all.skipped_milliseconds));
    let (total, skipped, calm) =
        (hours(all.milliseconds), hours(all.skipped_milliseconds), hours(all.calm_milliseconds));
    let seconds = clock::now().since(began) / 1000;
    writeln!(out, "{total} hours of {} servers over {seeds} seeds: no law was broken", all.servers)?;
    writeln!(
        out,
        "{} bad days; {lived} hours lived, {calm} of them calm in which nothing changed; {skipped} hours of calm skipped",
        all.days
    )?;
    writeln!(out, "{} times faults stood until the tree was healed, {} times it came to rest", all.stood, all.rested)?;
    writeln!(out, "faults and mendings: {faults}")?;
    writeln!(out, "{} passes, {} routes set, in {seconds} s of real time", all.passes, all.moves)?;
    Ok(OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit code of a script, and what it told.
    fn played(name: &str, script: &str) -> (u8, String) {
        let file = std::env::temp_dir().join(format!("waltree-simulate-{name}-{}.txt", std::process::id()));
        std::fs::write(&file, script).unwrap();
        let what = Simulate { script: Some(file.clone()), hours: None, nodes: 0, seed: 1, seeds: 1 };
        let mut out = Vec::new();
        let code = run(&what, &mut out);
        std::fs::remove_file(file).unwrap();
        (code.unwrap(), String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_script_in_which_a_law_is_broken_or_no_rest_is_found_fails_as_one_with_an_error_does() {
        let tree = "# What is BROKEN here?\n> group core 1\n> group eu 3 relays=1 upstreams=core\n> begin\n> rest\n";
        assert_eq!(played("well", tree).0, OK);
        // Of its three relays and leaves the primary may feed one.
        let narrow = tree.replace("core 1", "core 1 fanOut=1");
        for (name, script, word) in [
            ("broken", format!("{narrow}> lose any\n"), "\nBROKEN: "),
            ("restless", format!("{tree}> kill eu-1\n> rest 1s\n"), "\nno rest within 1 s\n"),
            ("wrong", format!("{tree}> dance\n"), "\nerror: line 6: "),
        ] {
            let (code, told) = played(name, &script);
            assert!(code == ERROR && told.contains(word), "{code}: {told}");
        }
    }
}
