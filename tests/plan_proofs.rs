//! What the planner relies on (laws 2, 3, 9 and 10 of design.md section 3), over random fleets in which slots are lost,
//! late or hold back transactions, WAL is gone, histories part and servers tell what is not so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::collections::BTreeMap;

use fleet::laws::{act, as_wanted, has_all_of, look, round, settle};
use fleet::shapes::{Shape, brownfield, config, desired, downhill, draws, shapes};
use fleet::{Fleet, SEGMENT};
use proptest::prelude::*;
use strum::IntoEnumIterator as _;
use waltree::model::tree::Edge;
use waltree::model::{Desired, Diagnosis, Facts, Lsn, NodeName, Observed, Sight, burst};
use waltree::plan::{Plan, Readiness, StepKind, Why};

/// What befalls a fleet.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Dies,
    Returns,
    /// All its slots are invalidated.
    LosesSlots,
    /// All its slots were made anew, after what it has.
    SlotsAhead,
    /// The primary goes on on another timeline.
    NewTimeline,
    /// It has WAL that the primary's new timeline does not have.
    Diverges,
    /// Its slots hold back transactions.
    HoldsXmin,
}

fn blows() -> impl Strategy<Value = Vec<(Blow, u8, usize)>> {
    let blow = prop_oneof![
        3 => Just(Blow::Dies),
        3 => Just(Blow::Returns),
        2 => Just(Blow::LosesSlots),
        2 => Just(Blow::SlotsAhead),
        1 => Just(Blow::NewTimeline),
        1 => Just(Blow::Diverges),
        1 => Just(Blow::HoldsXmin),
    ];
    prop::collection::vec((blow, any::<u8>(), 1..14_usize), 1..10)
}

fn strike(fleet: &mut Fleet, blow: Blow, node: &NodeName) {
    let slot = node.slot().to_owned();
    match blow {
        Blow::Dies => fleet.set_up(node, false),
        Blow::Returns => fleet.set_up(node, true),
        Blow::LosesSlots => {
            for server in fleet.servers.values_mut().filter(|server| server.slots.contains_key(&slot)) {
                server.lost.insert(slot.clone());
            }
            fleet.servers.get_mut(node).unwrap().upstream = None;
        }
        Blow::SlotsAhead => {
            for server in fleet.servers.values_mut() {
                let to = server.position;
                server.slots.entry(slot.clone()).and_modify(|restart| *restart = to);
            }
        }
        Blow::NewTimeline => fleet.begin_timeline(),
        Blow::Diverges => {
            let beyond = Lsn(fleet.servers[&fleet.primary].position.0 + SEGMENT);
            fleet.begin_timeline();
            let server = fleet.servers.get_mut(node).unwrap();
            (server.position, server.upstream) = (beyond, None);
        }
        Blow::HoldsXmin => {
            for server in fleet.servers.values_mut().filter(|server| server.slots.contains_key(&slot)) {
                server.xmin.insert(slot.clone());
            }
        }
    }
}

/// Law 2, of what counts as ready: a slot that is of use, the WAL that the child would ask for, and a history that
/// has all of the child's.
/// `rooted`: when a path was there last; one that is away for less than the patience is not given up.
fn ready_is_proven(
    fleet: &Fleet,
    rooted: &BTreeMap<NodeName, u64>,
    observed: &Observed,
    made: &Plan,
) -> Result<(), TestCaseError> {
    let all = made.fallbacks.iter().flat_map(|(node, states)| states.iter().map(move |state| (node, state)));
    for (node, (up, _)) in all.filter(|(_, (_, readiness))| *readiness == Readiness::Unproven) {
        let (child, facts) = (observed.seen(node), observed.seen(up));
        prop_assert!(child.is_some() && facts.is_some(), "law 8: {up} is ready for {node}, unseen");
        let patience = fleet.desired.healing.suspect_after_milliseconds;
        let has_path = rooted.get(up).is_some_and(|at| fleet.now.0 - at <= patience);
        prop_assert!(has_path, "law 2: {up} is ready for {node} and has no path");
        prop_assert!(has_all_of(child.unwrap(), facts.unwrap()), "law 2: {up} is ready for {node}: {facts:?}");
        let slot = facts.unwrap().slots.get(node.slot());
        let of_use = slot.is_some_and(|slot| !slot.lost && slot.restart_lsn.is_some());
        prop_assert!(of_use, "law 2: {up} is ready for {node} by {slot:?}");
    }
    Ok(())
}

/// Law 10: that WAL is gone is said of nobody for whom a server that is seen and has a path has it, and of nobody who may
/// have it himself.
fn gone_is_gone(fleet: &Fleet, observed: &Observed, made: &Plan) -> Result<(), TestCaseError> {
    for finding in made.findings.iter().filter(|finding| finding.diagnosis == Diagnosis::WalGone) {
        let needed = fleet.servers[&finding.node].position.segment_start(SEGMENT);
        let others = fleet.servers.iter().filter(|(up, _)| **up != finding.node && observed.seen(up).is_some());
        let mut rooted = others.filter(|(up, _)| fleet.is_rooted(up));
        let has = rooted.find(|(_, server)| server.oldest_wal <= needed).map(|(up, _)| up);
        prop_assert!(has.is_none(), "law 10: {has:?} has what {finding:?} lacks");
        let read = observed.memory.node(&finding.node).and_then(|memory| memory.read_its_own);
        let replayed = observed.seen(&finding.node).map(|facts| facts.replay);
        prop_assert!(read.is_some() && read == replayed, "law 10: what {finding:?} has itself is not read");
    }
    Ok(())
}

/// A node that says what is not so, or of which others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// It names the last of the root group as its upstream.
    ReceivesElsewhere,
    ReceivesNothing,
    UsesAnotherSlot,
    HasNoSenders,
    HasNoHolders,
    SendersWithoutNames,
}

fn lies() -> impl Strategy<Value = Vec<(Lie, u8)>> {
    let lie = prop_oneof![
        Just(Lie::ReceivesElsewhere),
        Just(Lie::ReceivesNothing),
        Just(Lie::UsesAnotherSlot),
        Just(Lie::HasNoSenders),
        Just(Lie::HasNoHolders),
        Just(Lie::SendersWithoutNames),
    ];
    prop::collection::vec((lie, any::<u8>()), 1..5)
}

fn say(facts: &mut Facts, lie: Lie, other: &NodeName) {
    match lie {
        Lie::ReceivesElsewhere => facts.receiver.iter_mut().for_each(|receiver| receiver.host = other.to_string()),
        Lie::ReceivesNothing => facts.receiver = None,
        Lie::UsesAnotherSlot => facts.receiver.iter_mut().for_each(|receiver| receiver.slot = Some("other".to_owned())),
        Lie::HasNoSenders => facts.senders.clear(),
        Lie::HasNoHolders => facts.slots.values_mut().for_each(|slot| slot.active_pid = None),
        Lie::SendersWithoutNames => {
            for sender in &mut facts.senders {
                "walreceiver".clone_into(&mut sender.application_name);
            }
        }
    }
}

/// The upstream that both ends agree on: the child names it and uses its own slot, and there a walsender of the
/// child's name
/// holds that slot.
fn agreed(desired: &Desired, observed: &Observed, child: &NodeName) -> Option<NodeName> {
    let receiver = observed.seen(child)?.receiver.as_ref()?;
    let named = desired.nodes.values().find(|spec| spec.address == receiver.host && spec.port == receiver.port)?;
    let up = observed.seen(&named.name)?;
    let holder = up.slots.get(child.slot())?.active_pid?;
    let is_his = |name: &str, pid: i32| name == child.as_str() && pid == holder;
    let held = up.senders.iter().any(|sender| is_his(&sender.application_name, sender.pid));
    (held && receiver.slot.as_deref() == Some(child.slot())).then(|| named.name.clone())
}

/// Law 9: an edge is seen when both ends agree, a slot is released and an arrival recorded only by an edge that is
/// seen.
fn verified_before_recorded(fleet: &Fleet, observed: &Observed, made: &Plan) -> Result<(), TestCaseError> {
    let desired = &fleet.desired;
    for (node, edge) in Sight::of(desired, observed).edges {
        let seen = if let Edge::Both(up) = &edge { Some(up.clone()) } else { None };
        prop_assert_eq!(seen, agreed(desired, observed, &node), "law 9: {} is at {:?}", node, edge);
    }
    for planned in made.steps.iter().filter(|planned| planned.why == Why::LeftRoute) {
        let elsewhere = agreed(desired, observed, planned.step.owner());
        let verified = elsewhere.is_some_and(|up| up != *planned.step.server());
        prop_assert!(verified, "laws 3, 9: {planned} and its owner is not seen elsewhere by both ends");
    }
    Ok(())
}

/// Orders that were noted as arrived.
fn arrived(fleet: &Fleet) -> BTreeMap<NodeName, u64> {
    let arrived = fleet.memory.nodes.iter().filter_map(|(node, memory)| Some((node, memory.ordered.as_ref()?)));
    arrived.filter(|(_, order)| order.arrived).map(|(node, order)| (node.clone(), order.at.0)).collect()
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn nobody_is_moved_to_one_that_lacks_his_slot_his_wal_or_his_history(
        shape in shapes(),
        parents in draws(),
        blows in blows(),
    ) {
        let mut fleet = brownfield(&desired(&shape), &parents);
        settle(&mut fleet)?;
        let names = fleet.standbys();
        let mut rooted: BTreeMap<_, _> = fleet.servers.keys().map(|node| (node.clone(), fleet.now.0)).collect();
        for (blow, which, rounds) in blows.iter().filter(|_| !names.is_empty()) {
            strike(&mut fleet, *blow, &names[usize::from(*which) % names.len()]);
            for _ in 0..*rounds {
                let (observed, made) = look(&mut fleet)?;
                let paths = fleet.servers.keys().filter(|node| fleet.is_rooted(node));
                rooted.extend(paths.map(|node| (node.clone(), fleet.now.0)));
                ready_is_proven(&fleet, &rooted, &observed, &made)?;
                gone_is_gone(&fleet, &observed, &made)?;
                act(&mut fleet, &made, |_| true)?;
            }
        }
        fleet.clone_anew();
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
    }

    #[test]
    fn idle_slots_hold_back_no_transactions_and_no_more_wal_than_the_bound(
        shape in shapes(),
        parents in draws(),
        away in prop::collection::vec(any::<u8>(), 0..4),
        holding in prop::collection::vec(any::<u8>(), 0..4),
        bound_segments in 6..14_u64,
    ) {
        let mut desired = desired(&shape);
        desired.limits.retained_wal_bytes = bound_segments * SEGMENT;
        let mut fleet = brownfield(&desired, &parents);
        settle(&mut fleet)?;
        let names = fleet.standbys();
        let at = |which: &u8| &names[usize::from(*which) % names.len()];
        if !names.is_empty() {
            for which in &holding {
                strike(&mut fleet, Blow::HoldsXmin, at(which));
            }
            for which in &away {
                strike(&mut fleet, Blow::Dies, at(which));
            }
        }
        // A slot whose owner streams elsewhere is moved forward every 10 s, within which it keeps less than six
        // segments here.
        // Ten seconds count as a reconnect, ten more is the pace of what is moved forward; then the bound has to be
        // passed.
        for _ in 0..40 + 4 * bound_segments {
            round(&mut fleet, |_| true)?;
        }
        is_released(&fleet)?;
    }

    #[test]
    fn an_edge_is_recorded_only_when_both_its_ends_agree(
        shape in shapes(),
        parents in draws(),
        lies in lies(),
        lost in prop::collection::vec((any::<u8>(), 1..9_usize), 1..5),
    ) {
        let mut fleet = downhill(&desired(&shape), &parents);
        let names: Vec<NodeName> = fleet.desired.nodes.keys().cloned().collect();
        let at = move |which: u8| names[usize::from(which) % names.len()].clone();
        let told: Vec<_> = lies.iter().map(|(lie, who)| (*lie, at(*who))).collect();
        let root = fleet.desired.root().unwrap().members.clone();
        fleet.says = Box::new(move |node, facts| {
            // One of the root group that named another would tell of a ring.
            let may = |lie: Lie| lie != Lie::ReceivesElsewhere || !root.contains(node);
            let his = told.iter().filter(|(lie, who)| who == node && may(*lie));
            his.for_each(|(lie, _)| say(facts, *lie, root.last().unwrap()));
        });
        for (which, rounds) in &lost {
            let node = at(*which);
            fleet.set_up(&node, !fleet.servers[&node].up || node == fleet.primary);
            for _ in 0..*rounds {
                let before = arrived(&fleet);
                let (observed, made) = look(&mut fleet)?;
                verified_before_recorded(&fleet, &observed, &made)?;
                for (node, order) in observed.memory.nodes.iter().filter_map(|(n, m)| Some((n, m.ordered.as_ref()?))) {
                    let is_new = order.arrived && before.get(node) != Some(&order.at.0);
                    let verified = agreed(&fleet.desired, &observed, node).as_ref() == order.route.first();
                    prop_assert!(!is_new || verified, "law 9: {node} is noted as arrived by {order:?}");
                }
                act(&mut fleet, &made, |_| true)?;
            }
        }
        fleet.says = Box::new(|_, _| {});
        fleet.clone_anew();
        let made = settle(&mut fleet)?;
        as_wanted(&fleet, &made)?;
    }
}

/// Law 3 in the end: no idle slot on a server that runs holds back transactions, or keeps more WAL than the bound
/// beyond what the server needs for its own recovery.
fn is_released(fleet: &Fleet) -> Result<(), TestCaseError> {
    for (on, server) in fleet.servers.iter().filter(|(_, server)| server.up) {
        let feeds = |slot: &str| fleet.servers.values().any(|s| s.slot == slot && s.upstream.as_ref() == Some(on));
        let redo = Lsn(server.position.0.saturating_sub(SEGMENT)).segment_start(SEGMENT);
        for (slot, restart) in server.slots.iter().filter(|(slot, _)| !feeds(slot)) {
            prop_assert!(!server.xmin.contains(slot), "law 3: {slot} on {on} holds back transactions");
            let kept = redo.bytes_since(restart.segment_start(SEGMENT));
            let bound = fleet.desired.limits.retained_wal_bytes;
            prop_assert!(kept <= bound, "law 3: {slot} on {on} keeps {kept} bytes, bound {bound}");
        }
    }
    Ok(())
}

/// Law 10: no kind of step makes data anew. A kind that is added has to be judged here.
#[test]
fn no_step_clones_a_server_or_makes_its_data_anew() {
    let touches_data = |kind: StepKind| match kind {
        StepKind::Heartbeat
        | StepKind::CreateSlot
        | StepKind::AdvanceSlot
        | StepKind::ClearXmin
        | StepKind::RecreateSlot
        | StepKind::DropSlot
        | StepKind::EndSender
        | StepKind::SetRoute
        | StepKind::TryDisk
        | StepKind::Reload => false,
    };
    assert!(!StepKind::iter().any(touches_data));
}

#[test]
fn wal_that_no_other_server_has_is_gone_only_for_who_has_come_to_the_end_of_his_own() {
    let mut fleet = downhill(&desired(&Shape { root: 2, regions: vec![(1, 1)], zones: 0 }), &[0; 32]);
    settle(&mut fleet).unwrap();
    let leaf = NodeName::new("r0-1").unwrap();
    // Meanwhile it replays: without a name for what it does, from an archive, and amid one long record.
    let own = [None, Some("RestoreCommand"), Some("DataFileRead")];
    let ends = [Some("RecoveryRetrieveRetryInterval"), Some("RecoveryWalStream")];
    let mut told = Vec::new();
    for (second, wait) in (0_u64..).zip([own.repeat(3), ends.to_vec(), own.to_vec()].concat()) {
        let (of, read) = (leaf.clone(), Lsn(SEGMENT + second.min(6)));
        fleet.says = Box::new(move |node, facts| {
            if *node == of {
                (facts.receiver, facts.position, facts.replay) = (None, read, read);
                facts.startup_wait = wait.map(str::to_owned);
            } else {
                facts.oldest_wal = Some(Lsn(4 * SEGMENT));
            }
        });
        fleet.tick(1_000);
        let found = fleet.plan().1.findings.into_iter().find(|finding| finding.node == leaf);
        told.extend(found.map(|found| (found.diagnosis, found.message.contains("Nothing to do yet"))));
    }
    told.dedup();
    // Once at the end it stays there until it has replayed more.
    assert_eq!(told, [(Diagnosis::CutOffLeaf, true), (Diagnosis::WalGone, false)]);
}

/// A region of two relays of which so many leaves come back after a while, and nobody in it has the WAL that they miss.
fn wal_is_left_on_the_primary_alone(streams: usize, leaves: usize) -> (Fleet, Vec<NodeName>) {
    let mut desired = desired(&Shape { root: 2, regions: vec![(2, 6)], zones: 0 });
    desired.limits.cross_region_streams = streams;
    desired.groups[0].fan_out = 4;
    let mut fleet = downhill(&desired, &[0; 32]);
    settle(&mut fleet).unwrap();
    let back: Vec<NodeName> = (2..2 + leaves).map(|i| NodeName::new(&format!("r0-{i}")).unwrap()).collect();
    for leaf in &back {
        fleet.set_up(leaf, false);
    }
    fleet.tick(60_000);
    for (_, server) in
        fleet.servers.iter_mut().filter(|(node, server)| **node != desired.groups[0].members[0] && server.up)
    {
        server.oldest_wal = server.position;
        server.slots.retain(|slot, _| back.iter().all(|leaf| leaf.slot() != slot));
    }
    (fleet, back)
}

#[test]
fn leaves_whose_relays_have_lost_their_wal_go_where_it_is_and_back_and_are_counted_there() {
    for (streams, leaves) in [(4, 1), (2, 1), (4, 6)] {
        let (mut fleet, back) = wal_is_left_on_the_primary_alone(streams, leaves);
        for leaf in &back {
            fleet.set_up(leaf, true);
        }
        let mut fed_by: BTreeMap<&NodeName, Vec<String>> = BTreeMap::new();
        for _ in 0..80 {
            let (_, made) = look(&mut fleet).unwrap();
            act(&mut fleet, &made, |_| true).unwrap();
            for leaf in &back {
                fed_by.entry(leaf).or_default().extend(fleet.servers[leaf].upstream.as_ref().map(NodeName::to_string));
            }
            let children = fleet.servers.values().filter(|server| server.upstream.as_ref() == Some(&fleet.primary));
            // One alone goes there whatever the limits: a path comes before them.
            assert!(children.count() <= burst(4), "{streams} {leaves} {fed_by:?}");
        }
        for (leaf, mut upstreams) in fed_by {
            upstreams.dedup();
            assert!(upstreams.len() == 2 && upstreams[1].starts_with("r0-"), "{streams} {leaf} {upstreams:?}");
            assert!(leaves > 1 || upstreams[0] == "core-0", "{streams} {leaf} {upstreams:?}");
        }
    }
}
