//! The simulated cluster: what the operator sees of a world, and what it writes to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::laws;
use super::server::{Process, SlotAt};
use super::world::{Place, World};
use crate::model::{ByNode, Desired, Lsn, Memory, Millis, NodeName, NodeView, Observed};
use crate::operator::Cluster;
use crate::plan::{self, Done, Outcome, Plan, Step};

/// A world, and one life of the operator in it.
#[derive(Debug)]
pub struct SimulatedCluster {
    world: Mutex<World>,
    life: Mutex<Life>,
}

/// What an operator loses when it dies.
#[derive(Debug, Default)]
struct Life {
    memory: Arc<Memory>,
    views: ByNode<NodeView>,
    /// How many steps it does until it dies in the midst of a plan.
    steps_left: Option<usize>,
    /// What was wanted at the last look, for the laws.
    desired: Option<Desired>,
    /// Laws that a plan broke.
    violations: Vec<String>,
}

impl SimulatedCluster {
    /// A world in which an operator begins that knows nothing.
    pub fn new(world: World) -> Self {
        Self { world: Mutex::new(world), life: Mutex::default() }
    }

    /// The world.
    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// The operator dies; another one begins with what the status told it.
    pub fn begin_anew(&self, memory: Memory) {
        *lock(&self.life) = Life { memory: Arc::new(memory), ..Life::default() };
    }

    /// It dies after so many more steps: the others of that plan are not done, and nothing of it is remembered.
    pub fn die_after(&self, steps: usize) {
        lock(&self.life).steps_left = Some(steps);
    }

    /// Whether it has died so.
    pub fn is_dead(&self) -> bool {
        lock(&self.life).steps_left == Some(0)
    }

    /// Whether the operator keeps somebody from children or from an upstream for a time that is not over yet.
    pub fn keeps_waiting(&self) -> bool {
        let life = lock(&self.life);
        let memory = &life.memory;
        let settle = life.desired.as_ref().map_or(0, |desired| desired.healing.settle_seconds);
        memory.nodes.iter().any(|(name, node)| {
            memory.is_settling(name)
                || memory.strayed(name, settle).is_some()
                || node.refused.keys().any(|upstream| memory.is_refused(name, upstream))
        })
    }

    /// Which laws its plans broke since this was asked last.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.life).violations)
    }
}

impl Cluster for SimulatedCluster {
    fn now(&self) -> Millis {
        self.world().now
    }

    async fn observe(&self, desired: &Desired) -> Observed {
        let world = self.world();
        let mut life = lock(&self.life);
        let mut before = std::mem::take(&mut life.views);
        let view = |name: &NodeName| {
            let last = before.get_mut(name).and_then(|view| view.last.take());
            (name.clone(), world.look_again(name, last))
        };
        let nodes: ByNode<_> = desired.nodes.keys().map(view).collect();
        life.views.clone_from(&nodes);
        Arc::make_mut(&mut life.memory).advance(desired, &nodes, world.now);
        if life.desired.as_ref() != Some(desired) {
            life.desired = Some(desired.clone());
        }
        Observed { nodes, memory: life.memory.clone() }
    }

    async fn carry_out(&self, plan: &Plan) -> Outcome {
        let mut world = self.world();
        let mut life = lock(&self.life);
        // By what was seen: nothing was learned since.
        if let Some(desired) = life.desired.as_ref().filter(|_| !plan.steps.is_empty()) {
            let observed = Observed { nodes: life.views.clone(), memory: life.memory.clone() };
            let broken = laws::before_writing(desired, &observed, plan);
            life.violations.extend(broken);
        }
        let mut outcome = Outcome::default();
        for planned in &plan.steps {
            if let Some(left) = &mut life.steps_left {
                if *left == 0 {
                    break;
                }
                *left -= 1;
            }
            outcome.done.push(Done { planned: planned.clone(), result: world.write(&planned.step) });
        }
        if !outcome.done.is_empty() {
            plan::record(Arc::make_mut(&mut life.memory), &outcome, world.now);
        }
        outcome
    }
}

impl World {
    /// One step, as a server does it.
    fn write(&mut self, step: &Step) -> Result<(), String> {
        let name = step.server();
        let unreachable = self.is_cut(&Place::Operator, &Place::Node(name.clone()));
        let server = self.servers.get_mut(name).filter(|server| server.process == Process::Up && !unreachable);
        let Some(server) = server.filter(|server| !server.rejects_operator) else {
            return Err("the session was lost".to_owned());
        };
        let busy = |server: &super::server::Server, slot: &str| match server.holder(slot) {
            Some(holder) => Err(format!("slot {slot:?} is active for PID {}", holder.pid)),
            None => Ok(()),
        };
        match step {
            Step::Heartbeat { .. } => server.received.0 += 64,
            // No simulated disk is ever full.
            Step::TryDisk { .. } => {}
            Step::CreateSlot { owner, .. } => {
                let reserved = SlotAt::reserving(server.redo);
                let slot = server.slots.entry(owner.slot().to_owned()).or_insert(reserved);
                if slot.lost {
                    *slot = reserved;
                }
            }
            Step::RecreateSlot { owner, .. } => {
                busy(server, owner.slot())?;
                server.slots.insert(owner.slot().to_owned(), SlotAt::reserving(server.redo));
            }
            Step::DropSlot { owner, .. } => {
                busy(server, owner.slot())?;
                server.slots.remove(owner.slot());
            }
            Step::ClearXmin { owner, .. } => {
                busy(server, owner.slot())?;
                // For replication the operator is let in by another line of pg_hba.conf than for a session.
                if server.rejects_replication {
                    return Err("no pg_hba.conf entry for replication connection (28000)".to_owned());
                }
                let slot = server.slots.get_mut(owner.slot()).ok_or("there is no such slot")?;
                slot.holds_xmin = false;
            }
            Step::EndSender { owner, pid, .. } => {
                server.senders.retain(|sender| sender.slot != owner.slot() || sender.pid != *pid);
            }
            Step::AdvanceSlot { owner, to, .. } => advance(server, owner.slot(), *to),
            Step::SetRoute { conninfo, nudge, slot, .. } => {
                server.file.conninfo = conninfo.clone();
                server.file.nudged = *nudge;
                if let Some(slot) = slot {
                    server.file.slot.clone_from(slot);
                }
                reload(server);
            }
            Step::Reload { .. } => reload(server),
        }
        Ok(())
    }
}

fn advance(server: &mut super::server::Server, slot: &str, to: Lsn) {
    let (active, replayed) = (server.holder(slot).is_some(), server.replayed);
    if let Some(slot) = server.slots.get_mut(slot).filter(|slot| !active && !slot.lost) {
        slot.restart = slot.restart.max(to.min(replayed));
    }
}

/// Only a changed string reconnects; a reload wakes a startup process that waits to try again (postgres-facts.md 1.1, 1.2).
pub(super) fn reload(server: &mut super::server::Server) {
    let waits = server.upstream().is_none();
    if server.running != server.file || waits {
        server.running = server.file.clone();
        server.reload_due = true;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
