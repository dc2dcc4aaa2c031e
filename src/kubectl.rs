//! The kubectl plugin: `kubectl waltree` finds this binary as `kubectl-waltree` in the PATH.

use std::process::ExitCode;

use waltree::cli::{self, plugin};

#[tokio::main]
async fn main() -> ExitCode {
    match cli::arguments() {
        Ok(arguments) => cli::ended(plugin::run(arguments, &mut std::io::stdout()).await),
        Err(code) => code,
    }
}
