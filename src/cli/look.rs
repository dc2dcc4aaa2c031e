//! Looks at the servers of a topology from here, without the operator and without writing anything.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kube::api::Api;
use kube::{Client, ResourceExt as _};

use super::Refused;
use crate::api::{ReplicaTopology, ReplicaTopologySpec};
use crate::model::check::Rejection;
use crate::model::{ByNode, Desired, Diagnosis, NodeName, NodeView, Observed};
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
    /// What each server said in the look before that.
    pub earlier: ByNode<NodeView>,
    /// What would be done.
    pub plan: Plan,
}

/// The topology of that name.
///
/// # Errors
/// When the API server does not give it.
pub async fn topology(client: &Client, namespace: &str, name: &str) -> anyhow::Result<ReplicaTopology> {
    let found = applied(client, namespace, name).await?;
    found.ok_or_else(|| anyhow!("there is no ReplicaTopology {namespace}/{name}"))
}

/// The topology of that name, if there is one.
///
/// # Errors
/// When the API server does not tell.
pub async fn applied(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Option<ReplicaTopology>> {
    let topologies: Api<ReplicaTopology> = Api::namespaced(client.clone(), namespace);
    let found = topologies.get_opt(name).await;
    found.with_context(|| format!("cannot read ReplicaTopology {namespace}/{name}"))
}

/// The topology of that name as it would be with the spec of a file: of one that is not applied yet, nothing is remembered.
///
/// # Errors
/// When the spec is refused: that says nothing of the one that is applied.
pub fn with_the_spec_of(
    file: &Path,
    name: &str,
    spec: ReplicaTopologySpec,
    applied: Option<ReplicaTopology>,
) -> anyhow::Result<ReplicaTopology> {
    if let Err(rejections) = Desired::try_from(&spec) {
        let (file, all) = (file.display(), lines(&rejections));
        let meanwhile = match applied {
            Some(_) => format!("{name} as it is applied is not touched by that."),
            None => format!("Nothing is applied by the name {name}."),
        };
        let told =
            format!("the file {file} is refused, so nothing is planned by it:\n{all}\n\nCorrect the file. {meanwhile}");
        return Err(Refused(told).into());
    }
    Ok(match applied {
        Some(applied) => ReplicaTopology { spec, ..applied },
        None => ReplicaTopology::new(name, spec),
    })
}

/// What can be asked all the same when what is applied is refused.
fn refused(name: &str, rejections: &[Rejection]) -> anyhow::Error {
    anyhow!(
        "{name} is refused, so which servers to ask and what for is not to be told:\n{}\n\nCorrect it; until then \
         nothing is done about the tree, and its servers stream on. The tree is shown by `kubectl waltree adopt ADDRESS` \
         from any of them, what happened by `kubectl waltree history {name}`, and a corrected manifest is tried out by \
         `kubectl waltree plan {name} -f FILE`.",
        lines(rejections)
    )
}

fn lines(rejections: &[Rejection]) -> String {
    rejections.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Asks every server twice, a tick apart, so that a position that stands still can be told from one that moves.
///
/// # Errors
/// When the spec is refused.
pub async fn look(client: &Client, namespace: &str, topology: &ReplicaTopology) -> anyhow::Result<Look> {
    let desired = Desired::try_from(&topology.spec).map_err(|rejections| refused(&topology.name_any(), &rejections))?;
    let timing = Timing { tick: Duration::from_millis(500), ..Timing::default() };
    let wallet = Wallet::secrets(Api::namespaced(client.clone(), namespace));
    // Without a fence nothing can be written, whatever is asked.
    let mut memory = remembered(topology, clock::now());
    // What the operator knows from before, and what one look from here does not show: who gets no children yet.
    for node in topology.status.iter().flat_map(|status| &status.nodes) {
        let settles = node.reason.as_deref() == Some(Diagnosis::Settling.into());
        if let Some(name) = NodeName::new(&node.name).ok().filter(|_| settles) {
            memory.settles(&name, clock::now(), &desired.healing);
        }
    }
    let cluster = LiveCluster::new(wallet, timing, None, memory);
    cluster.set_access(accesses(topology));
    let mut earlier = cluster.observe(&desired).await.nodes;
    tokio::time::sleep(timing.tick + timing.tick / 2).await;
    let mut observed = cluster.observe(&desired).await;
    let mut plan = plan(&desired, &observed, cluster.now());
    if !desired.nodes.keys().all(|node| plan.sight.is_rooted(node)) {
        // Whether it is more than a moment shows after the patience only.
        tokio::time::sleep(Duration::from_millis(desired.healing.suspect_after_milliseconds)).await;
        earlier = cluster.observe(&desired).await.nodes;
        tokio::time::sleep(timing.tick + timing.tick / 2).await;
        observed = cluster.observe(&desired).await;
        plan = crate::plan::plan(&desired, &observed, cluster.now());
    }
    Ok(Look { desired, observed, earlier, plan })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said_of_the_file_and_not_of_what_is_applied() {
        let spec = |upstream: &str| -> ReplicaTopologySpec {
            let host = |name: &str| json!([{"name": name, "address": "192.0.2.1"}]);
            serde_json::from_value(json!({"groups": [
                {"name": "core", "hosts": host("core-1")},
                {"name": "eu", "upstreams": [upstream], "hosts": [{"name": "eu-1", "address": "192.0.2.2"}]},
            ]}))
            .unwrap()
        };
        let file = Path::new("new.yaml");
        let mut applied = ReplicaTopology::new("orders", spec("core"));
        applied.metadata.uid = Some("1".to_owned());
        let with = |upstream: &str, applied: Option<&ReplicaTopology>| {
            with_the_spec_of(file, "orders", spec(upstream), applied.cloned()).map_err(|error| error.to_string())
        };
        let told = with("cor", Some(&applied)).unwrap_err();
        assert!(told.starts_with("the file new.yaml is refused, so nothing is planned by it:\n"), "{told}");
        assert!(told.contains("spec.groups[1].upstreams[0]: eu names cor, and there is no such group"), "{told}");
        assert!(told.ends_with("orders as it is applied is not touched by that."), "{told}");
        assert!(with("cor", None).unwrap_err().ends_with("Nothing is applied by the name orders."));

        applied.spec = spec("cor");
        let told = refused("orders", &Desired::try_from(&applied.spec).unwrap_err()).to_string();
        assert!(told.starts_with("orders is refused, ") && told.contains("eu names cor"), "{told}");
        assert!(told.contains("`kubectl waltree history orders`") && told.contains("`kubectl waltree plan orders -f"));
        let corrected = with("core", Some(&applied)).unwrap();
        assert_eq!((corrected.metadata.uid.as_deref(), &corrected.spec), (Some("1"), &spec("core")));
        assert_eq!(with("core", None).unwrap().metadata.name.as_deref(), Some("orders"));
    }
}
