//! What is planned for slots that nobody uses, and for those that somebody uses who is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet::{Fleet, SEGMENT};
use waltree::model::memory::{FailedStep, Namesake};
use waltree::model::{
    Automation, ByNode, Desired, Diagnosis, Facts, Group, GroupName, Healing, Limits, Lsn, Management, Memory, Millis,
    NodeName, NodeSpec, Observed, Reads, Unseen, WhyUnseen, conninfo::Entry, observed::Sender,
};
use waltree::plan::{Done, Outcome, Plan, Planned, Readiness, Step, StepKind, Why, plan, record};

const BOUND: u64 = 128 << 20;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// A primary, two relays and four leaves.
fn desired() -> Desired {
    let mut desired = Desired {
        automation: Automation::Heal,
        deleting: false,
        acknowledged: BTreeSet::new(),
        leaving: BTreeSet::new(),
        limits: Limits { fan_out: 8, depth: 4, cross_region_streams: 2, retained_wal_bytes: BOUND },
        healing: Healing { suspect_after_milliseconds: 2_000, lag_seconds: 3_600, settle_seconds: 5 },
        reads: Reads::default(),
        groups: Vec::new(),
        nodes: ByNode::default(),
    };
    for (index, (group, size, relays, upstreams)) in
        [("core", 1, 0, &[][..]), ("eu", 6, 2, &["core"])].iter().enumerate()
    {
        let members: Vec<_> = (1..=*size).map(|i| name(&format!("{group}-{i}"))).collect();
        for member in &members {
            let address = member.to_string();
            let spec = NodeSpec { name: member.clone(), group: index, address, hostaddr: None, port: 5432, zone: None };
            desired.nodes.insert(member.clone(), spec);
        }
        desired.groups.push(Group {
            name: GroupName::new(group).unwrap(),
            upstreams: upstreams.iter().map(|up| GroupName::new(up).unwrap()).collect(),
            relays: *relays,
            region: None,
            management: Management::Routes,
            fan_out: 8,
            members,
        });
    }
    desired
}

/// The fleet as declared.
fn formed() -> Fleet {
    let mut fleet = Fleet::new(desired(), |_| name("core-1"));
    pass(&mut fleet, 60);
    assert_eq!(fleet.servers[&name("eu-3")].upstream, Some(name("eu-1")));
    fleet
}

/// Half seconds go by, and all that is planned is done.
fn pass(fleet: &mut Fleet, times: usize) -> Vec<Planned> {
    let mut done = Vec::new();
    for _ in 0..times {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        fleet.carry_out(&made, |_| true);
        done.extend(made.steps);
    }
    done
}

fn of(steps: &[Planned], on: &str, owner: &str) -> Vec<(&'static str, Why)> {
    let its = |planned: &&Planned| *planned.step.server() == name(on) && *planned.step.owner() == name(owner);
    steps.iter().filter(its).map(|planned| ((&planned.step).into(), planned.why)).collect()
}

/// What is planned when one server says something else.
fn planned_with(fleet: &mut Fleet, node: &str, change: impl FnOnce(&mut Facts)) -> (Observed, Plan) {
    let mut observed = fleet.observe();
    let view = observed.nodes.get_mut(&name(node)).unwrap();
    change(Arc::make_mut(view.last.as_mut().unwrap()));
    let made = plan(&fleet.desired, &observed, fleet.now);
    (observed, made)
}

#[test]
fn the_idle_slots_of_a_node_that_is_away_are_given_up_beyond_the_bound_and_no_others() {
    let mut fleet = formed();
    fleet.set_up(&name("eu-3"), false);
    let mut steps = Vec::new();
    let kept = |fleet: &Fleet| {
        let relay = &fleet.servers[&name("eu-1")];
        relay.slots.get("eu_3").map(|restart| (relay.position.0 - SEGMENT).saturating_sub(restart.0))
    };
    while kept(&fleet).is_some_and(|kept| kept <= BOUND) {
        assert_eq!(of(&steps, "eu-1", "eu-3"), []);
        steps.extend(pass(&mut fleet, 1));
    }
    steps.extend(pass(&mut fleet, 8));
    for on in ["core-1", "eu-1", "eu-2"] {
        assert_eq!(of(&steps, on, "eu-3"), [("DropSlot", Why::RetainedWal)], "once, and not made again, on {on}");
    }
    assert_eq!(steps.iter().filter(|planned| matches!(planned.step, Step::DropSlot { .. })).count(), 3);
    for others in ["eu_4", "eu_5", "eu_6"] {
        assert!(fleet.servers[&name("eu-2")].slots.contains_key(others));
    }
    let (_, made) = fleet.plan();
    assert!(made.given_up.contains(&(name("eu-3"), name("eu-2"))), "{:?}", made.given_up);
    assert!(made.retained_bytes.values().all(|bytes| *bytes <= BOUND), "{:?}", made.retained_bytes);
}

#[test]
fn the_farthest_behind_is_given_up_first_and_whoever_only_reconnects_not_at_once() {
    let mut fleet = formed();
    fleet.tick(500);
    for gone in ["eu-3", "eu-5"] {
        fleet.set_up(&name(gone), false);
    }
    let end = fleet.servers[&name("eu-2")].position.0 + 100 * SEGMENT;
    for (owner, behind) in [("eu_3", 20), ("eu_5", 30), ("eu_4", 0), ("eu_6", 0)] {
        fleet.servers.get_mut(&name("eu-2")).unwrap().slots.insert(owner.to_owned(), Lsn(end - behind * SEGMENT));
    }
    let ahead = |facts: &mut Facts| {
        facts.redo = Lsn(end);
        facts.slots.insert("somebody".to_owned(), facts.slots["eu_3"].clone());
    };
    let dropped = |made: &Plan| -> Vec<NodeName> {
        let given_up = made.steps.iter().filter(|planned| planned.why == Why::RetainedWal);
        given_up.map(|planned| planned.step.owner().clone()).collect()
    };
    let (_, made) = planned_with(&mut fleet, "eu-2", |facts| facts.redo = Lsn(end));
    assert_eq!(dropped(&made), [], "they may be back in a moment");
    for _ in 0..25 {
        fleet.now = fleet.now.plus(500);
        fleet.observe();
    }
    let (_, made) = planned_with(&mut fleet, "eu-2", |facts| facts.redo = Lsn(end));
    assert_eq!(dropped(&made), [name("eu-5"), name("eu-3")]);
    assert_eq!(made.retained_bytes[&name("eu-2")], 30 * SEGMENT);
    // What somebody else's slot keeps is kept anyway.
    let (_, made) = planned_with(&mut fleet, "eu-2", ahead);
    assert_eq!((dropped(&made), made.retained_bytes[&name("eu-2")]), (vec![name("eu-5")], 10 * SEGMENT));
}

#[test]
fn a_fallback_that_was_given_up_is_made_again_when_its_node_is_within_half_the_bound() {
    let mut fleet = formed();
    fleet.tick(500);
    let on = fleet.servers[&name("eu-2")].position.0;
    fleet.servers.get_mut(&name("eu-2")).unwrap().slots.remove("eu_3");
    let made_at = |fleet: &mut Fleet, behind: u64| {
        let (_, made) = planned_with(fleet, "eu-3", |facts| facts.replay = Lsn(on - SEGMENT - behind));
        of(&made.steps, "eu-2", "eu-3").iter().any(|(step, _)| *step == "CreateSlot")
    };
    assert!(made_at(&mut fleet, BOUND));
    assert!(!made_at(&mut fleet, BOUND + SEGMENT));
    let step = Step::DropSlot { on: name("eu-2"), owner: name("eu-3") };
    let done = Done { planned: Planned { step, why: Why::RetainedWal }, result: Ok(()) };
    record(&mut fleet.memory, &Outcome { done: vec![done] }, fleet.now);
    assert!(!made_at(&mut fleet, BOUND));
    assert!(made_at(&mut fleet, BOUND / 2));
}

#[test]
fn a_fallback_whose_slot_keeps_wal_only_from_beyond_what_its_node_replayed_is_not_relied_on_until_that_is_replayed() {
    let mut fleet = formed();
    fleet.tick(500);
    let at = fleet.servers[&name("eu-2")].position;
    let fallback = |made: &Plan| made.fallbacks[&name("eu-3")].iter().find(|(up, _)| *up == name("eu-2")).unwrap().1;
    let slot = |fleet: &mut Fleet, restart| slots(fleet, "eu-2").insert("eu_3".to_owned(), restart);
    // All that eu-3 would ask for is on the disk of eu-2, until the next restartpoint.
    slot(&mut fleet, at);
    let replayed = |replay| move |facts: &mut Facts| facts.replay = replay;
    let (_, made) = planned_with(&mut fleet, "eu-3", replayed(Lsn(at.0 - SEGMENT)));
    assert_eq!(fallback(&made), Readiness::Ahead);
    assert_eq!(of(&made.steps, "eu-2", "eu-3"), [], "it comes right by itself");
    assert!(!made.steps.iter().any(|planned| planned.step.kind() == StepKind::SetRoute), "and it stays in the route");
    let (_, made) = planned_with(&mut fleet, "eu-3", replayed(at));
    assert_eq!(fallback(&made), Readiness::Unproven);

    // It does not come into a route before.
    let route = fleet.servers[&name("eu-3")].conninfo.clone();
    let alone = route.with_route("eu-3", &[Entry::new("eu-1", 5432), Entry::new("core-1", 5432)], false);
    fleet.servers.get_mut(&name("eu-3")).unwrap().conninfo = alone;
    let set = |made: &Plan| {
        made.steps.iter().any(|planned| {
            matches!(&planned.step, Step::SetRoute { node, route, .. }
        if *node == name("eu-3") && route.contains(&name("eu-2")))
        })
    };
    let (_, made) = planned_with(&mut fleet, "eu-3", replayed(Lsn(at.0 - SEGMENT)));
    assert!(!set(&made));
    assert!(made.waits.iter().any(|wait| wait.node == name("eu-3") && wait.message.contains("replayed")), "{made:?}");
    let (_, made) = planned_with(&mut fleet, "eu-3", replayed(at));
    assert!(set(&made), "{made:?}");
    let branch = |facts: &mut Facts| {
        facts.timeline = Some(waltree::model::Timeline(2));
        facts.history = vec![(waltree::model::Timeline(1), Lsn(at.0 - 2 * SEGMENT))];
    };
    let (_, made) = planned_with(&mut fleet, "eu-2", branch);
    assert!(!set(&made), "nor one on whose history eu-3 is not");
}

#[test]
fn an_idle_slot_is_moved_forward_every_ten_seconds_and_not_with_each_look() {
    let mut fleet = formed();
    let mut at = Vec::new();
    for _ in 0..120 {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        let moves = of(&made.steps, "eu-2", "eu-3").contains(&("AdvanceSlot", Why::Release));
        at.extend(moves.then_some(fleet.now));
        fleet.carry_out(&made, |_| true);
    }
    // A segment is written every two seconds.
    assert!(at.len() >= 5, "{at:?}");
    assert!(at.windows(2).all(|pair| pair[1].since(pair[0]) >= 10_000), "{at:?}");
}

#[test]
fn the_xmin_of_an_idle_slot_is_cleared_on_the_wire_and_where_that_is_refused_by_making_it_anew_if_it_keeps_its_wal() {
    let mut fleet = formed();
    fleet.tick(500);
    let held = |facts: &mut Facts| facts.slots.get_mut("eu_3").unwrap().xmin = Some(700);
    let (_, made) = planned_with(&mut fleet, "eu-2", held);
    assert_eq!(of(&made.steps, "eu-2", "eu-3"), [("ClearXmin", Why::ReleaseXmin)]);
    let (_, made) = planned_with(&mut fleet, "eu-1", held);
    assert_eq!(of(&made.steps, "eu-1", "eu-3"), [], "that one is in use");

    let step = Step::ClearXmin { on: name("eu-2"), owner: name("eu-3") };
    let refused = Done { planned: Planned { step, why: Why::ReleaseXmin }, result: Err("no entry".to_owned()) };
    record(&mut fleet.memory, &Outcome { done: vec![refused] }, fleet.now);
    let (_, made) = planned_with(&mut fleet, "eu-2", held);
    assert_eq!(of(&made.steps, "eu-2", "eu-3"), [("RecreateSlot", Why::ReleaseXmin)]);
    assert!(made.findings.iter().any(|finding| finding.diagnosis.to_string() == "SlotHoldsXmin"));
    let beyond = |facts: &mut Facts| {
        held(facts);
        facts.redo = Lsn(facts.redo.0 + 100 * SEGMENT);
    };
    let (_, made) = planned_with(&mut fleet, "eu-2", beyond);
    assert!(!of(&made.steps, "eu-2", "eu-3").iter().any(|(_, why)| *why == Why::ReleaseXmin), "its WAL would be lost");
    fleet.now = fleet.now.plus(15_000);
    let (_, made) = planned_with(&mut fleet, "eu-2", beyond);
    assert_eq!(of(&made.steps, "eu-2", "eu-3"), [("ClearXmin", Why::ReleaseXmin)], "it is tried now and then");
}

#[test]
fn a_walsender_is_ended_when_its_child_was_asked_afterwards_and_has_not_had_that_connection_for_longer_than_the_patience()
 {
    let mut fleet = formed();
    fleet.tick(500);
    let zombie = |facts: &mut Facts| {
        facts.slots.get_mut("eu_3").unwrap().active_pid = Some(999);
        facts.senders.push(Sender {
            pid: 999,
            application_name: "eu-3".to_owned(),
            state: "streaming".to_owned(),
            sync: Some(false),
            slot: Some("eu_3".to_owned()),
            client: None,
            replied: None,
        });
    };
    let ends = |made: &Plan| of(&made.steps, "eu-2", "eu-3").contains(&("EndSender", Why::Zombie));
    let key = (name("eu-3"), name("eu-2"), 999);
    let silent = Namesake {
        since: Millis(fleet.now.0 - 12_000),
        silent_since: Millis(fleet.now.0 - 12_000),
        holds_slot: true,
        ..Namesake::default()
    };
    let with = |fleet: &mut Fleet, namesake: Namesake| {
        let (mut observed, _) = planned_with(fleet, "eu-2", zombie);
        Arc::make_mut(&mut observed.memory).namesakes.insert(key.clone(), namesake);
        plan(&fleet.desired, &observed, fleet.now)
    };
    assert!(ends(&with(&mut fleet, silent.clone())));
    let now = fleet.now;
    let made = with(&mut fleet, Namesake { since: now.plus(1), ..silent.clone() });
    assert!(!ends(&made), "it may have come since the child was asked");
    let made = with(&mut fleet, Namesake { silent_since: Millis(now.0 - 11_999), ..silent.clone() });
    assert!(!ends(&made), "it replied a short while ago");
    let made = with(&mut fleet, Namesake { lives: true, ..silent.clone() });
    assert!(!ends(&made), "somebody is there");
    for seldom in [0, 60] {
        let (mut observed, _) = planned_with(&mut fleet, "eu-2", zombie);
        Arc::make_mut(&mut observed.memory).namesakes.insert(key.clone(), silent.clone());
        let facts = Arc::make_mut(observed.nodes[&name("eu-3")].last.as_mut().unwrap());
        facts.parameters.insert("wal_receiver_status_interval".to_owned(), seldom);
        assert!(!ends(&plan(&fleet.desired, &observed, now)), "it replies every {seldom} s, or never unasked");
    }
    let (_, made) = planned_with(&mut fleet, "eu-2", |facts| {
        zombie(facts);
        facts.senders.last_mut().unwrap().application_name = "somebody".to_owned();
    });
    assert!(!ends(&made), "it is somebody else's");
    let (_, made) = planned_with(&mut fleet, "eu-2", |facts| {
        zombie(facts);
        facts.may_end_senders = false;
    });
    assert!(!ends(&made));
    let told =
        made.findings.iter().find(|finding| finding.node == name("eu-3")).map(|finding| finding.message.as_str());
    assert!(told.is_some_and(|told| told.contains("GRANT pg_signal_backend")), "{told:?}");
    let since = Millis(fleet.now.0 - 1_999);
    fleet.memory.nodes.get_mut(&name("eu-3")).unwrap().upstream = Some((name("eu-1"), since));
    let (_, made) = planned_with(&mut fleet, "eu-2", zombie);
    assert!(!ends(&made), "it moved only just now");
}

/// The same below two servers of somebody else.
fn below_another() -> Fleet {
    let mut desired = desired();
    let core = &mut desired.groups[0];
    core.management = Management::Observe;
    core.members.push(name("core-2"));
    let spec = desired.nodes[&name("core-1")].clone();
    desired.nodes.insert(name("core-2"), NodeSpec { name: name("core-2"), address: "core-2".into(), ..spec });
    let mut fleet = Fleet::new(desired, |_| name("core-1"));
    pass(&mut fleet, 60);
    fleet
}

fn slots<'a>(fleet: &'a mut Fleet, on: &str) -> &'a mut BTreeMap<String, Lsn> {
    &mut fleet.servers.get_mut(&name(on)).unwrap().slots
}

#[test]
fn between_two_servers_of_somebody_else_a_slot_is_his_whatever_its_name() {
    let mut fleet = below_another();
    for (on, slot) in [("core-1", "core_2"), ("core-2", "core_1")] {
        assert_eq!(slots(&mut fleet, on).get(slot), None, "ours are not made for his servers");
        slots(&mut fleet, on).insert(slot.to_owned(), Lsn(0));
    }
    let has = |fleet: &mut Fleet, on: &str, slot: &str| slots(fleet, on).contains_key(slot);
    // Idle, and far beyond the bound.
    let of_his = |planned: &Planned| planned.step.owner().as_str().starts_with("core");
    let of_slots = |planned: &&Planned| planned.step.kind() != StepKind::Heartbeat;
    assert!(!pass(&mut fleet, 120).iter().filter(of_slots).any(of_his));
    // Nor when its owner is taken out of the spec.
    let spec = fleet.desired.nodes.shift_remove(&name("core-2")).unwrap();
    fleet.desired.groups[0].members.retain(|member| *member != name("core-2"));
    let server = fleet.servers.shift_remove(&name("core-2")).unwrap();
    pass(&mut fleet, 60);
    assert!(has(&mut fleet, "core-1", "core_2"), "it may be that of his own server");
    fleet.servers.insert(name("core-2"), server);
    fleet.desired.nodes.insert(name("core-2"), spec);
    fleet.desired.groups[0].members.push(name("core-2"));
    pass(&mut fleet, 60);
    // A node of ours leaves nothing.
    slots(&mut fleet, "core-1").insert("eu_6".to_owned(), Lsn(0));
    fleet.desired.nodes.shift_remove(&name("eu-6"));
    fleet.desired.groups[1].members.retain(|member| *member != name("eu-6"));
    fleet.servers.shift_remove(&name("eu-6"));
    pass(&mut fleet, 60);
    assert!(!has(&mut fleet, "core-1", "eu_6"));
    // The topology goes.
    assert!(has(&mut fleet, "core-2", "eu_2"));
    fleet.desired.deleting = true;
    pass(&mut fleet, 60);
    assert!(has(&mut fleet, "core-1", "core_2") && has(&mut fleet, "core-2", "core_1"));
    assert!(!has(&mut fleet, "core-2", "eu_2"), "and ours are dropped");
}

#[test]
fn a_slot_that_somebody_else_drops_is_made_again_at_once_three_times_and_then_twice_a_minute() {
    let mut fleet = below_another();
    let drop = |fleet: &mut Fleet| slots(fleet, "core-2").remove("eu_1").map(drop);
    let made = |fleet: &mut Fleet, times| of(&pass(fleet, times), "core-2", "eu-1");
    let once = [("CreateSlot", Why::Prepare)];
    for _ in 0..3 {
        drop(&mut fleet).unwrap();
        assert_eq!(made(&mut fleet, 1), once);
        assert_eq!(fleet.plan().1.findings[0].diagnosis, Diagnosis::SlotRemovedByOther);
    }
    for _ in 0..3 {
        drop(&mut fleet).unwrap();
        assert_eq!(made(&mut fleet, 60), []);
        assert_eq!(made(&mut fleet, 1), once);
    }
    // Its owner needs it now: nobody feeds it but who has that slot.
    drop(&mut fleet).unwrap();
    fleet.set_up(&name("core-1"), false);
    assert_eq!(made(&mut fleet, 1), once);
    // It stays, and all is forgotten.
    fleet.set_up(&name("core-1"), true);
    pass(&mut fleet, 60);
    assert_eq!(fleet.plan().1.findings, []);
    drop(&mut fleet).unwrap();
    assert_eq!(made(&mut fleet, 1), once);
}

/// Takes a node out of the spec; its server runs on.
fn take_out(fleet: &mut Fleet, node: &str) {
    fleet.desired.nodes.shift_remove(&name(node));
    fleet.desired.groups.iter_mut().for_each(|group| group.members.retain(|member| *member != name(node)));
}

#[test]
fn the_slots_of_a_node_that_was_taken_out_of_the_spec_are_bounded_while_a_server_that_it_may_use_is_not_seen() {
    let mut fleet = formed();
    fleet.set_up(&name("eu-3"), false);
    fleet.set_up(&name("eu-6"), false);
    take_out(&mut fleet, "eu-3");
    let kept = |fleet: &Fleet| {
        let relay = &fleet.servers[&name("eu-1")];
        relay.slots.get("eu_3").map(|restart| (relay.position.0 - SEGMENT).saturating_sub(restart.0))
    };
    let mut steps = Vec::new();
    while kept(&fleet).is_some_and(|kept| kept <= BOUND) {
        assert_eq!(of(&steps, "eu-1", "eu-3"), []);
        steps.extend(pass(&mut fleet, 1));
    }
    steps.extend(pass(&mut fleet, 8));
    for on in ["core-1", "eu-1", "eu-2"] {
        assert_eq!(of(&steps, on, "eu-3"), [("DropSlot", Why::LeftSpec)], "on {on}");
    }
}

#[test]
fn a_slot_that_comes_back_after_its_node_was_taken_out_of_the_spec_is_somebody_elses() {
    let mut fleet = formed();
    fleet.set_up(&name("eu-3"), false);
    take_out(&mut fleet, "eu-3");
    let steps = pass(&mut fleet, 30);
    assert_eq!(of(&steps, "core-1", "eu-3"), [("DropSlot", Why::LeftSpec)]);
    // Another one may still be somewhere, as far as can be seen.
    fleet.set_up(&name("eu-6"), false);
    take_out(&mut fleet, "eu-4");
    pass(&mut fleet, 30);
    for again in 1..=3 {
        slots(&mut fleet, "core-1").insert("eu_4".to_owned(), Lsn(0));
        let dropped = of(&pass(&mut fleet, 30), "core-1", "eu-4").len();
        assert_eq!(dropped, 0, "for the {again}. time");
    }
    assert!(!fleet.memory.leaving.contains_key(&name("eu-4")));
}

#[test]
fn a_deletion_waits_a_minute_for_a_node_that_is_away_and_then_leaves_none_of_its_slots() {
    let mut fleet = formed();
    fleet.set_up(&name("eu-3"), false);
    pass(&mut fleet, 10);
    fleet.desired.deleting = true;
    let steps = pass(&mut fleet, 118);
    assert_eq!((of(&steps, "core-1", "eu-3"), of(&steps, "core-1", "eu-4").len()), (Vec::new(), 1));
    let steps = pass(&mut fleet, 6);
    for on in ["core-1", "eu-1", "eu-2"] {
        assert_eq!(of(&steps, on, "eu-3"), [("DropSlot", Why::Teardown)], "on {on}");
    }
}

#[test]
fn who_has_a_slot_on_a_server_that_was_taken_out_of_the_spec_is_remembered() {
    let mut fleet = formed();
    fleet.set_up(&name("eu-2"), false);
    pass(&mut fleet, 10);
    take_out(&mut fleet, "eu-2");
    fleet.servers.shift_remove(&name("eu-2"));
    pass(&mut fleet, 2);
    let left: Vec<&str> = fleet.memory.left_on[&name("eu-2")].iter().map(NodeName::as_str).collect();
    assert_eq!(left, ["eu-3", "eu-4", "eu-5", "eu-6"]);
}

#[test]
fn whoever_left_the_spec_is_no_namesake_any_more_and_what_failed_there_is_forgotten() {
    let mut fleet = formed();
    let Observed { mut nodes, memory } = fleet.observe();
    let mut memory = Arc::unwrap_or_clone(memory);
    for (node, on) in [("eu-5", "eu-6"), ("eu-6", "eu-5"), ("eu-5", "eu-4")] {
        memory.namesakes.insert((name(node), name(on), 7), Namesake { lives: true, ..Namesake::default() });
        memory.failed_steps.insert((name(on), name(node), "CreateSlot"), FailedStep::default());
    }
    let mut desired = fleet.desired.clone();
    desired.nodes.retain(|node, _| *node != name("eu-6"));
    desired.groups[1].members.retain(|node| *node != name("eu-6"));
    nodes.retain(|node, _| *node != name("eu-6"));
    for view in nodes.values_mut() {
        Arc::make_mut(view.last.as_mut().unwrap()).slots.retain(|slot, _| slot != "eu_6");
    }
    nodes[&name("eu-4")].unseen = Some(Unseen { why: WhyUnseen::Timeout, detail: String::new() });
    memory.advance(&desired, &nodes, fleet.now);
    // One that is not seen may have everything still: also slots of a node that left (law 8).
    assert_eq!(memory.namesakes.keys().cloned().collect::<Vec<_>>(), [(name("eu-5"), name("eu-4"), 7)]);
    let failed = |memory: &Memory| memory.failed_steps.keys().map(|(on, owner, _)| format!("{on} {owner}")).collect();
    let left: Vec<String> = failed(&memory);
    assert_eq!(left, ["eu-4 eu-5", "eu-5 eu-6"]);

    nodes.get_mut(&name("eu-4")).unwrap().unseen = None;
    memory.advance(&desired, &nodes, fleet.now);
    let left: Vec<String> = failed(&memory);
    assert_eq!((memory.namesakes.len(), left), (0, vec!["eu-4 eu-5".to_owned()]));
}
