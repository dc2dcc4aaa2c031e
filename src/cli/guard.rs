//! `waltree guard`.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::OK;
use crate::guard::{self, Programs};

/// What the guard runs.
#[derive(Debug, Args)]
pub struct Guard {
    /// The agent; given again for each of its arguments. Default: this program's own, which finds its orders by
    /// `WALTREE_ORDERS`.
    #[arg(long, allow_hyphen_values = true)]
    agent: Vec<OsString>,
    /// After it is told to end: seconds until PostgreSQL is stopped, where the agent has not stopped it. Less than the
    /// grace period of the pod.
    #[arg(long, default_value_t = 20)]
    stop_after_seconds: u32,
    /// PostgreSQL and its arguments.
    #[arg(last = true, required = true)]
    postgres: Vec<OsString>,
}

/// Runs until SIGTERM, and until everything below has ended then.
///
/// # Errors
/// When the kernel refuses what cannot be done without.
pub(super) fn run(what: Guard) -> anyhow::Result<u8> {
    let stop_after = Duration::from_secs(what.stop_after_seconds.into());
    let own = || Ok::<_, std::io::Error>(vec![std::env::current_exe()?.into(), "agent".into()]);
    let agent = if what.agent.is_empty() { own().context("where this program is")? } else { what.agent };
    guard::run(&Programs { agent, postgres: what.postgres, stop_after })?;
    Ok(OK)
}
