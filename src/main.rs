//! The `waltree` binary: reads its arguments and hands over to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> anyhow::Result<ExitCode> {
    waltree::cli::run(waltree::cli::Arguments::parse())
}
