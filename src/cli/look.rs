//! Looks at the servers of a topology from here, without the operator and without writing anything.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kube::api::Api;
use kube::{Client, ResourceExt as _};

use crate::api::ReplicaTopology;
use crate::model::{Desired, Observed};
use crate::observe::{Timing, Wallet};
use crate::operator::{Cluster as _, LiveCluster, accesses, clock, remembered};
use crate::plan::{Plan, plan};

/// What is wanted, what is seen and what would be done.
#[derive(Debug)]
pub struct Look {
    /// What is wanted.
    pub desired: Desired,
    /// What is seen.
    pub observed: Observed,
    /// What would be done.
    pub plan: Plan,
}

/// The topology of that name.
///
/// # Errors
/// When the API server does not give it.
pub async fn topology(client: &Client, namespace: &str, name: &str) -> anyhow::Result<ReplicaTopology> {
    let topologies: Api<ReplicaTopology> = Api::namespaced(client.clone(), namespace);
    let found = topologies.get_opt(name).await;
    let found = found.with_context(|| format!("cannot read ReplicaTopology {namespace}/{name}"))?;
    found.ok_or_else(|| anyhow!("there is no ReplicaTopology {namespace}/{name}"))
}

/// Asks every server twice, a tick apart, so that a position that stands still can be told from one that moves.
///
/// # Errors
/// When the spec is refused.
pub async fn look(client: &Client, namespace: &str, topology: &ReplicaTopology) -> anyhow::Result<Look> {
    let desired = Desired::try_from(&topology.spec).map_err(|rejections| {
        let all: Vec<String> = rejections.iter().map(ToString::to_string).collect();
        let name = topology.name_any();
        anyhow!(
            "{name} is refused, so which servers to ask and what for is not to be told:\n{}\n\nCorrect it; until then \
             nothing is done about the tree, and its servers stream on. The tree is shown by `kubectl waltree adopt ADDRESS` \
             from any of them, what happened by `kubectl waltree history {name}`, and a corrected manifest is tried out by \
             `kubectl waltree plan {name} -f FILE`.",
            all.join("\n")
        )
    })?;
    let timing = Timing { tick: Duration::from_millis(500), ..Timing::default() };
    let wallet = Wallet::secrets(Api::namespaced(client.clone(), namespace));
    // Without a fence nothing can be written, whatever is asked.
    let cluster = LiveCluster::new(wallet, timing, None, remembered(topology, clock::now()));
    cluster.set_access(accesses(&topology.spec));
    cluster.observe(&desired).await;
    tokio::time::sleep(timing.tick + timing.tick / 2).await;
    let mut observed = cluster.observe(&desired).await;
    let mut plan = plan(&desired, &observed, cluster.now());
    if !desired.nodes.keys().all(|node| plan.sight.is_rooted(node)) {
        // Whether it is more than a moment shows after the patience only.
        tokio::time::sleep(Duration::from_millis(desired.healing.suspect_after_milliseconds) + timing.tick).await;
        observed = cluster.observe(&desired).await;
        plan = crate::plan::plan(&desired, &observed, cluster.now());
    }
    Ok(Look { desired, observed, plan })
}
