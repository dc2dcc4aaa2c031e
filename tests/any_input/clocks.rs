//! Servers whose own wall clocks are wrong, by another time at every look. Two things that they tell are told by such a
//! clock and change with it: for how long an upstream was silent, and when a child replied last.

use std::sync::{Mutex, MutexGuard};

use waltree::model::observed::Sender;
use waltree::model::{ByNode, Desired, Facts, Memory, Millis, NodeName, NodeView, Observed};
use waltree::operator::Cluster;
use waltree::plan::{Outcome, Plan, record};
use waltree::simulate::{SimulatedCluster, World};

/// A simulated cluster whose servers tell by their own clocks.
pub(crate) struct Clocks {
    cluster: SimulatedCluster,
    /// How wrong the clocks are, in seconds: of the first server from the first look on, of the next from the second on, ...
    wrong_seconds: Vec<i64>,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    memory: Memory,
    /// When they were looked at: right after it their clocks are set anew.
    looks: Vec<Millis>,
}

impl Clocks {
    /// Without any numbers the clocks are right.
    pub(crate) fn new(world: World, wrong_seconds: &[i64]) -> Self {
        let wrong_seconds = wrong_seconds.to_vec();
        Self { cluster: SimulatedCluster::new(world), wrong_seconds, life: Mutex::default() }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.cluster.world()
    }

    /// What is remembered, but for the times by others' clocks: only that they change says anything.
    pub(crate) fn memory(&self) -> Memory {
        let mut memory = self.life.lock().unwrap().memory.clone();
        memory.namesakes.values_mut().for_each(|namesake| namesake.replied = None);
        memory
    }

    /// How wrong a server's clock was at a time, in milliseconds.
    fn wrong_by(&self, place: usize, looks: &[Millis], at: Millis) -> i64 {
        let look = looks.partition_point(|look| *look < at);
        let all = &self.wrong_seconds;
        if all.is_empty() { 0 } else { all[(look + place) % all.len()] * 1_000 }
    }

    /// What a server tells, by its clock and by those of its children.
    fn told(&self, desired: &Desired, name: &NodeName, looks: &[Millis], facts: &mut Facts) {
        let place = |name: &str| desired.nodes.keys().position(|node| node.as_str() == name).unwrap();
        let now = facts.at;
        if let Some(receiver) = &mut facts.receiver {
            let silent_for = receiver.silent_for_milliseconds;
            let wrong = |at| self.wrong_by(place(name.as_str()), looks, at);
            let stepped = wrong(now) - wrong(Millis(now.0 - silent_for));
            // As `observe::decode` reads what is negative.
            receiver.silent_for_milliseconds = silent_for.saturating_add_signed(stepped);
        }
        for sender in &mut facts.senders {
            let replied = sender.replied.unwrap();
            let at = Millis(u64::try_from(replied).unwrap());
            // Where it comes from is its name here; what it calls itself is what its route says.
            let child = sender.client.as_deref().unwrap();
            sender.replied = Some(replied + self.wrong_by(place(child), looks, at));
        }
        // One of no name of ours streams from the first by the name of the last, and lives: it replies at each look.
        if place(name.as_str()) == 0 {
            let replied = i64::try_from(now.0).unwrap() + self.wrong_by(desired.nodes.len(), looks, now);
            facts.senders.push(Sender {
                pid: 9_999,
                application_name: desired.nodes.keys().last().unwrap().to_string(),
                state: "streaming".to_owned(),
                slot: None,
                sync: Some(false),
                client: Some("192.0.2.99:40000".to_owned()),
                replied: Some(replied),
            });
        }
    }
}

impl Cluster for Clocks {
    fn now(&self) -> Millis {
        self.cluster.now()
    }

    async fn observe(&self, desired: &Desired) -> Observed {
        let world = self.cluster.world();
        let mut life = self.life.lock().unwrap();
        let Life { memory, looks } = &mut *life;
        let view = |name: &NodeName| match world.look(name) {
            Ok(mut facts) => {
                self.told(desired, name, looks.as_slice(), &mut facts);
                NodeView { last: Some(facts.into()), unseen: None }
            }
            Err(unseen) => NodeView { last: None, unseen: Some(unseen) },
        };
        let nodes: ByNode<NodeView> = desired.nodes.keys().map(|name| (name.clone(), view(name))).collect();
        looks.push(world.now);
        memory.advance(desired, &nodes, world.now);
        Observed { nodes, memory: memory.clone().into() }
    }

    async fn carry_out(&self, plan: &Plan) -> Outcome {
        let outcome = self.cluster.carry_out(plan).await;
        record(&mut self.life.lock().unwrap().memory, &outcome, self.cluster.now());
        outcome
    }
}
