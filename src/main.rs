//! The `waltree` binary: reads its arguments and hands over to the library.

use std::process::ExitCode;

use waltree::cli;

fn main() -> ExitCode {
    match cli::arguments() {
        Ok(arguments) => cli::ended(cli::run(arguments)),
        Err(code) => code,
    }
}
