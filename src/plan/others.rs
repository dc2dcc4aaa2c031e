//! Living beside somebody else's manager: whose slots are whose, and how often one that he drops is made again.

use super::World;
use super::world::At;
use crate::model::memory::KeptSlot;
use crate::model::{Diagnosis, Management};

/// How often a slot that somebody else drops is made again at once.
const REMADE_AT_ONCE_MAX: u32 = 3;

/// How often it is made again after that, in milliseconds: nobody is helped by a fight.
const REMADE_EVERY_MILLISECONDS: u64 = 30_000;

/// So many slots are named to a person; of more, their kind.
const NAMED_MAX: usize = 8;

/// Between two servers of somebody else a slot is his, whatever its name. A node that was taken out of the spec is one of
/// somebody else unless its routes were seen to be ours.
pub(super) fn is_his(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    let owner_is_his = || match world.observed.memory.leaving.get(owner.name) {
        Some(leaver) => !leaver.routed,
        None => world.management(owner) == Management::Observe,
    };
    world.management(on) == Management::Observe && owner_is_his()
}

fn kept<'a>(world: &World<'a>, owner: At<'_>, on: At<'_>) -> Option<&'a KeptSlot> {
    world.memory(on).and_then(|memory| memory.kept.slot(owner.name.slot()))
}

/// Whether a slot that is missing is left so for now, because somebody else has dropped it again and again. Not while
/// its owner receives from nobody: once in use, nobody drops it.
pub(super) fn rests(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    let often = |slot: &&KeptSlot| slot.removed > REMADE_AT_ONCE_MAX && !slot.there;
    let lately = |slot: &KeptSlot| world.now.since(slot.since) < REMADE_EVERY_MILLISECONDS;
    world.upstream(owner).is_some() && kept(world, owner, on).filter(often).is_some_and(lately)
}

/// Whether somebody else drops our slots on a server, whose, and how to stop it.
pub(super) fn removed(world: &World<'_>, on: At<'_>) -> Option<(Diagnosis, String)> {
    let is_ours = |owner: &At<'_>| world.management(*owner).sets_routes();
    // On a server of ours once is an accident, or a server that was made anew.
    let least = if world.management(on) == Management::Observe { 1 } else { 2 };
    let often = world.memory(on)?.kept.removed(least);
    let owners = often.filter_map(|slot| world.owner(slot));
    let dropped: Vec<&str> = owners.filter(is_ours).map(|owner| owner.name.as_str()).collect();
    if dropped.is_empty() {
        return None;
    }
    // All that may ever be there, as the list of the other manager is one.
    let ours = world.all().filter(is_ours);
    let slots: Vec<&str> = ours.filter(|owner| may_use(world, *owner, on)).map(|owner| owner.name.slot()).collect();
    let seen = format!("somebody else drops the slots of {} on {on}; they are made again, calmly", dropped.join(", "));
    Some((Diagnosis::SlotRemovedByOther, format!("{seen}. {}", how_to_stop(&slots))))
}

/// How the other manager is told to leave these slots alone.
fn how_to_stop(slots: &[&str]) -> String {
    let named = slots.len() <= NAMED_MAX;
    let ignored: Vec<String> = if named {
        slots.iter().map(|slot| format!(r#"{{"name": "{slot}", "type": "physical"}}"#)).collect()
    } else {
        vec![r#"{"type": "physical"}"#.to_owned()]
    };
    // Regular expressions that may fit anywhere in a name. Its own slots, which begin with _cnpg_, no pattern excludes.
    let excluded = if named { format!("^({})$", slots.join("|")) } else { ".".to_owned() };
    let patroni = format!("patronictl edit-config -s 'ignore_slots=[{}]'", ignored.join(", "));
    let cluster =
        format!(r#"spec.replicationSlots.synchronizeReplicas.excludePatterns of the Cluster to ["{excluded}"]"#);
    let others = "Any other manager has to leave slots of these names alone";
    format!("With Patroni run: {patroni}. With CloudNativePG set {cluster}. {others}.")
}

/// Whether a slot of `owner` belongs on `on` now or after a change of the primary: the servers of one group take turns.
fn may_use(world: &World<'_>, owner: At<'_>, on: At<'_>) -> bool {
    let group = world.group(on).map(|group| &group.name);
    let there = |node: At<'_>| world.group(node).map(|group| &group.name) == group;
    let installed = world.installed(owner).into_iter().flat_map(|route| &route.entries).any(|entry| there(*entry));
    installed || world.upstream(owner).is_some_and(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manager_is_told_to_leave_our_slots_alone_in_its_own_words() {
        assert_eq!(
            how_to_stop(&["eu_1", "eu_2"]),
            r#"With Patroni run: patronictl edit-config -s 'ignore_slots=[{"name": "eu_1", "type": "physical"}, "#
                .to_owned()
                + r#"{"name": "eu_2", "type": "physical"}]'. With CloudNativePG set "#
                + r#"spec.replicationSlots.synchronizeReplicas.excludePatterns of the Cluster to ["^(eu_1|eu_2)$"]. "#
                + "Any other manager has to leave slots of these names alone."
        );
        let many = how_to_stop(&["eu_1"; NAMED_MAX + 1]);
        assert!(many.contains(r#"'ignore_slots=[{"type": "physical"}]'"#), "{many}");
        assert!(many.contains(r#"excludePatterns of the Cluster to ["."]"#), "{many}");
    }
}
