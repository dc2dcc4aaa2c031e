//! Tends topologies under one term of leadership: gives each its world, walks the straight line, and passes on what came
//! of it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::runtime::events::Reporter;
use kube::runtime::finalizer::{self, finalizer};
use kube::{Client, ResourceExt as _};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::clerk::Clerk;
use super::clock;
use super::events::{Known, Notice, acknowledged, deeds, slots_left};
use super::leadership::Term;
use super::live::LiveCluster;
use super::pods::Keeper;
use super::reach::{accesses, remembered};
use super::reconcile::{Pass, reconcile};
use super::wake::Waker;
use crate::api::{ReplicaTopology, ReplicaTopologyStatus};
use crate::model::{Diagnosis, Millis, NodeName};
use crate::observe::{Fence, Timing, Wallet};
use crate::plan::{Done, Outcome, Step, TEARDOWN_MILLISECONDS};
use crate::web::{Metrics, Tree};

/// Keeps a topology that is being deleted until its idle slots are dropped.
pub const FINALIZER: &str = "waltree.dev/teardown";
/// How long a deletion may last after the last slots became free to be dropped, in milliseconds.
const LAST_PASSES_MILLISECONDS: u64 = 5_000;
/// Deadline of a change of the finalizer.
const FINALIZER_REQUEST: Duration = Duration::from_secs(30);
/// When a pass that failed is repeated.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a pass has to be repeated.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The topology is being deleted, and slots are still to be dropped.
    #[error("the teardown goes on")]
    TearingDown(Duration),
    /// The finalizer could not be set or removed.
    #[error("the finalizer could not be changed")]
    Finalizer(#[source] Box<finalizer::Error<Infallible>>),
    /// The API server said nothing.
    #[error("no answer of the API server within {FINALIZER_REQUEST:?}")]
    Silent,
}

/// What all topologies of one term share.
pub struct Desk {
    /// The client for everything.
    pub client: Client,
    /// Our right to write.
    pub term: Term,
    /// Who we are.
    pub identity: String,
    /// The image of our own program.
    pub program: String,
    /// Who we are in events.
    pub reporter: Reporter,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Wakes the controller.
    pub waker: Waker,
    /// Every topology that is tended.
    pub tended: PlainMutex<BTreeMap<Tree, Arc<Mutex<Tended>>>>,
}

/// One topology that is tended.
pub struct Tended {
    cluster: Arc<LiveCluster>,
    keeper: Arc<Keeper>,
    clerk: Clerk,
    reported: Option<ReplicaTopologyStatus>,
    known: Known,
    failures: BTreeSet<String>,
    deleting_since: Option<Millis>,
    slots_left: BTreeSet<NodeName>,
    waking: JoinHandle<()>,
}

impl Drop for Tended {
    fn drop(&mut self) {
        self.waking.abort();
        self.keeper.stop();
    }
}

impl Desk {
    /// One pass over one topology, or a change of its finalizer: before the first pass, and after the last.
    ///
    /// # Errors
    /// [`Trouble`] when it has to be repeated.
    pub async fn tend(self: Arc<Self>, topology: Arc<ReplicaTopology>) -> Result<Action, Trouble> {
        if topology.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            // No deadline: what was written to servers is remembered when a pass ends, and each of its parts has one.
            if topology.metadata.deletion_timestamp.is_none() {
                return Ok(Action::requeue(self.pass(&topology).await.look_again_after));
            }
            self.tear_down(&topology).await?;
        }
        let topologies = self.topologies(&topology);
        let request = finalizer(&topologies, FINALIZER, topology, |_| async { Ok(Action::await_change()) });
        match tokio::time::timeout(FINALIZER_REQUEST, request).await {
            Ok(changed) => changed.map_err(|error| Trouble::Finalizer(Box::new(error))),
            Err(_) => Err(Trouble::Silent),
        }
    }

    /// What to do after trouble.
    pub fn after(trouble: &Trouble) -> Action {
        Action::requeue(match trouble {
            Trouble::TearingDown(again) => *again,
            Trouble::Finalizer(_) | Trouble::Silent => AGAIN_AFTER,
        })
    }

    /// Ends everything about a topology that is gone.
    pub fn forget(&self, tree: &Tree) {
        self.tended.lock().unwrap_or_else(PoisonError::into_inner).remove(tree);
        self.metrics.forget(tree);
    }

    async fn tear_down(&self, topology: &ReplicaTopology) -> Result<(), Trouble> {
        let tended = self.tended(topology);
        let since = *tended.lock().await.deleting_since.get_or_insert_with(clock::now);
        let pass = self.pass(topology).await;
        if is_torn_down(pass.at_rest, since, clock::now()) {
            // It is not tried again.
            tended.lock().await.tell_of_slots(&pass.not_dropped, true);
            self.forget(&tree(topology));
            return Ok(());
        }
        Err(Trouble::TearingDown(pass.look_again_after))
    }

    async fn pass(&self, topology: &ReplicaTopology) -> Pass {
        let began = clock::now();
        let tended = self.tended(topology);
        let mut tended = tended.lock().await;
        tended.cluster.set_access(accesses(topology));
        tended.keeper.set(Arc::new(topology.clone()));
        // The watch may not have shown us yet what we wrote.
        let previous = tended.reported.as_ref().or(topology.status.as_ref());
        let pass = reconcile(topology, previous, tended.cluster.as_ref(), Timestamp::now()).await;
        tended.reported = Some(pass.status.clone());
        tended.clerk.report(&pass.status);
        // What is wrong with a spec says nothing about what is wrong with servers.
        let news = if pass.accepted { tended.known.learn(&pass.findings, clock::now()) } else { Vec::new() };
        log_news(&tree(topology).to_string(), &news);
        for notice in
            news.into_iter().chain(pass.acknowledged.as_ref().and_then(acknowledged)).chain(deeds(&pass.outcome))
        {
            tended.clerk.tell(notice);
        }
        if pass.accepted {
            tended.tell_of_slots_left(&pass);
        }
        tended.log(&tree(topology).to_string(), &pass.outcome);
        self.count(topology, &pass, Duration::from_millis(clock::now().since(began)));
        pass
    }

    fn tended(&self, topology: &ReplicaTopology) -> Arc<Mutex<Tended>> {
        let mut all = self.tended.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(tree(topology)).or_insert_with(|| Arc::new(Mutex::new(self.begin(topology)))))
    }

    fn begin(&self, topology: &ReplicaTopology) -> Tended {
        let Tree { namespace, .. } = tree(topology);
        let fence = Fence { scope: tree(topology).to_string(), term: self.term.0, identity: self.identity.clone() };
        let wallet = Wallet::secrets(Api::namespaced(self.client.clone(), &namespace));
        let cluster = LiveCluster::new(wallet, Timing::default(), Some(fence), remembered(topology, clock::now()));
        let (client, term) = (self.client.clone(), self.term.0);
        let keeper = Arc::new(Keeper::new(client, Arc::new(topology.clone()), self.program.clone(), term));
        let cluster = Arc::new(cluster.with_keeper(Arc::clone(&keeper)));
        let (waker, woken) = (self.waker.clone(), Arc::clone(&cluster));
        let waking = tokio::spawn(async move {
            loop {
                woken.changed().await;
                waker.wake();
            }
        });
        let (events, metrics) = ((self.client.clone(), self.reporter.clone()), Arc::clone(&self.metrics));
        Tended {
            cluster,
            keeper,
            clerk: Clerk::new(topology, self.topologies(topology), events, metrics),
            reported: None,
            known: Known::default(),
            failures: BTreeSet::new(),
            deleting_since: None,
            slots_left: BTreeSet::new(),
            waking,
        }
    }

    fn count(&self, topology: &ReplicaTopology, pass: &Pass, took: Duration) {
        self.metrics.passed(took);
        for done in &pass.outcome.done {
            self.metrics.stepped((&done.planned.step).into(), done.result.is_ok());
        }
        let mut findings: BTreeMap<Diagnosis, usize> = BTreeMap::new();
        for finding in &pass.findings {
            *findings.entry(finding.diagnosis).or_default() += 1;
        }
        self.metrics.accepted(&tree(topology), pass.accepted);
        self.metrics.show(&tree(topology), &pass.lag, &findings, &pass.retained_bytes);
    }

    fn topologies(&self, topology: &ReplicaTopology) -> Api<ReplicaTopology> {
        Api::namespaced(self.client.clone(), &topology.namespace().unwrap_or_default())
    }
}

impl Tended {
    /// Who is not seen has a minute to come back before a deletion gives up what is there.
    fn tell_of_slots_left(&mut self, pass: &Pass) {
        let deleting_for = self.deleting_since.map(|since| clock::now().since(since));
        if deleting_for.is_some_and(|milliseconds| milliseconds < TEARDOWN_MILLISECONDS) {
            return;
        }
        self.slots_left.retain(|server| pass.out_of_reach.contains_key(server));
        self.tell_of_slots(&pass.out_of_reach, deleting_for.is_some());
    }

    fn tell_of_slots(&mut self, left: &BTreeMap<NodeName, BTreeSet<NodeName>>, deleting: bool) {
        for (server, owners) in left {
            if self.slots_left.insert(server.clone()) {
                self.clerk.tell(slots_left(server, owners, deleting));
            }
        }
    }

    /// Logs what was done. A step that fails again and again in the same way is told once.
    fn log(&mut self, topology: &str, outcome: &Outcome) {
        let mut failures = BTreeSet::new();
        for Done { planned, result } in &outcome.done {
            let step: &'static str = (&planned.step).into();
            let (server, node, why) = (planned.step.server(), planned.step.owner(), planned.why);
            match result {
                Ok(()) if is_routine(&planned.step) => tracing::debug!(topology, step, %node, %server, %why, "done"),
                Ok(()) => tracing::info!(topology, step, %node, %server, %why, "done"),
                Err(error) => {
                    let told = format!("{step} {node} {server} {error}");
                    if !self.failures.contains(&told) {
                        tracing::warn!(topology, step, %node, %server, %why, error, "failed");
                    }
                    failures.insert(told);
                }
            }
        }
        self.failures = failures;
    }
}

/// What is wrong now and what is over, for who reads logs and no events.
fn log_news(topology: &str, news: &[Notice]) {
    for Notice { warning, reason, node, note, .. } in news {
        if *warning {
            tracing::warn!(topology, %node, reason, "{note}");
        } else {
            tracing::info!(topology, %node, reason, "{note}");
        }
    }
}

/// Whether a deletion waits for nothing any more: all is done, or who is away has been waited for long enough.
fn is_torn_down(at_rest: bool, since: Millis, now: Millis) -> bool {
    at_rest || now.since(since) >= TEARDOWN_MILLISECONDS + LAST_PASSES_MILLISECONDS
}

/// Steps that an undisturbed tree takes all the time.
fn is_routine(step: &Step) -> bool {
    matches!(step, Step::Heartbeat { .. } | Step::AdvanceSlot { .. } | Step::Reload { .. } | Step::TryDisk { .. })
}

/// Which topology this is.
pub fn tree(topology: &ReplicaTopology) -> Tree {
    Tree { namespace: topology.namespace().unwrap_or_default(), topology: topology.name_any() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Finding;

    #[test]
    fn a_deletion_waits_a_minute_for_who_is_away_and_not_at_all_when_all_is_done() {
        let since = Millis(5_000);
        assert!(is_torn_down(true, since, since));
        assert!(!is_torn_down(false, since, Millis(69_999)));
        assert!(is_torn_down(false, since, Millis(70_000)));
    }

    #[derive(Clone, Default)]
    struct Log(Arc<PlainMutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// The lines that were logged since this was asked last.
        fn lines(&self) -> Vec<String> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            String::from_utf8(bytes).unwrap().lines().map(|line| line.trim_start().to_owned()).collect()
        }
    }

    #[test]
    fn what_is_wrong_is_logged_when_it_is_new_and_when_it_is_over_and_not_as_long_as_it_lasts() {
        let (log, mut known) = (Log::default(), Known::default());
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        let subscriber = Arc::new(subscriber);
        let finding = |node: &str, diagnosis, message: &str| Finding {
            node: NodeName::new(node).unwrap(),
            diagnosis,
            message: message.to_owned(),
        };
        let dead = finding("eu-1", Diagnosis::DeadRelay, "eu-1 is dead. Start it.");
        let settles = finding("eu-2", Diagnosis::Settling, "eu-2 failed a short while ago. Nothing to do.");
        let mut pass = |findings: &[Finding], second: u64| {
            let news = known.learn(findings, Millis(second * 1000));
            tracing::subscriber::with_default(Arc::clone(&subscriber), || log_news("shop/orders", &news));
            log.lines()
        };
        let bad = "WARN eu-1 is dead. Start it. topology=\"shop/orders\" node=eu-1 reason=\"DeadRelay\"";
        assert_eq!(pass(std::slice::from_ref(&dead), 1), [bad]);
        for second in 2..200 {
            assert_eq!(pass(std::slice::from_ref(&dead), second), [""; 0]);
        }
        // What is no failure is no warning.
        let well = "INFO eu-2 failed a short while ago. Nothing to do. topology=\"shop/orders\" node=eu-2 \
                    reason=\"Settling\"";
        assert_eq!(pass(&[dead, settles.clone()], 200), [well]);
        let over =
            "INFO eu-1: DeadRelay is over. Nothing to do. topology=\"shop/orders\" node=eu-1 reason=\"Recovered\"";
        assert_eq!(pass(&[settles], 201), [over]);
    }
}
