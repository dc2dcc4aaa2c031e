//! How long a plan takes and how often it asks for memory, by the size of the fleet, and what a whole pass costs:
//! `cargo bench --bench plan`. Asserts nothing.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails where it cannot go on")]

#[path = "../support/regions.rs"]
mod regions;

use std::alloc::System;
use std::sync::Arc;

use alloc_tracker::{Allocator, Session};
use regions::spec;
use tokio::time::Instant;
use waltree::model::{ByNode, Desired, Facts, Memory, NodeName, NodeView, Observed};
use waltree::plan::{Plan, plan};
use waltree::simulate::{Drama, World};

#[global_allocator]
static ALLOCATOR: Allocator<System> = Allocator::system();

/// Runs of each, of which the median is told.
const RUNS: usize = 9;

/// What one plan costs.
#[derive(Clone, Copy)]
struct Cost {
    milliseconds: f64,
    /// Times that memory was asked for.
    allocations: u64,
    bytes: u64,
}

impl Cost {
    /// Of what `act` does; the median time of its runs.
    fn of<T>(act: impl Fn() -> T) -> Self {
        let session = Session::new();
        let operation = session.operation("plan");
        let mut times: Vec<f64> = (0..RUNS)
            .map(|_| {
                let began = Instant::now();
                let span = operation.measure_thread();
                let made = std::hint::black_box(act());
                drop(span);
                // What it made is given back in time that counts too.
                drop(made);
                began.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let report = session.to_report();
        let (_, counted) = report.operations().next().unwrap();
        let (allocations, bytes) = (counted.mean_allocations(), counted.mean_bytes());
        Self { milliseconds: times[RUNS / 2], allocations, bytes }
    }
}

/// One operator that looks at a world.
struct Look {
    desired: Desired,
    world: World,
    memory: Memory,
    last: ByNode<Arc<Facts>>,
}

impl Look {
    fn observe(&mut self) -> Observed {
        let mut view = |name: &NodeName| {
            let unseen = match self.world.look(name) {
                Ok(facts) => {
                    self.last.insert(name.clone(), Arc::new(facts));
                    None
                }
                Err(unseen) => Some(unseen),
            };
            NodeView { last: self.last.get(name).cloned(), unseen }
        };
        let nodes: ByNode<_> = self.desired.nodes.keys().map(|name| (name.clone(), view(name))).collect();
        self.memory.advance(&self.desired, &nodes, self.world.now);
        Observed { nodes, memory: self.memory.clone().into() }
    }

    /// The plan of now, and what it costs.
    fn plan(&mut self) -> (Plan, Cost) {
        let observed = self.observe();
        let made = || plan(&self.desired, &observed, self.world.now);
        (made(), Cost::of(made))
    }

    fn pass(&mut self, milliseconds: u64) {
        self.world.pass(milliseconds);
        self.observe();
    }
}

/// What the operator's whole passes cost over a calm fleet: processor, memory, and the bytes of the status.
fn passes(nodes: usize) {
    let first = NodeName::new("core-1").unwrap();
    let mut drama = Drama::new(spec(nodes), 1, |_| first.clone()).unwrap();
    drama.cluster().world().servers.values_mut().for_each(|server| server.senders_max = nodes);
    drama.rest(600_000);
    let (passes, began) = (drama.counts().passes, Instant::now());
    drama.pass(60_000);
    let passes = u32::try_from(drama.counts().passes - passes).unwrap();
    let spent = began.elapsed().as_secs_f64() * 1000.0 / f64::from(passes);
    let status = serde_json::to_string(drama.status().unwrap()).unwrap().len();
    let memory = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
    println!("{nodes:>7} {spent:>12.2} {status:>14} {resident:>16}");
}

fn main() {
    println!("{:>7} {:>12} {:>14} {:>16}", "nodes", "a pass, ms", "status, bytes", "resident");
    for nodes in [100, 500] {
        passes(nodes);
    }
    println!("\n{:>7} {:>16} {:>10} {:>12} {:>8} {:>12}", "nodes", "a plan", "ms", "allocations", "a node", "KiB");
    for nodes in [100, 1_000, 10_000] {
        let desired = Desired::try_from(&spec(nodes)).unwrap();
        let primary = desired.root().unwrap().members[0].clone();
        let mut world = World::new(&desired, 1, |_| primary.clone());
        world.servers.values_mut().for_each(|server| server.senders_max = nodes);
        world.pass(2 * world.settings.retry_milliseconds);
        let mut look = Look { desired, world, memory: Memory::default(), last: ByNode::default() };
        let (first, began) = look.plan();
        look.world.install(&look.desired, &first.wanted);
        for _ in 0..5 {
            look.pass(1_000);
        }
        let (calm, idle) = look.plan();
        let steps = calm.steps.iter().filter(|planned| !planned.step.is_housekeeping()).count();
        assert_eq!(steps, 0, "the fleet is not as declared: {:?}", calm.steps.first());
        let relay = NodeName::new("r0-1").unwrap();
        look.world.kill(&relay);
        for _ in 0..4 {
            look.pass(1_000);
        }
        let (_, one) = look.plan();
        let zone: Vec<NodeName> =
            look.desired.nodes.values().filter(|n| n.zone.as_deref() == Some("b")).map(|n| n.name.clone()).collect();
        for node in &zone {
            look.world.kill(node);
        }
        for _ in 0..4 {
            look.pass(1_000);
        }
        let (_, many) = look.plan();
        for (what, cost) in
            [("the first", began), ("nothing to do", idle), ("a relay is dead", one), ("a zone is dead", many)]
        {
            let Cost { milliseconds, allocations, bytes } = cost;
            let (each, kib) = (allocations / nodes as u64, bytes >> 10);
            println!("{nodes:>7} {what:>16} {milliseconds:>10.2} {allocations:>12} {each:>8} {kib:>12}");
        }
    }
}
