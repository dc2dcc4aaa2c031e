//! The tree as it was found, and the groups that say so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::names;
use crate::model::check::feeder_ranks;
use crate::model::{
    Automation, Desired, Found, Group, GroupName, Healing, Limits, Management, NodeName, NodeSpec, Reads,
};

/// So many standbys that feed nobody stand beside the primary in the root group; more of them are readers rather than
/// heirs, and each member of the root group has a slot on every other.
const HEIRS_MAX: usize = 4;
/// Most groups that one names as its upstreams.
const UPSTREAMS_MAX: usize = 4;
/// The name of the root group.
const ROOT: &str = "core";
/// The name of the group of readers right below the primary.
const READERS: &str = "readers";

/// The defaults of the resource.
const LIMITS: Limits = Limits { fan_out: 8, depth: 4, cross_region_streams: 2, retained_wal_bytes: 10 << 30 };
const HEALING: Healing = Healing { suspect_after_milliseconds: 2_000, lag_seconds: 30, settle_seconds: 60 };

/// Who feeds whom, from the primary down.
pub(super) struct Shape {
    root: usize,
    children: BTreeMap<usize, Vec<usize>>,
    primary_seen: bool,
}

/// The relays of one group with the leaves that they feed, and the groups above, the nearest first.
struct Set {
    relays: Vec<usize>,
    leaves: Vec<usize>,
    upstreams: Vec<GroupName>,
}

impl Shape {
    /// The tree below the primary; where none was found, below whoever feeds most. `None` when nobody was found.
    pub(super) fn of(found: &[Found]) -> Option<Self> {
        let mut all: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (child, server) in found.iter().enumerate() {
            all.entry(child).or_default();
            if let Some(upstream) = server.upstream {
                all.entry(upstream).or_default().push(child);
            }
        }
        let tops = (0..found.len()).filter(|place| found[*place].upstream.is_none());
        let size = |top: &usize| below(&all, *top).len();
        // Of two alike the first that was found.
        let root = tops.max_by_key(|top| (!found[*top].facts.in_recovery, size(top), std::cmp::Reverse(*top)))?;
        let inside = below(&all, root);
        all.retain(|place, _| inside.contains(place));
        Some(Self { root, children: all, primary_seen: !found[root].facts.in_recovery })
    }

    pub(super) fn contains(&self, place: usize) -> bool {
        self.children.contains_key(&place)
    }

    /// Every child and its upstream.
    pub(super) fn edges(&self) -> impl Iterator<Item = (usize, usize)> {
        self.children.iter().flat_map(|(upstream, children)| children.iter().map(|child| (*child, *upstream)))
    }

    pub(super) fn remarks(&self, names: &[NodeName]) -> Vec<String> {
        let mut remarks = Vec::new();
        let root = &names[self.root];
        if !self.primary_seen {
            remarks.push(format!("No primary was found; {root} is taken for the top. Name one of its servers too."));
        }
        let readers = self.leaves(self.root).count();
        if readers > HEIRS_MAX {
            remarks.push(format!(
                "{readers} standbys that feed nobody hang right below {root}. Put those that may become the primary into \
                 the group {ROOT}: tier 1 then finds them by itself."
            ));
        }
        remarks
    }

    fn of_node(&self, node: usize) -> &[usize] {
        self.children.get(&node).map(Vec::as_slice).unwrap_or_default()
    }

    fn leaves(&self, node: usize) -> impl Iterator<Item = usize> {
        self.of_node(node).iter().copied().filter(|child| self.of_node(*child).is_empty())
    }

    fn relays(&self, node: usize) -> impl Iterator<Item = usize> {
        self.of_node(node).iter().copied().filter(|child| !self.of_node(*child).is_empty())
    }

    /// What to declare. With `together`, relays below one server that feed leaves only, and as many, are one group.
    pub(super) fn desired(
        &self,
        found: &[Found],
        names: &[NodeName],
        root_management: Management,
        together: bool,
    ) -> Option<Desired> {
        let mut writing = Writing { shape: self, found, names, taken: BTreeSet::new(), groups: Vec::new() };
        let (root, mut open) = (writing.root()?, VecDeque::new());
        for set in self.sets(self.root, together) {
            open.push_back(self.relays_of(set, std::slice::from_ref(&root)));
        }
        while let Some(relays) = open.pop_front() {
            let name = writing.write(&relays)?;
            let above: Vec<GroupName> = std::iter::once(name).chain(relays.upstreams).take(UPSTREAMS_MAX).collect();
            for set in relays.relays.iter().flat_map(|relay| self.sets(*relay, together)) {
                open.push_back(self.relays_of(set, &above));
            }
        }
        let mut desired = writing.desired();
        desired
            .groups
            .iter_mut()
            .filter(|group| group.name == root)
            .for_each(|group| group.management = root_management);
        Some(desired)
    }

    /// The relays below a server, in sets that make a group each. A group shares its leaves evenly among its relays, so
    /// only such a set is one that has them so already; one that feeds relays too is alone, because whoever names it as
    /// an upstream is to be fed by it and nobody else.
    fn sets(&self, node: usize, together: bool) -> Vec<Vec<usize>> {
        let feeds_relays = |relay: &usize| self.relays(*relay).next().is_some();
        let (deep, mut plain): (Vec<usize>, Vec<usize>) = self.relays(node).partition(feeds_relays);
        let load = |relay: usize| self.of_node(relay).len();
        plain.sort_by_key(|relay| std::cmp::Reverse(load(*relay)));
        let mut sets: Vec<Vec<usize>> = deep.into_iter().map(|relay| vec![relay]).collect();
        let alone = sets.len();
        for relay in plain {
            let fits =
                |set: &&mut Vec<usize>| together && set.first().is_some_and(|most| load(*most) <= load(relay) + 1);
            match sets.iter_mut().skip(alone).last().filter(fits) {
                Some(set) => set.push(relay),
                None => sets.push(vec![relay]),
            }
        }
        sets
    }

    /// The leaves of the set in turn, one of each relay: so they are shared out again.
    fn relays_of(&self, relays: Vec<usize>, above: &[GroupName]) -> Set {
        let mut of_each: Vec<VecDeque<usize>> = relays.iter().map(|relay| self.leaves(*relay).collect()).collect();
        let mut leaves = Vec::new();
        while of_each.iter().any(|left| !left.is_empty()) {
            leaves.extend(of_each.iter_mut().filter_map(VecDeque::pop_front));
        }
        Set { relays, leaves, upstreams: above.to_vec() }
    }
}

fn below(children: &BTreeMap<usize, Vec<usize>>, top: usize) -> BTreeSet<usize> {
    let (mut inside, mut open) = (BTreeSet::from([top]), vec![top]);
    while let Some(node) = open.pop() {
        open.extend(children.get(&node).into_iter().flatten().filter(|child| inside.insert(**child)));
    }
    inside
}

/// The groups written so far.
struct Writing<'a> {
    shape: &'a Shape,
    found: &'a [Found],
    names: &'a [NodeName],
    taken: BTreeSet<NodeName>,
    groups: Vec<Group>,
}

impl Writing<'_> {
    /// The root group, and the readers that hang right below the primary.
    fn root(&mut self) -> Option<GroupName> {
        let top = self.shape.root;
        let (mut heirs, mut readers): (Vec<usize>, Vec<usize>) = (self.shape.leaves(top).collect(), Vec::new());
        if heirs.len() > HEIRS_MAX {
            std::mem::swap(&mut heirs, &mut readers);
        }
        let members = std::iter::once(top).chain(heirs).collect::<Vec<_>>();
        let name = self.group(ROOT, &[], 0, &members, &[top])?;
        if !readers.is_empty() {
            self.group(READERS, std::slice::from_ref(&name), 0, &readers, &[])?;
        }
        Some(name)
    }

    fn write(&mut self, set: &Set) -> Option<GroupName> {
        let name = common(set.relays.iter().map(|relay| self.names[*relay].as_str()));
        let members: Vec<usize> = set.relays.iter().chain(&set.leaves).copied().collect();
        let relays = if set.leaves.is_empty() { 0 } else { set.relays.len() };
        self.group(&name, &set.upstreams, relays, &members, &set.relays)
    }

    /// A group in which nobody has more places than the default, but where the tree needs them.
    fn group(
        &mut self,
        name: &str,
        upstreams: &[GroupName],
        relays: usize,
        members: &[usize],
        feeders: &[usize],
    ) -> Option<GroupName> {
        let unused = names::unique(name, &self.taken)?;
        let name = GroupName::new(unused.as_str()).ok()?;
        self.taken.insert(unused);
        let fed = feeders.iter().map(|feeder| self.shape.of_node(*feeder).len()).max().unwrap_or(0);
        self.groups.push(Group {
            name: name.clone(),
            upstreams: upstreams.to_vec(),
            relays,
            region: None,
            management: Management::Routes,
            fan_out: fed.max(LIMITS.fan_out),
            members: members.iter().map(|member| self.names[*member].clone()).collect(),
        });
        Some(name)
    }

    fn desired(self) -> Desired {
        let place_of: BTreeMap<&NodeName, usize> = self.names.iter().enumerate().map(|(i, name)| (name, i)).collect();
        let mut nodes = BTreeMap::new();
        for (group, name) in self.groups.iter().enumerate().flat_map(|(i, g)| g.members.iter().map(move |m| (i, m))) {
            let server = &self.found[place_of[name]];
            let (address, port) = (server.address.clone(), server.port);
            nodes.insert(
                name.clone(),
                NodeSpec { name: name.clone(), group, address, hostaddr: None, port, zone: None },
            );
        }
        let mut desired = Desired {
            automation: Automation::Heal,
            deleting: false,
            acknowledged: BTreeSet::new(),
            leaving: BTreeSet::new(),
            limits: LIMITS,
            healing: HEALING,
            reads: Reads::default(),
            groups: self.groups,
            nodes: nodes.into_iter().collect(),
        };
        let hops = desired.groups.iter().zip(feeder_ranks(&desired)).map(|(group, rank)| {
            let own = if group.is_root() { group.members.len() > 1 } else { group.relays > 0 };
            rank + usize::from(own)
        });
        desired.limits.depth = hops.max().unwrap_or(0).max(LIMITS.depth);
        desired
    }
}

/// What the names of a group's relays begin with, or the first of them where they have nothing in common.
fn common<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let first = names.next().unwrap_or_default();
    let mut alone = true;
    let length = names.fold(first.len(), |length, name| {
        alone = false;
        first.bytes().zip(name.bytes()).take(length).take_while(|(one, other)| one == other).count()
    });
    let stem = first[..length].trim_end_matches(|c: char| c == '-' || c.is_ascii_digit());
    if alone || stem.is_empty() { first.to_owned() } else { stem.to_owned() }
}
