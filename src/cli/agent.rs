//! `waltree agent`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use nix::sys::signal::SigSet;
use tokio_util::sync::CancellationToken;

use super::OK;
use crate::agent::{self, Place, Settings};
use crate::operator::telemetry;

/// Where the agent has its node and its orders.
#[derive(Debug, Args)]
pub struct Agent {
    /// The file of its orders: what was ordered last.
    #[arg(long, env = "WALTREE_ORDERS")]
    orders: PathBuf,
    /// Where the data of its PostgreSQL are. It makes them, and what is half made beside them.
    #[arg(long, env = "WALTREE_DATA")]
    data: PathBuf,
    /// The folder of the socket of its PostgreSQL: whoever can enter it is let in as anybody.
    #[arg(long, env = "WALTREE_SOCKET")]
    socket: PathBuf,
    /// The port of its PostgreSQL.
    #[arg(long, env = "WALTREE_PORT", default_value_t = 5432)]
    port: u16,
    /// The folder of its certificate (tls.crt, tls.key) and of that of the authority (ca.crt). Default: none, and no TLS.
    #[arg(long, env = "WALTREE_CERTIFICATES")]
    certificates: Option<PathBuf>,
    /// Where it takes orders from an operator that shows its certificate. Default: nowhere; whoever writes the file orders.
    #[arg(long, env = "WALTREE_LISTEN", requires = "certificates")]
    listen: Option<SocketAddr>,
    /// Where it says at /readyz, to anybody, whether its PostgreSQL answers. Default: nowhere.
    #[arg(long, env = "WALTREE_HEALTH")]
    health: Option<SocketAddr>,
    /// What is logged: a level, or a list such as `info,waltree::agent=debug`.
    #[arg(long, env = "WALTREE_LOG", default_value = "info")]
    log: String,
}

/// Runs until SIGTERM, and until PostgreSQL has stopped then.
///
/// # Errors
/// When it cannot begin, as without orders.
pub(super) fn run(what: Agent) -> anyhow::Result<u8> {
    // The guard has them blocked, and what is blocked is inherited.
    SigSet::all().thread_unblock().context("unblock signals")?;
    telemetry::start(&what.log).with_context(|| format!("--log {:?}", what.log))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(super::operator::stop_on_signal(stop.clone())?);
        let Agent { orders, data, socket, port, certificates, listen, health, .. } = what;
        let place = Place { data, socket, port, certificates };
        agent::run(Settings { orders, place, listen, health }, stop).await.context("the agent")
    })?;
    // A thread that waits for the guard's next word would hold the runtime back.
    runtime.shutdown_background();
    Ok(OK)
}
