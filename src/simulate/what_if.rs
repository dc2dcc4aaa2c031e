//! What would happen if servers were lost: by libpq at once, and then by the operator. The same code answers that would
//! act: the world is made of the servers as they are seen, and the real straight line walks over it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::limits::load;
use super::server::Server;
use super::{Drama, Fault, World};
use crate::api::{ReplicaTopology, ReplicaTopologySpec};
use crate::model::check::Rejection;
use crate::model::{ByNode, Desired, Diagnosis, Loss, Memory, NodeName, NodeView, Observed};
use crate::plan::plan;

/// Until libpq has gone on, in milliseconds: the first attempt after a loss is made at once.
const AT_ONCE_MILLISECONDS: u64 = 20;
/// The longest time that the operator is given to put things right, in milliseconds.
const REST_MILLISECONDS: u64 = 600_000;

/// Servers as they are, with an operator that has just looked at them.
#[derive(Debug, Clone)]
pub struct Scene {
    topology: ReplicaTopology,
    desired: Desired,
    world: World,
    memory: Memory,
    unseen: Vec<String>,
}

/// One who receives from another than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// Who.
    pub node: String,
    /// From whom it received.
    pub from: Option<String>,
    /// From whom it receives.
    pub to: String,
    /// What it asks for again: the WAL from the start of the segment that it replays now.
    pub bytes_again: u64,
}

/// One who has more children than it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Crowded {
    /// Who.
    pub node: String,
    /// How many.
    pub children: usize,
    /// How many it may have.
    pub most: usize,
}

/// WAL streams into one region from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Streams {
    /// The region; "" for the hosts without one.
    pub region: String,
    /// Before the loss.
    pub before: usize,
    /// After it.
    pub after: usize,
    /// How many there may be.
    pub most: usize,
}

/// What a loss does until everybody has done what he can.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Aftermath {
    /// Who goes where.
    pub moves: Vec<Move>,
    /// Who has no path to a primary any more.
    pub without_a_path: Vec<String>,
    /// Who got children and has more than it may: 1.5 times its fanOut.
    pub crowded: Vec<Crowded>,
    /// Regions that got streams from others.
    pub across_regions: Vec<Streams>,
}

/// What would happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// What is lost, in words.
    pub loss: String,
    /// Who is lost.
    pub lost: Vec<String>,
    /// The primary is among them: nobody is promoted.
    pub with_the_primary: bool,
    /// Who was not seen, and counts as down.
    pub unseen: Vec<String>,
    /// By libpq alone everybody who is left is fed, within all limits, and every group has somebody left.
    pub tolerated: bool,
    /// Groups of which nobody is left, so that nobody reads there any more. That is no matter of who is fed: `status.tolerates`
    /// speaks of those who are left.
    pub emptied_groups: Vec<String>,
    /// By libpq alone.
    pub at_once: Aftermath,
    /// What the operator adds to it. Its moves are those from where libpq had gone.
    pub in_the_end: Aftermath,
    /// It comes to rest.
    pub rests: bool,
    /// Whose WAL nobody has any more. It needs a clone, which a person has to make: hosts are never cloned anew.
    pub wal_gone: Vec<String>,
}

impl Aftermath {
    /// Nobody is without a path, and all limits hold.
    pub fn is_within_limits(&self) -> bool {
        let flooded = |streams: &Streams| streams.after > streams.most;
        self.without_a_path.is_empty() && self.crowded.is_empty() && !self.across_regions.iter().any(flooded)
    }

    /// All that is sent again.
    pub fn bytes_again(&self) -> u64 {
        self.moves.iter().map(|one| one.bytes_again).fold(0, u64::saturating_add)
    }

    /// What `after` is to `before`, limits included.
    fn between(desired: &Desired, before: &World, after: &World, fed_before: &BTreeSet<NodeName>) -> Self {
        let moved = |(name, server): (&NodeName, &Server)| {
            let from = before.servers.get(name).and_then(Server::upstream);
            let to = server.upstream().filter(|_| server.is_up())?;
            (from != Some(to)).then(|| Move {
                node: name.to_string(),
                bytes_again: bytes_again(before, name, to),
                from: from.map(NodeName::to_string),
                to: to.to_string(),
            })
        };
        let fed = fed(after);
        let left = |node: &&NodeName| after.servers.get(*node).is_some_and(Server::is_up);
        let (had, has) = (load(before), load(after));
        let children = |load: &ByNode<usize>, node: &NodeName| load.get(node).copied().unwrap_or(0);
        let crowded = |(node, count): (&NodeName, &usize)| {
            let most = desired.burst(node);
            (*count > most && *count > children(&had, node)).then(|| Crowded {
                node: node.to_string(),
                children: *count,
                most,
            })
        };
        let (entered, enter) = (entering(desired, before), entering(desired, after));
        let across = |(region, count): (&String, &usize)| {
            let before = entered.get(region).copied().unwrap_or(0);
            let most = desired.limits.cross_region_streams;
            (*count > before).then(|| Streams { region: region.clone(), before, after: *count, most })
        };
        Self {
            moves: after.servers.iter().filter_map(moved).collect(),
            without_a_path: fed_before
                .iter()
                .filter(left)
                .filter(|node| !fed.contains(*node))
                .map(NodeName::to_string)
                .collect(),
            crowded: has.iter().filter_map(crowded).collect(),
            across_regions: enter.iter().filter_map(across).collect(),
        }
    }
}

impl World {
    /// What the loss of these servers does by libpq alone.
    pub fn aftermath(&self, desired: &Desired, lost: &BTreeSet<NodeName>) -> Aftermath {
        Aftermath::between(desired, self, &self.without(lost), &fed(self))
    }

    fn without(&self, lost: &BTreeSet<NodeName>) -> Self {
        let mut after = self.clone();
        for node in lost {
            after.kill(node);
        }
        after.pass(AT_ONCE_MILLISECONDS);
        after
    }
}

impl Scene {
    /// The servers of a topology as they are seen.
    pub fn seen(topology: ReplicaTopology, desired: &Desired, observed: &Observed) -> Self {
        let world = World::seen(desired, observed);
        let unseen =
            desired.nodes.keys().filter(|node| observed.seen(node).is_none()).map(NodeName::to_string).collect();
        Self { topology, desired: desired.clone(), world, memory: Memory::clone(&observed.memory), unseen }
    }

    /// The servers that a spec names, as if they were as declared.
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn declared(spec: ReplicaTopologySpec) -> Result<Self, Vec<Rejection>> {
        const PLANS: usize = 3;
        const LOOKS: usize = 3;
        const LOOK_MILLISECONDS: u64 = 1_000;
        let desired = Desired::try_from(&spec)?;
        let primary = desired.root().and_then(|root| root.members.first()).cloned();
        let mut world = World::new(&desired, 1, |node| primary.clone().unwrap_or_else(|| node.clone()));
        let mut memory = Memory::default();
        let look = |world: &World, memory: &mut Memory| {
            let view = |name: &NodeName| match world.look(name) {
                Ok(facts) => NodeView { last: Some(facts.into()), unseen: None },
                Err(unseen) => NodeView { last: None, unseen: Some(unseen) },
            };
            let nodes = desired.nodes.keys().map(|name| (name.clone(), view(name))).collect();
            memory.advance(&desired, &nodes, world.now);
            Observed { nodes, memory: memory.clone().into() }
        };
        // Of a large fleet the primary cannot feed everybody at first, so that not all are of use in the first plan.
        for _ in 0..PLANS {
            let wanted = plan(&desired, &look(&world, &mut memory), world.now).wanted;
            world.install(&desired, &wanted);
            for _ in 0..LOOKS {
                world.pass(LOOK_MILLISECONDS);
                look(&world, &mut memory);
            }
        }
        let topology = ReplicaTopology::new("declared", spec);
        Ok(Self { topology, desired, world, memory, unseen: Vec::new() })
    }

    /// What is wanted.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What would happen.
    pub fn lose(&self, loss: &Loss) -> Answer {
        let gone: BTreeSet<NodeName> = loss.members(&self.desired).into_iter().cloned().collect();
        let fed_before = fed(&self.world);
        let at_once = self.world.without(&gone);
        let mut drama = Drama::of(self.topology.clone(), self.desired.clone(), self.world.clone(), self.memory.clone());
        for node in &gone {
            drama.strike(&Fault::Kill(node.clone()));
        }
        let rests = drama.rest(REST_MILLISECONDS);
        let wal_gone = drama.findings().iter().filter(|(_, diagnosis)| **diagnosis == Diagnosis::WalGone);
        let wal_gone = wal_gone.map(|(node, _)| node.to_string()).collect();
        let end = drama.cluster().world().clone();
        let is_primary = |node: &NodeName| self.world.servers.get(node).is_some_and(|server| !server.in_recovery);
        let emptied_groups = emptied(&self.desired, &self.world, &at_once);
        let at_once_told = Aftermath::between(&self.desired, &self.world, &at_once, &fed_before);
        Answer {
            loss: loss.to_string(),
            with_the_primary: gone.iter().any(is_primary),
            lost: gone.iter().map(NodeName::to_string).collect(),
            unseen: self.unseen.clone(),
            tolerated: at_once_told.is_within_limits() && emptied_groups.is_empty(),
            emptied_groups,
            in_the_end: Aftermath {
                moves: Aftermath::between(&self.desired, &at_once, &end, &fed_before).moves,
                ..Aftermath::between(&self.desired, &self.world, &end, &fed_before)
            },
            at_once: at_once_told,
            rests,
            wal_gone,
        }
    }

    /// What the loss of each node in turn would do, the worst first.
    pub fn lose_each(&self) -> Vec<Answer> {
        let mut answers: Vec<Answer> =
            self.desired.nodes.keys().map(|node| self.lose(&Loss::Node(node.clone()))).collect();
        let harm = |aftermath: &Aftermath| {
            (aftermath.without_a_path.len(), aftermath.crowded.len(), aftermath.across_regions.len())
        };
        let weight = |answer: &Answer| {
            let moves = answer.at_once.moves.len() + answer.in_the_end.moves.len();
            (!answer.tolerated, harm(&answer.at_once), harm(&answer.in_the_end), moves)
        };
        answers.sort_by_key(|answer| std::cmp::Reverse(weight(answer)));
        answers
    }
}

/// Groups of which somebody was up before and nobody is after.
fn emptied(desired: &Desired, before: &World, after: &World) -> Vec<String> {
    let up = |world: &World, node: &NodeName| world.servers.get(node).is_some_and(Server::is_up);
    let any = |world: &World, members: &[NodeName]| members.iter().any(|node| up(world, node));
    let emptied = desired.groups.iter().filter(|group| any(before, &group.members) && !any(after, &group.members));
    emptied.map(|group| group.name.to_string()).collect()
}

/// WAL that `child` asks `upstream` for and has already, or has to have (postgres-facts.md 2.4).
fn bytes_again(world: &World, child: &NodeName, upstream: &NodeName) -> u64 {
    let (Some(child), Some(upstream)) = (world.servers.get(child), world.servers.get(upstream)) else { return 0 };
    upstream.received.bytes_since(child.replayed.segment_start(child.segment_bytes))
}

/// Who has a path of streams to a server that takes writes.
fn fed(world: &World) -> BTreeSet<NodeName> {
    let reaches = |start: &NodeName| {
        let mut at = start;
        for _ in 0..world.servers.len() {
            let Some(server) = world.servers.get(at).filter(|server| server.is_up()) else { return false };
            match server.upstream() {
                _ if !server.in_recovery => return true,
                Some(upstream) => at = upstream,
                None => return false,
            }
        }
        false
    };
    world.servers.keys().filter(|name| reaches(name)).cloned().collect()
}

fn streams(world: &World) -> impl Iterator<Item = (&NodeName, &NodeName)> {
    let up = world.servers.iter().filter(|(_, server)| server.is_up());
    up.filter_map(|(name, server)| Some((name, server.upstream()?)))
}

/// WAL streams into each region from others.
fn entering(desired: &Desired, world: &World) -> BTreeMap<String, usize> {
    let mut entering = BTreeMap::new();
    for (child, upstream) in streams(world) {
        let region = desired.region_of(child);
        if region != desired.region_of(upstream) {
            *entering.entry(region.to_owned()).or_default() += 1;
        }
    }
    entering
}
