//! The kubectl plugin: `kubectl waltree` finds this binary as `kubectl-waltree` in the PATH.

use std::process::ExitCode;

use clap::Parser;
use waltree::cli::plugin;

#[tokio::main]
async fn main() -> ExitCode {
    waltree::cli::ended(plugin::run(plugin::Arguments::parse(), &mut std::io::stdout()).await)
}
