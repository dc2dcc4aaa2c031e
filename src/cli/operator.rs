//! `waltree operator`.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Args;
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::OK;
use crate::operator::{self, Settings, telemetry};

/// How the operator runs.
#[derive(Debug, Args)]
pub struct Operator {
    /// Tend only the topologies of this namespace. Default: of all.
    #[arg(long, env = "WALTREE_NAMESPACE")]
    namespace: Option<String>,
    /// Where /livez, /readyz and /metrics are answered.
    #[arg(long, env = "WALTREE_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Our name, unique among the operators of one Lease. Default: the host's name, which is the pod's.
    #[arg(long, env = "WALTREE_IDENTITY")]
    identity: Option<String>,
    /// Namespace of the Lease by which one operator leads. Default: that of the kubeconfig, or the pod's.
    #[arg(long, env = "WALTREE_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// The image that pods copy this program from: that of the operator itself.
    #[arg(long, env = "WALTREE_IMAGE", default_value = concat!("waltree:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// What is logged: a level, or a list such as `info,waltree::observe=debug`.
    #[arg(long, env = "WALTREE_LOG", default_value = "info")]
    log: String,
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot begin: no cluster is named, or the address is taken.
pub(super) fn run(what: Operator) -> anyhow::Result<u8> {
    telemetry::start(&what.log).with_context(|| format!("--log {:?}", what.log))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    runtime.block_on(serve(what))?;
    Ok(OK)
}

async fn serve(what: Operator) -> anyhow::Result<()> {
    let config = Config::infer().await.context("no cluster: set KUBECONFIG, or run in a pod")?;
    let settings = Settings {
        namespace: what.namespace,
        listen: what.listen,
        identity: what.identity.map_or_else(hostname, Ok)?,
        program: what.image,
        lease_namespace: what.lease_namespace.unwrap_or_else(|| config.default_namespace.clone()),
    };
    let client = Client::try_from(config).context("the cluster's address or certificate")?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone())?);
    operator::run(settings, client, stop).await.context("the operator")
}

fn hostname() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("the host has no name; set --identity")?;
    name.into_string().map_err(|name| anyhow::anyhow!("the host's name {} is no text; set --identity", name.display()))
}

/// Cancels when SIGTERM or SIGINT comes.
///
/// # Errors
/// When the kernel does not let us hear of them.
pub(super) fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    })
}
