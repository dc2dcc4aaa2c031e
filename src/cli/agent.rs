//! `waltree agent`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use nix::sys::signal::SigSet;
use tokio_util::sync::CancellationToken;

use super::OK;
use crate::agent;
use crate::operator::telemetry;

/// Where the agent has its orders.
#[derive(Debug, Args)]
pub struct Agent {
    /// The file of its orders.
    #[arg(long, env = "WALTREE_ORDERS")]
    orders: PathBuf,
    /// What is logged: a level, or a list such as `info,waltree::agent=debug`.
    #[arg(long, env = "WALTREE_LOG", default_value = "info")]
    log: String,
}

/// Runs until SIGTERM, and until PostgreSQL has stopped then.
///
/// # Errors
/// When there are no orders.
pub(super) fn run(what: &Agent) -> anyhow::Result<u8> {
    // The guard has them blocked, and what is blocked is inherited.
    SigSet::all().thread_unblock().context("unblock signals")?;
    telemetry::start(&what.log).with_context(|| format!("--log {:?}", what.log))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(super::operator::stop_on_signal(stop.clone())?);
        agent::run(&what.orders, stop).await.context("the agent")
    })?;
    // A thread that waits for the guard's next word would hold the runtime back.
    runtime.shutdown_background();
    Ok(OK)
}
