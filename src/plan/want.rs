//! The wanted tree: a route for every node, within the limits now and after the loss of any one node.

use super::fallbacks::routes;
use super::prefer::preferences;
use super::spread::Spread;
use super::standing::Standing;
use super::step::{Plan, Readiness};
use super::world::{At, RouteAt};
use super::{World, ready, slots};
use crate::model::Group;

/// The wanted routes, by the places of the nodes in them: every pass looks at all of them.
#[derive(Default)]
pub(super) struct Wanted<'a> {
    /// In the order of the groups.
    pub(super) routes: Vec<(At<'a>, RouteAt<'a>)>,
    /// Where the route of each node is among them.
    index: Vec<Option<usize>>,
}

impl<'a> Wanted<'a> {
    fn of(world: &'a World<'a>) -> Self {
        let routes = routes(&Spread::of(world, preferences(world)));
        let mut index = vec![None; world.desired.nodes.len()];
        routes.iter().enumerate().for_each(|(at, (node, _))| index[node.place()] = Some(at));
        Self { routes, index }
    }

    /// The wanted route of a node; `None` where there is none.
    pub(super) fn get(&self, node: At<'_>) -> Option<&RouteAt<'a>> {
        let at = (*self.index.get(node.place())?)?;
        self.routes.get(at).map(|(_, route)| route)
    }
}

/// Fills in `plan.wanted`, `plan.fallbacks` and `plan.shortages`.
pub(super) fn want<'a>(world: &'a World<'a>, plan: &mut Plan) -> Wanted<'a> {
    let wanted = Wanted::of(world);
    plan.wanted = wanted.routes.iter().map(|(node, route)| (node.name.clone(), route.named())).collect();
    plan.fallbacks.reserve(wanted.routes.len());
    // A server whose route is not ours to set needs no fallbacks: none is prepared for it.
    let barred = |node: At<'_>| world.standing(node) == Standing::Barred || world.is_twice(node.name);
    let ours = |node: At<'_>| !barred(node) && world.management(node).sets_routes();
    for (node, route) in wanted.routes.iter().filter(|(node, _)| ours(*node)) {
        let states: Vec<_> = route.fallbacks().iter().map(|up| (*up, ready::fallback(world, *node, *up))).collect();
        // Where there is no slot, nothing is ready.
        let without = states.iter().filter(|(_, readiness)| *readiness == Readiness::NotReady).map(|(up, _)| *up);
        let given_up = without.filter(|up| slots::is_given_up(world, *node, *up));
        plan.given_up.extend(given_up.map(|up| (node.name.clone(), up.name.clone())));
        let states = states.into_iter().map(|(up, readiness)| (up.name.clone(), readiness));
        plan.fallbacks.insert(node.name.clone(), states.collect());
    }
    plan.shortages = shortages(world, &wanted);
    wanted
}

/// One sentence for each group in which nodes have no fallback at all. A node right below the primary goes on to the next
/// primary only; where the root group has no other that could be it, there is no fallback to be had.
fn shortages(world: &World<'_>, wanted: &Wanted<'_>) -> Vec<String> {
    let root = world.desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
    let spared = |node: At<'_>, route: &RouteAt<'_>| {
        let last = root.iter().all(|member| member == node.name || world.is_primary(member));
        last && route.first().is_some_and(|first| world.is_primary(first.name))
    };
    let without = |node: &&At<'_>| {
        let bare = wanted.get(**node).filter(|route| route.fallbacks().is_empty());
        bare.is_some_and(|route| world.management(**node).sets_routes() && !spared(**node, route))
    };
    let sentence = |(group, members): (&Group, &Vec<At<'_>>)| {
        let count = members.iter().filter(without).count();
        let size = group.members.len();
        (count > 0).then(|| {
            format!(
                "{count} of {size} nodes of {} have no fallback within the limits: add a relay or a root standby, or \
                 raise fanOut",
                group.name
            )
        })
    };
    world.desired.groups.iter().zip(&world.members).filter_map(sentence).collect()
}
