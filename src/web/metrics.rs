//! Figures for Prometheus. Labels are bounded: names of topologies and nodes that exist, and words of closed lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::model::{Diagnosis, NodeName};

/// Which topology.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct Tree {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub topology: String,
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.topology)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfNode {
    namespace: String,
    topology: String,
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfDiagnosis {
    namespace: String,
    topology: String,
    diagnosis: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTopology {
    namespace: String,
    topology: String,
}

impl From<&Tree> for OfTopology {
    fn from(Tree { namespace, topology }: &Tree) -> Self {
        Self { namespace: namespace.clone(), topology: topology.clone() }
    }
}

/// What is shown of one topology.
#[derive(Default)]
struct Labels {
    nodes: BTreeSet<OfNode>,
    upstreams: BTreeSet<OfNode>,
    diagnoses: BTreeSet<OfDiagnosis>,
}

/// Every figure, and the registry that prints them.
pub struct Metrics {
    registry: Registry,
    reconcile_duration_seconds: Histogram,
    steps: Family<OfStep, Counter>,
    node_lag_seconds: Family<OfNode, Gauge<f64, std::sync::atomic::AtomicU64>>,
    findings: Family<OfDiagnosis, Gauge>,
    retained_wal_bytes: Family<OfNode, Gauge>,
    status_writes: Counter,
    topologies: Gauge,
    topology_accepted: Family<OfTopology, Gauge>,
    leading: Gauge,
    /// What is shown of each topology, so that it can be taken away.
    shown: Mutex<BTreeMap<Tree, Labels>>,
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to 16 s: a pass is milliseconds, and seconds when a server has to be waited for.
        let mut this = Self {
            registry: Registry::with_prefix("waltree"),
            reconcile_duration_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            steps: Family::default(),
            node_lag_seconds: Family::default(),
            findings: Family::default(),
            retained_wal_bytes: Family::default(),
            status_writes: Counter::default(),
            topologies: Gauge::default(),
            topology_accepted: Family::default(),
            leading: Gauge::default(),
            shown: Mutex::default(),
        };
        let (registry, clone) = (&mut this.registry, this.reconcile_duration_seconds.clone());
        registry.register("reconcile_duration_seconds", "Time of one pass over one topology", clone);
        registry.register("steps", "Steps carried out, by kind and outcome (ok, failed)", this.steps.clone());
        let lag = this.node_lag_seconds.clone();
        registry.register(
            "node_lag_seconds",
            "How old what readers of a node with a path to the primary see is at most",
            lag,
        );
        let findings = this.findings.clone();
        registry.register("findings", "Nodes of a topology with a diagnosis; 0 is not shown", findings);
        let retained = this.retained_wal_bytes.clone();
        registry.register("retained_wal_bytes", "WAL that idle slots keep on a server beyond what it needs", retained);
        registry.register("status_writes", "Writes of a topology's status", this.status_writes.clone());
        registry.register("topologies", "Topologies that this operator tends", this.topologies.clone());
        let accepted = this.topology_accepted.clone();
        registry.register("topology_accepted", "1 while its spec can be acted on; 0: nobody looks at it", accepted);
        registry.register("leading", "1 while this operator leads", this.leading.clone());
        this
    }
}

impl Metrics {
    /// One pass took so long.
    pub fn passed(&self, took: Duration) {
        self.reconcile_duration_seconds.observe(took.as_secs_f64());
    }

    /// One step of a kind was carried out, or failed.
    pub fn stepped(&self, kind: &'static str, ok: bool) {
        self.steps.get_or_create(&OfStep { kind, outcome: if ok { "ok" } else { "failed" } }).inc();
    }

    /// The status of a topology was written.
    pub fn wrote_status(&self) {
        self.status_writes.inc();
    }

    /// Whether we lead.
    pub fn leads(&self, leads: bool) {
        self.leading.set(i64::from(leads));
    }

    /// Whether the spec of a topology can be acted on. While it cannot, nothing else is shown of it.
    pub fn accepted(&self, tree: &Tree, accepted: bool) {
        self.topology_accepted.get_or_create(&tree.into()).set(i64::from(accepted));
    }

    /// Shows what one pass saw of a topology, in place of what was shown before.
    pub fn show(
        &self,
        tree: &Tree,
        lag: &BTreeMap<NodeName, Duration>,
        findings: &BTreeMap<Diagnosis, usize>,
        retained_bytes: &BTreeMap<NodeName, u64>,
    ) {
        let mut now = Labels::default();
        let Tree { namespace, topology } = tree;
        for (node, lag) in lag {
            let (namespace, topology) = (namespace.clone(), topology.clone());
            let labels = OfNode { namespace, topology, node: node.to_string() };
            self.node_lag_seconds.get_or_create(&labels).set(lag.as_secs_f64());
            now.nodes.insert(labels);
        }
        for (diagnosis, count) in findings {
            let (namespace, topology) = (namespace.clone(), topology.clone());
            let labels = OfDiagnosis { namespace, topology, diagnosis: diagnosis.into() };
            self.findings.get_or_create(&labels).set(i64::try_from(*count).unwrap_or(i64::MAX));
            now.diagnoses.insert(labels);
        }
        for (node, bytes) in retained_bytes {
            let (namespace, topology) = (namespace.clone(), topology.clone());
            let labels = OfNode { namespace, topology, node: node.to_string() };
            self.retained_wal_bytes.get_or_create(&labels).set(i64::try_from(*bytes).unwrap_or(i64::MAX));
            now.upstreams.insert(labels);
        }
        self.replace(tree, Some(now));
    }

    /// Shows nothing of a topology any more.
    pub fn forget(&self, tree: &Tree) {
        self.replace(tree, None);
    }

    fn replace(&self, tree: &Tree, now: Option<Labels>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shown.remove(tree).unwrap_or_default();
        let forgotten = now.is_none();
        let kept = now.unwrap_or_default();
        for gone in before.nodes.difference(&kept.nodes) {
            self.node_lag_seconds.remove(gone);
        }
        for gone in before.upstreams.difference(&kept.upstreams) {
            self.retained_wal_bytes.remove(gone);
        }
        for gone in before.diagnoses.difference(&kept.diagnoses) {
            self.findings.remove(gone);
        }
        if forgotten {
            self.topology_accepted.remove(&tree.into());
        } else {
            shown.insert(tree.clone(), kept);
        }
        self.topologies.set(i64::try_from(shown.len()).unwrap_or(i64::MAX));
    }

    /// Everything, as OpenMetrics text.
    ///
    /// # Errors
    /// When a figure cannot be printed.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        Tree { namespace: "shop".to_owned(), topology: "orders".to_owned() }
    }

    fn lag(node: &str) -> BTreeMap<NodeName, Duration> {
        BTreeMap::from([(NodeName::new(node).unwrap(), Duration::from_millis(1500))])
    }

    #[test]
    fn what_is_counted_is_printed() {
        let metrics = Metrics::default();
        metrics.passed(Duration::from_millis(3));
        metrics.stepped("SetRoute", true);
        metrics.stepped("SetRoute", false);
        metrics.wrote_status();
        metrics.leads(true);
        metrics.accepted(&tree(), true);
        let retained = BTreeMap::from([(NodeName::new("r1").unwrap(), 3 << 20)]);
        metrics.show(&tree(), &lag("l1"), &BTreeMap::from([(Diagnosis::DeadRelay, 2)]), &retained);
        let text = metrics.text().unwrap();
        for line in [
            "waltree_reconcile_duration_seconds_count 1",
            "waltree_steps_total{kind=\"SetRoute\",outcome=\"failed\"} 1",
            "waltree_steps_total{kind=\"SetRoute\",outcome=\"ok\"} 1",
            "waltree_node_lag_seconds{namespace=\"shop\",topology=\"orders\",node=\"l1\"} 1.5",
            "waltree_findings{namespace=\"shop\",topology=\"orders\",diagnosis=\"DeadRelay\"} 2",
            "waltree_retained_wal_bytes{namespace=\"shop\",topology=\"orders\",node=\"r1\"} 3145728",
            "waltree_status_writes_total 1",
            "waltree_topologies 1",
            "waltree_topology_accepted{namespace=\"shop\",topology=\"orders\"} 1",
            "waltree_leading 1",
        ] {
            assert!(text.lines().any(|printed| printed == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_gone_is_not_shown_any_more() {
        let metrics = Metrics::default();
        let retained = BTreeMap::from([(NodeName::new("r1").unwrap(), 1)]);
        metrics.show(&tree(), &lag("l1"), &BTreeMap::from([(Diagnosis::DeadRelay, 2)]), &retained);
        metrics.show(&tree(), &lag("l2"), &BTreeMap::new(), &BTreeMap::new());
        metrics.accepted(&tree(), false);
        let text = metrics.text().unwrap();
        assert!(
            !text.contains("\"l1\"")
                && !text.contains("\"r1\"")
                && !text.contains("DeadRelay")
                && text.contains("\"l2\""),
            "{text}"
        );
        metrics.forget(&tree());
        let text = metrics.text().unwrap();
        assert!(!text.contains("orders") && text.contains("waltree_topologies 0"), "{text}");
    }
}
