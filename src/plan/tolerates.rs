//! What the loss of any one node, zone or region would do before anybody does anything: told beforehand, from the routes
//! as they are installed (safety.md 2.5). Each child is looked at once for each kind of loss, so it stays near linear.

mod words;

use std::collections::{BTreeMap, BTreeSet};

use super::world::At;
use super::{Plan, World, ready};
use crate::model::primary::Primary;
use crate::model::rooted::Rooted;
use crate::model::{Desired, Loss, SessionAttrs, WhyUnseen, burst};

/// Longest way up that is walked: no limit of depth comes near it, and a ring ends there.
const HOPS_MAX: usize = 64;

/// Whether something would be survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, strum::Display, strum::EnumIter)]
pub enum Tolerated {
    /// Yes.
    True,
    /// No.
    False,
    /// It cannot be told.
    #[default]
    Unknown,
}

/// What would be survived by libpq alone: everybody who is left is fed, nobody who takes in others is over its burst
/// limit, and no region gets more WAL streams from outside than it may. The primary is taken to stay, as nobody is
/// promoted when it is lost: `weakest` says so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tolerates {
    /// The loss of any one node.
    pub node: Tolerated,
    /// The loss of any one zone; `Unknown` as well where not two zones are named.
    pub zone: Tolerated,
    /// The loss of any one region; `Unknown` as well where there are not two. The hosts without one are one.
    pub region: Tolerated,
    /// The weakest spot and its cure, in one or two sentences.
    pub weakest: String,
}

/// What would be survived now.
pub(super) fn tolerates(world: &World<'_>, plan: &Plan) -> Tolerates {
    let Some(tree) = Tree::of(world, plan) else {
        return Tolerates { weakest: words::NO_PRIMARY.to_owned(), ..Tolerates::default() };
    };
    let mut scratch = Scratch::of(&tree);
    // The loss of one that feeds nobody harms nobody.
    let feeding = (0..tree.names.len()).filter(|i| *i == tree.primary || !tree.children[*i].is_empty());
    let nodes = feeding.map(|i| (Loss::Node(tree.names[i].name.clone()), vec![i])).collect();
    let node = scratch.worst(&tree, nodes);
    let zone = scratch.worst(&tree, tree.domains(Loss::Zone, |i| world.zone(tree.names[i])));
    let region = scratch.worst(&tree, tree.domains(Loss::Region, |i| Some(tree.regions[tree.region_of[i]])));
    let judged = |worst: &Worst| match worst {
        Worst::Harm(..) => Tolerated::False,
        Worst::None if tree.blind.is_empty() => Tolerated::True,
        Worst::None | Worst::NothingToTell => Tolerated::Unknown,
    };
    let verdicts = [judged(&node), judged(&zone), judged(&region)];
    let worst = [node, zone, region].into_iter().find_map(|worst| match worst {
        Worst::Harm(loss, harm) => Some((loss, harm)),
        Worst::None | Worst::NothingToTell => None,
    });
    let weakest = worst.map_or_else(|| words::without_harm(&tree), |(loss, harm)| words::harm(&tree, &loss, &harm));
    Tolerates { node: verdicts[0], zone: verdicts[1], region: verdicts[2], weakest }
}

/// What is known of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// It answers.
    Seen,
    /// It refuses connections: libpq passes it by.
    Down,
    /// It cannot be asked, so what it does is not known (law 8).
    Blind,
}

/// The tree as numbers: a fleet is looked through many times.
struct Tree<'a> {
    world: &'a World<'a>,
    plan: &'a Plan,
    names: Vec<At<'a>>,
    primary: usize,
    sights: Vec<Sight>,
    blind: Vec<usize>,
    upstreams: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    /// The regions, in the order of their names.
    regions: Vec<&'a str>,
    /// Which region each server is in.
    region_of: Vec<usize>,
    /// WAL streams into each region from others.
    entering: Vec<usize>,
}

/// The regions in the order of their names, and the place among them of every node's: the names of regions are compared for
/// every edge and every loss.
fn regions(desired: &Desired) -> (Vec<&str>, Vec<usize>) {
    let of_group: Vec<&str> = desired.groups.iter().map(|group| group.region.as_deref().unwrap_or_default()).collect();
    let regions: BTreeSet<&str> = of_group.iter().copied().collect();
    let regions: Vec<&str> = regions.into_iter().collect();
    let places: Vec<usize> = of_group.iter().map(|region| regions.partition_point(|other| other < region)).collect();
    let of_node = desired.nodes.values().map(|spec| places.get(spec.group).copied().unwrap_or(0)).collect();
    (regions, of_node)
}

/// Where a child goes on when its upstream is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Onward {
    /// To this one.
    To(usize),
    /// It is led to this one, which lacks what the child needs: the attempt ends there (safety.md X3).
    Stuck(usize),
    /// No entry of its route is left.
    Nowhere,
    /// To one of which nothing is known.
    Untold,
}

impl<'a> Tree<'a> {
    /// `None` while nobody is seen as the primary: nobody's path can be told then.
    fn of(world: &'a World<'a>, plan: &'a Plan) -> Option<Self> {
        let Primary::Known { name: primary, .. } = &world.sight.primary else { return None };
        let names: Vec<At<'_>> = world.all().collect();
        let sight = |node: &At<'_>| match world.observed.nodes.get(node.name).map(|view| view.unseen.as_ref()) {
            Some(None) => Sight::Seen,
            Some(Some(unseen)) if unseen.why == WhyUnseen::Refused => Sight::Down,
            Some(Some(_)) | None => Sight::Blind,
        };
        let sights: Vec<Sight> = names.iter().map(sight).collect();
        let (regions, region_of) = regions(world.desired);
        let upstream =
            |node: &At<'_>| world.upstream(*node).map(At::place).filter(|place| *place < world.desired.nodes.len());
        let mut tree = Self {
            world,
            plan,
            primary: world.desired.nodes.get_index_of(primary)?,
            blind: (0..names.len()).filter(|i| sights[*i] == Sight::Blind).collect(),
            sights,
            upstreams: names.iter().map(upstream).collect(),
            children: vec![Vec::new(); names.len()],
            entering: vec![0; regions.len()],
            regions,
            region_of,
            names,
        };
        for child in 0..tree.names.len() {
            let Some(upstream) = tree.upstreams[child] else { continue };
            tree.children[upstream].push(child);
            if tree.enters(child, upstream) {
                tree.entering[tree.region_of[child]] += 1;
            }
        }
        Some(tree)
    }

    /// The zones or regions with their servers, the primary excepted; none when there are not two.
    fn domains<'b>(&self, loss: fn(String) -> Loss, of: impl Fn(usize) -> Option<&'b str>) -> Vec<(Loss, Vec<usize>)> {
        let mut domains: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for i in 0..self.names.len() {
            if let Some(domain) = of(i) {
                domains.entry(domain).or_default().push(i);
            }
        }
        if domains.len() < 2 {
            return Vec::new();
        }
        domains.into_iter().map(|(domain, nodes)| (loss(domain.to_owned()), nodes)).collect()
    }

    /// Whether WAL crosses into the child's region on this edge.
    fn enters(&self, child: usize, upstream: usize) -> bool {
        self.region_of[child] != self.region_of[upstream]
    }

    /// libpq's walk along the installed route.
    fn onward(&self, child: usize, lost: &[bool]) -> Onward {
        let name = self.names[child];
        let Some(route) = self.world.installed(name) else { return Onward::Nowhere };
        for entry in &route.entries {
            let at = entry.place();
            let passed_by = lost[at] || self.sights[at] == Sight::Down;
            if passed_by || (route.attrs == SessionAttrs::Primary && at != self.primary) {
                continue;
            }
            return match self.sights[at] {
                Sight::Blind => Onward::Untold,
                _ if self.is_ready(name, *entry) => Onward::To(at),
                _ => Onward::Stuck(at),
            };
        }
        Onward::Nowhere
    }

    /// Whether the entry has what the child would ask for; told already for the fallbacks that are wanted.
    fn is_ready(&self, child: At<'_>, entry: At<'_>) -> bool {
        let refused = self.world.is_refused(child, entry);
        let mut known = self.plan.fallbacks.get(child.name).into_iter().flatten();
        let known = known.find(|(fallback, _)| fallback == entry.name);
        let readiness = known.map_or_else(|| ready::fallback(self.world, child, entry), |(_, readiness)| *readiness);
        readiness.is_ready() && !refused
    }

    /// Whether WAL would still reach a server; `None` when it cannot be told.
    fn is_fed(&self, start: usize, lost: &[bool]) -> Option<bool> {
        let mut at = start;
        for _ in 0..HOPS_MAX {
            if at == self.primary {
                return Some(true);
            }
            at = match self.upstreams[at] {
                _ if self.sights[at] == Sight::Blind => return None,
                Some(upstream) if !lost[upstream] => upstream,
                // One that has only just lost its walreceiver goes its way too: each change of a route ends it for a moment.
                None if !matches!(self.world.rooted(self.names[at]), Some(Rooted::Yes { .. })) => return Some(false),
                Some(_) | None => match self.onward(at, lost) {
                    Onward::To(next) => next,
                    Onward::Stuck(_) | Onward::Nowhere => return Some(false),
                    Onward::Untold => return None,
                },
            };
        }
        Some(false)
    }
}

/// What a loss would do that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Harm<'a> {
    /// Children that would be fed by nobody.
    unfed: Vec<usize>,
    /// One that they would be stuck at.
    stuck_at: Option<usize>,
    /// Who would have too many children, and how many.
    crowded: Option<(usize, usize)>,
    /// The region that would get too many streams from others, and how many.
    flooded: Option<(&'a str, usize)>,
}

impl Harm<'_> {
    /// Children without WAL are worse than too many children, and those than streams between regions.
    fn weight(&self) -> (usize, usize, usize) {
        (self.unfed.len(), self.crowded.map_or(0, |(_, n)| n), self.flooded.map_or(0, |(_, n)| n))
    }
}

/// The worst of several losses.
enum Worst<'a> {
    /// There is nothing that could be lost.
    NothingToTell,
    /// None does harm, as far as can be told.
    None,
    /// This one.
    Harm(Loss, Harm<'a>),
}

/// What is counted for one loss, and wiped for the next.
struct Scratch {
    lost: Vec<bool>,
    gained: Vec<usize>,
}

impl Scratch {
    fn of(tree: &Tree<'_>) -> Self {
        Self { lost: vec![false; tree.names.len()], gained: vec![0; tree.names.len()] }
    }

    fn worst<'a>(&mut self, tree: &Tree<'a>, losses: Vec<(Loss, Vec<usize>)>) -> Worst<'a> {
        let mut worst = if losses.is_empty() { Worst::NothingToTell } else { Worst::None };
        for (loss, mut members) in losses {
            members.retain(|member| *member != tree.primary);
            self.lose(&members, true);
            let harm = self.harm(tree, &members);
            self.lose(&members, false);
            let weight = harm.weight();
            let least = if let Worst::Harm(_, harm) = &worst { harm.weight() } else { Default::default() };
            if weight > least {
                worst = Worst::Harm(loss, harm);
            }
        }
        worst
    }

    fn lose(&mut self, members: &[usize], lost: bool) {
        for member in members {
            self.lost[*member] = lost;
        }
    }

    fn harm<'a>(&mut self, tree: &Tree<'a>, members: &[usize]) -> Harm<'a> {
        let mut harm = Harm { unfed: Vec::new(), stuck_at: None, crowded: None, flooded: None };
        let mut entering: BTreeMap<usize, isize> = BTreeMap::new();
        let mut enter = |child: usize, upstream: usize, by: isize| {
            if tree.enters(child, upstream) {
                *entering.entry(tree.region_of[child]).or_default() += by;
            }
        };
        let mut touched = Vec::new();
        for &member in members {
            if let Some(upstream) = tree.upstreams[member] {
                enter(member, upstream, -1);
            }
            for &child in tree.children[member].iter().filter(|child| !self.lost[**child]) {
                enter(child, member, -1);
                match tree.onward(child, &self.lost) {
                    Onward::To(next) => {
                        enter(child, next, 1);
                        self.gained[next] += 1;
                        touched.push(next);
                        if tree.is_fed(next, &self.lost) == Some(false) {
                            harm.unfed.push(child);
                        }
                    }
                    Onward::Stuck(at) => {
                        harm.unfed.push(child);
                        harm.stuck_at = harm.stuck_at.or(Some(at));
                    }
                    Onward::Nowhere => harm.unfed.push(child),
                    Onward::Untold => {}
                }
            }
        }
        for at in touched {
            let gained = std::mem::take(&mut self.gained[at]);
            let gone = tree.children[at].iter().filter(|child| self.lost[**child]).count();
            let children = tree.children[at].len() + gained - gone;
            let burst = burst(tree.world.fan_out(tree.names[at]));
            if gained > gone && children > burst && harm.crowded.is_none_or(|(_, most)| children > most) {
                harm.crowded = Some((at, children));
            }
        }
        let limit = tree.world.desired.limits.cross_region_streams;
        for (region, more) in entering.into_iter().filter(|(_, more)| *more > 0) {
            let streams = tree.entering[region].saturating_add_signed(more);
            if streams > limit && harm.flooded.is_none_or(|(_, most)| streams > most) {
                harm.flooded = Some((tree.regions[region], streams));
            }
        }
        harm
    }
}
