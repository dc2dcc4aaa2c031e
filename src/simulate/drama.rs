//! A world with an operator in it, and the clock that drives both: what happens is told as it happens.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use jiff::Timestamp;

use super::laws;
use super::server::Server;
use super::{Fault, SimulatedCluster, World};
use crate::api::acknowledge::ACKNOWLEDGE;
use crate::api::{ReplicaTopology, ReplicaTopologySpec, ReplicaTopologyStatus};
use crate::model::check::Rejection;
use crate::model::{ByNode, Desired, Diagnosis, Memory, Millis, NodeName};
use crate::operator::reconcile::{Pass, walk};
use crate::operator::{Cluster, remembered};
use crate::plan::{Plan, Step, plan};

/// How finely time passes while something is going on, in milliseconds.
const FINE_MILLISECONDS: u64 = 50;
/// How finely otherwise, in milliseconds: an operator's tick.
const COARSE_MILLISECONDS: u64 = 1_000;
/// So long a world is quiet before it counts as at rest, in milliseconds: longer than an order may be under way.
const QUIET_MILLISECONDS: u64 = 12_000;
/// So long it is quiet before the rest of a fault is skipped, in milliseconds: whoever is absent for as long as a failed node
/// settles in soaks is released then (`slots::is_absent`).
const STILL_MILLISECONDS: u64 = 30_000;
/// What is broken while faults stand is broken for good when it is so at every one of so many looks.
const LOOKS: usize = 3;
/// Between two of them, in milliseconds: longer than whoever is refused somewhere is without an upstream.
const LOOK_MILLISECONDS: u64 = 15_000;
/// Wall time at the beginning of every world, in milliseconds of the epoch: for texts only.
const WALL_BEGINS: i64 = 1_767_225_600_000;

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When.
    pub at: Millis,
    /// What.
    pub what: String,
}

/// What was counted since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Passes of the operator.
    pub passes: u64,
    /// Routes set.
    pub moves: u64,
    /// Times a new status was written.
    pub status_writes: u64,
    /// Times it said something else of the fleet than for how long the WAL that is kept lasts: that an operator learns with
    /// time, whatever happens.
    pub status_changes: u64,
    /// Time that passed at once, as nothing happened, in milliseconds.
    pub skipped_milliseconds: u64,
}

/// A world with an operator in it.
#[derive(Debug)]
pub struct Drama {
    topology: ReplicaTopology,
    desired: Desired,
    cluster: SimulatedCluster,
    operator_lives: bool,
    next_pass: Millis,
    quiet_since: Millis,
    streams: ByNode<Option<NodeName>>,
    findings: BTreeMap<NodeName, Diagnosis>,
    told: Vec<Told>,
    violations: Vec<Told>,
    retained: laws::Retained,
    counts: Counts,
}

impl Drama {
    /// A world of the servers of `spec`, each of which streams from whom `upstream` says, and an operator that begins.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn new(
        spec: ReplicaTopologySpec,
        seed: u64,
        upstream: impl Fn(&NodeName) -> NodeName,
    ) -> Result<Self, Vec<Rejection>> {
        let desired = Desired::try_from(&spec)?;
        let world = World::new(&desired, seed, upstream);
        Ok(Self::of(ReplicaTopology::new("simulated", spec), desired, world, Memory::default()))
    }

    /// A world, and an operator in it that remembers this.
    pub(super) fn of(topology: ReplicaTopology, desired: Desired, world: World, memory: Memory) -> Self {
        let now = world.now;
        let cluster = SimulatedCluster::new(world);
        cluster.begin_anew(memory);
        let mut this = Self {
            topology,
            desired,
            cluster,
            operator_lives: true,
            next_pass: now,
            quiet_since: now,
            streams: ByNode::default(),
            findings: BTreeMap::new(),
            told: Vec::new(),
            violations: Vec::new(),
            retained: laws::Retained::default(),
            counts: Counts::default(),
        };
        this.streams = this.streams_now();
        this
    }

    /// What is wanted.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The cluster, with the world in it.
    pub fn cluster(&self) -> &SimulatedCluster {
        &self.cluster
    }

    /// The status as it was written last.
    pub fn status(&self) -> Option<&ReplicaTopologyStatus> {
        self.topology.status.as_ref()
    }

    /// What is wrong with nodes, as it was told last; the worst of each.
    pub fn findings(&self) -> &BTreeMap<NodeName, Diagnosis> {
        &self.findings
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The clock.
    pub fn now(&self) -> Millis {
        self.cluster.now()
    }

    /// What happened since this was asked last.
    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Which laws were broken since this was asked last.
    pub fn take_violations(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.violations)
    }

    /// What stays broken of a tree whose faults stand, and which has had time to heal. Not all of them come to rest: who is
    /// refused somewhere asks again and again.
    pub fn broken_while_faults_stand(&mut self) -> Vec<String> {
        let mut broken = self.broken_now();
        for _ in 1..LOOKS {
            if broken.is_empty() {
                break;
            }
            self.pass(LOOK_MILLISECONDS);
            let now = self.broken_now();
            broken.retain(|what| now.contains(what));
        }
        broken
    }

    fn broken_now(&self) -> Vec<String> {
        let observed = self.cluster.observe(&self.desired).now_or_never().filter(|_| self.operator_lives);
        let Some(observed) = observed else { return Vec::new() };
        let plan = plan(&self.desired, &observed, self.now());
        laws::while_faults_stand(&self.cluster.world(), &self.desired, &observed, &plan)
    }

    /// What the operator would do now.
    pub fn plan(&self) -> Plan {
        let Some(observed) = self.cluster.observe(&self.desired).now_or_never() else { return Plan::default() };
        plan(&self.desired, &observed, self.now())
    }

    /// Lets something happen.
    pub fn strike(&mut self, fault: &Fault) {
        match fault {
            Fault::OperatorStop => self.operator_lives = false,
            Fault::OperatorDiesAfter(steps) => self.cluster.die_after(*steps),
            Fault::OperatorStart => {
                self.cluster.begin_anew(remembered(&self.topology, self.now()));
                self.operator_lives = true;
                self.retained.forget();
                self.next_pass = self.now();
            }
            fault => fault.strike(&mut self.cluster.world(), &self.desired),
        }
        self.quiet_since = self.now();
    }

    /// Everything is mended: all servers run, packets pass, nothing is slow or refused, and an operator lives.
    pub fn mend(&mut self) {
        self.cluster.world().mend();
        if !self.operator_lives {
            self.strike(&Fault::OperatorStart);
        }
        self.quiet_since = self.now();
    }

    /// Another spec is applied.
    ///
    /// # Errors
    /// What is wrong with it; the old one stays.
    pub fn apply(&mut self, spec: ReplicaTopologySpec) -> Result<(), Vec<Rejection>> {
        self.desired = Desired::try_from(&spec)?;
        self.topology.spec = spec;
        self.next_pass = self.now();
        self.quiet_since = self.now();
        Ok(())
    }

    /// A person acknowledges nodes: `NODE[,NODE...]` or `all`.
    pub fn acknowledge(&mut self, nodes: &str) {
        let value = format!("{nodes} {}", self.now().0);
        self.topology.metadata.annotations.get_or_insert_default().insert(ACKNOWLEDGE.to_owned(), value);
        self.next_pass = self.now();
        self.quiet_since = self.now();
    }

    /// Lets time pass.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now().plus(milliseconds);
        while self.now() < end {
            let fine = if self.is_quiet() { COARSE_MILLISECONDS } else { FINE_MILLISECONDS };
            self.slice(fine.min(end.since(self.now())));
        }
    }

    /// Lets time pass until nothing has happened for a while, or for that long; whether it came to rest.
    pub fn rest(&mut self, milliseconds: u64) -> bool {
        let end = self.now().plus(milliseconds);
        while self.now() < end && !self.is_at_rest() {
            self.pass(COARSE_MILLISECONDS);
        }
        self.is_at_rest()
    }

    /// Lets a long quiet time pass at once: as long as nothing happens a pass changes nothing, which the rest before has
    /// shown.
    pub fn skip(&mut self, milliseconds: u64) {
        self.counts.skipped_milliseconds += milliseconds;
        self.slice(milliseconds);
    }

    /// Nothing has happened for a while, the operator has nothing to do, and nobody waits to get children back.
    pub fn is_at_rest(&self) -> bool {
        self.now().since(self.quiet_since) >= QUIET_MILLISECONDS && !self.cluster.keeps_waiting()
    }

    /// Lets time pass, and at once the part of it in which nothing happens any more: see [`Self::skip`].
    pub fn pass_quietly(&mut self, milliseconds: u64) {
        let end = self.now().plus(milliseconds);
        while self.now() < end {
            let left = end.since(self.now());
            let waits = self.cluster.keeps_waiting() || self.retained.is_beyond();
            let still = self.now().since(self.quiet_since) >= STILL_MILLISECONDS && !waits;
            // What idle slots keep beyond what their server needs becomes more with its next checkpoint.
            let checkpoint = self.cluster.world().next_checkpoint_in().max(1);
            if still { self.skip(left.min(checkpoint)) } else { self.pass(left.min(COARSE_MILLISECONDS)) }
        }
    }

    fn is_quiet(&self) -> bool {
        self.now().since(self.quiet_since) >= COARSE_MILLISECONDS
    }

    fn slice(&mut self, milliseconds: u64) {
        self.cluster.world().pass(milliseconds);
        let changed = self.notice();
        if self.operator_lives && (changed || self.now() >= self.next_pass) {
            self.operate();
            // What was written is acted on within some 20 ms, long before the next slice ends.
            self.cluster.world().pass(0);
            self.notice();
        }
    }

    fn streams_now(&self) -> ByNode<Option<NodeName>> {
        let world = self.cluster.world();
        world.servers.iter().map(|(name, server)| (name.clone(), stream(server).cloned())).collect()
    }

    fn streams_are_others(&self) -> bool {
        let world = self.cluster.world();
        // Both are in one order.
        let now = world.servers.iter().map(|(name, server)| (name, stream(server)));
        !now.eq(self.streams.iter().map(|(name, from)| (name, from.as_ref())))
    }

    /// Tells which streams are others than before; whether there are any.
    fn notice(&mut self) -> bool {
        if !self.streams_are_others() {
            return false;
        }
        let (now, at) = (self.streams_now(), self.now());
        // Only another stream can make a ring.
        let broken = laws::at_every_moment(&self.cluster.world());
        self.violations.extend(broken.map(|what| Told { at, what }));
        for (node, from) in &now {
            let what = match (self.streams.get(node).and_then(Option::as_ref), from) {
                (before, Some(from)) if before != Some(from) => format!("{node} receives from {from}"),
                (Some(before), None) => format!("{node} has lost {before}"),
                _ => continue,
            };
            self.told.push(Told { at, what });
        }
        self.streams = now;
        self.quiet_since = at;
        true
    }

    fn operate(&mut self) {
        let now = self.now();
        let milliseconds = i64::try_from(now.0).unwrap_or(0);
        let wall = Timestamp::from_millisecond(WALL_BEGINS + milliseconds).unwrap_or_default();
        let (topology, previous) = (&self.topology, self.topology.status.as_ref());
        let passed = walk(topology, &self.desired, previous, &self.cluster, wall).now_or_never();
        let Some(pass) = passed else { return };
        self.counts.passes += 1;
        self.tell(&pass);
        if self.topology.status.as_ref() != Some(&pass.status) {
            self.counts.status_writes += 1;
            let changed = self.topology.status.as_ref().is_none_or(|before| says_another(before, &pass.status));
            self.counts.status_changes += u64::from(changed);
            self.topology.status = Some(pass.status);
        }
        let again = u64::try_from(pass.look_again_after.as_millis()).unwrap_or(COARSE_MILLISECONDS);
        self.next_pass = now.plus(again);
        if self.cluster.is_dead() {
            self.operator_lives = false;
            self.told.push(Told { at: now, what: "the operator dies".to_owned() });
        }
    }

    fn tell(&mut self, pass: &Pass) {
        let at = self.now();
        for node in pass.acknowledged.iter().flat_map(|taken| &taken.nodes) {
            self.told.push(Told { at, what: format!("{node}: acknowledged") });
        }
        let steps = pass.outcome.done.iter().filter(|done| !done.planned.step.is_housekeeping());
        for done in steps {
            self.counts.moves += u64::from(matches!(done.planned.step, Step::SetRoute { .. }));
            let failed = done.result.as_ref().err().map(|error| format!(": {error}")).unwrap_or_default();
            self.told.push(Told { at, what: format!("{}{failed}", done.planned) });
            self.quiet_since = at;
        }
        let findings: BTreeMap<_, _> = pass.findings.iter().map(|f| (f.node.clone(), f.diagnosis)).collect();
        for (node, diagnosis) in &findings {
            if self.findings.get(node) != Some(diagnosis) {
                self.told.push(Told { at, what: format!("{node}: {diagnosis}") });
                self.quiet_since = at;
            }
        }
        for node in self.findings.keys().filter(|node| !findings.contains_key(*node)) {
            self.told.push(Told { at, what: format!("{node}: well") });
            self.quiet_since = at;
        }
        self.findings = findings;
        let broken = self.retained.after_a_pass(&self.cluster.world(), &self.desired);
        let broken = self.cluster.take_violations().into_iter().chain(broken);
        self.violations.extend(broken.map(|what| Told { at, what }));
    }
}

/// Whether a status says something else of the fleet than the one before.
fn says_another(before: &ReplicaTopologyStatus, now: &ReplicaTopologyStatus) -> bool {
    let mut same = before.clone();
    if let (Some(same), Some(now)) = (&mut same.summary, &now.summary) {
        same.retained_wal_lasts.clone_from(&now.retained_wal_lasts);
    }
    same != *now
}

/// Whom a server that runs receives from.
fn stream(server: &Server) -> Option<&NodeName> {
    server.upstream().filter(|_| server.is_up())
}
