//! The command line.

mod acknowledge;
mod adopt;
mod agent;
mod crd;
pub mod draw;
mod guard;
mod history;
pub mod look;
mod operator;
pub mod plugin;
mod proposal;
mod simulate;
mod unpack;
mod validate;
mod what_if;
mod why;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Done, and nothing stands against it.
pub const OK: u8 = 0;
/// It could not be done: an unreadable file, a server that does not answer.
pub const ERROR: u8 = 1;
/// What was looked at is not as declared.
pub const DEGRADED: u8 = 2;
/// It was refused: what was asked for is wrong.
pub const REFUSED: u8 = 3;

/// What was asked for is wrong: the sentences say what and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

/// Keeps a PostgreSQL replica tree connected as declared.
#[derive(Debug, Parser)]
#[command(name = "waltree", version, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `waltree` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the CustomResourceDefinition, ready for `kubectl apply --server-side -f -`.
    Crd,
    /// Check manifests without a cluster, by the rules of the API server and of the operator. A key that is there twice is not
    /// read, though kubectl takes it. Exit code 0: all are good, 3: one is refused, 1: one cannot be read.
    Validate(validate::Validate),
    /// Play a script on a simulated fleet, under a clock of its own.
    Simulate(simulate::Simulate),
    /// Run the operator until it is told to stop.
    Operator(operator::Operator),
    /// Be the first process of a node's container: the parent of its agent and of its PostgreSQL.
    Guard(guard::Guard),
    /// See to the PostgreSQL of one node, below a guard.
    Agent(agent::Agent),
    /// Put this program where a container of another image finds it.
    Unpack(unpack::Unpack),
}

/// The arguments, or the exit code when there is nothing to be done by them: after `--help` 0, and where they are wrong that of
/// what could not be done. Left to itself clap ends with 2, which says here that a tree is not as declared.
///
/// # Errors
/// The exit code, when help was asked for or the arguments are wrong; either is printed by then.
pub fn arguments<A: Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        // Nothing is to be done when the output is closed.
        let _ = error.print();
        ExitCode::from(if error.use_stderr() { ERROR } else { OK })
    })
}

/// The exit code of a command that has ended. What kept it from being done is told in one line: it is for whoever typed
/// the command, who has no use for a backtrace, whatever `RUST_BACKTRACE` says.
pub fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // Nothing is to be done when the standard error is closed.
        let _ = writeln!(std::io::stderr(), "Error: {error:#}");
        ExitCode::from(if error.is::<Refused>() { REFUSED } else { ERROR })
    })
}

/// Does what the arguments say. The exit code is 0, or 3 when what was asked for is refused.
///
/// # Errors
/// Whatever kept it from being done; the exit code is then 1.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match arguments.command {
        Command::Crd => crd::print(&mut out),
        Command::Validate(what) => validate::run(&what, &mut out),
        Command::Simulate(what) => simulate::run(&what, &mut out),
        Command::Operator(what) => operator::run(what),
        Command::Guard(what) => guard::run(what),
        Command::Agent(what) => agent::run(what),
        Command::Unpack(what) => unpack::run(&what),
    }
    .map(ExitCode::from)
}
