//! The `waltree` binary: reads its arguments and hands over to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    waltree::cli::ended(waltree::cli::run(waltree::cli::Arguments::parse()))
}
