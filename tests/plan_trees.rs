//! Trees that the planner builds for particular topologies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::{rc::Rc, sync::Arc};

use fleet::{Fleet, SEGMENT};
use waltree::model::{
    Automation, ByNode, Desired, Facts, Group, GroupName, Healing, Limits, Lsn, Management, Millis, NodeName, NodeSpec,
    Reads, memory::NodeMemory, rooted::Rooted,
};
use waltree::plan::{Done, Outcome, Standing, StepKind, Why, explain, plan, record};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// Groups as (name, size, relays, upstreams); zones a, b, a, ... when `zones`.
fn desired(groups: &[(&str, usize, usize, &[&str])], fan_out: usize, zones: bool) -> Desired {
    let mut desired = Desired {
        automation: Automation::Heal,
        deleting: false,
        acknowledged: BTreeSet::new(),
        leaving: BTreeSet::new(),
        limits: Limits { fan_out, depth: 4, cross_region_streams: 2, retained_wal_bytes: 10 << 30 },
        healing: Healing { suspect_after_milliseconds: 2_000, lag_seconds: 30, settle_seconds: 5 },
        reads: Reads::default(),
        groups: Vec::new(),
        nodes: ByNode::default(),
    };
    for (index, (group, size, relays, upstreams)) in groups.iter().enumerate() {
        let members: Vec<_> = (1..=*size).map(|i| name(&format!("{group}-{i}"))).collect();
        for (i, member) in members.iter().enumerate() {
            let (zone, address) = (zones.then(|| ["a", "b"][i % 2].to_owned()), member.to_string());
            let spec = NodeSpec { address, hostaddr: None, name: member.clone(), group: index, port: 5432, zone };
            desired.nodes.insert(member.clone(), spec);
        }
        desired.groups.push(Group {
            name: GroupName::new(group).unwrap(),
            upstreams: upstreams.iter().map(|up| GroupName::new(up).unwrap()).collect(),
            relays: *relays,
            region: None,
            management: Management::Routes,
            fan_out,
            members,
        });
    }
    desired
}

/// Every node's route, as it is planned for servers that all hang below the primary.
fn routes(desired: &Desired) -> BTreeMap<String, String> {
    let primary = desired.root().unwrap().members[0].clone();
    let mut fleet = Fleet::new(desired.clone(), |_| primary.clone());
    fleet.tick(500);
    let (_, made) = fleet.plan();
    let text = |entries: &[NodeName]| entries.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" ");
    made.wanted.iter().map(|(node, route)| (node.to_string(), text(&route.entries))).collect()
}

#[test]
fn leaves_below_the_root_group_fill_its_standbys_before_they_cost_the_primary_anything() {
    let routes = routes(&desired(&[("core", 3, 0, &[]), ("ro", 4, 0, &["core"])], 8, false));
    assert_eq!(routes["ro-1"], "core-2 core-3 core-1");
    assert_eq!(routes["ro-2"], "core-2 core-3 core-1");
    assert_eq!(routes["ro-3"], "core-3 core-2 core-1");
    let crowded = desired(&[("core", 2, 0, &[]), ("ro", 6, 0, &["core"])], 4, false);
    let mut fleet = Fleet::new(crowded, |_| name("core-1"));
    for _ in 0..20 {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        fleet.carry_out(&made, |_| true);
    }
    let load = fleet.load();
    assert_eq!(
        (load[&name("core-1")], load[&name("core-2")]),
        (3, 4),
        "its standby, and two that found no other place"
    );
}

#[test]
fn relays_hang_below_the_primary_and_find_the_next_one_among_the_root_group() {
    let routes = routes(&desired(&[("core", 3, 0, &[]), ("eu", 6, 2, &["core"])], 8, false));
    assert_eq!(routes["core-2"], "core-1 core-3");
    assert_eq!(routes["eu-1"], "core-1 core-2 core-3");
    assert_eq!(routes["eu-3"], "eu-1 eu-2 core-2");
    assert_eq!(routes["eu-4"], "eu-2 eu-1 core-2");
}

#[test]
fn a_leaf_is_fed_in_its_own_zone_and_falls_back_to_another() {
    let routes = routes(&desired(&[("core", 1, 0, &[]), ("eu", 12, 4, &["core"])], 8, true));
    let zone = |node: &str| node[3..].parse::<usize>().unwrap() % 2;
    for leaf in (5..=12).map(|i| format!("eu-{i}")) {
        let entries: Vec<&str> = routes[&leaf].split(' ').collect();
        assert_eq!(zone(entries[0]), zone(&leaf), "{leaf}: {entries:?}");
        assert_ne!(zone(entries[1]), zone(&leaf), "{leaf}: {entries:?}");
    }
}

#[test]
fn a_leaf_that_its_upstream_refuses_goes_elsewhere_and_asks_again_ever_more_seldom() {
    let mut fleet = Fleet::new(desired(&[("core", 1, 0, &[]), ("eu", 4, 2, &["core"])], 8, false), |_| name("core-1"));
    let run = |fleet: &mut Fleet, rounds: usize| {
        for _ in 0..rounds {
            fleet.tick(500);
            let (_, made) = fleet.plan();
            fleet.carry_out(&made, |_| true);
        }
    };
    run(&mut fleet, 40);
    assert_eq!(fleet.tree()[&name("eu-3")], Some(name("eu-1")));
    fleet.refuses = Some((name("eu-3"), name("eu-1")));
    let moves = fleet.moves;
    let fed = |fleet: &mut Fleet| {
        run(fleet, 1);
        fleet.tree()[&name("eu-3")] == Some(name("eu-2"))
    };
    let fed = (0..600).filter(|_| fed(&mut fleet)).count();
    assert!(fed > 540, "libpq would stay on the one that refuses; fed in {fed} of 600 rounds");
    assert!(fleet.moves - moves <= 14, "{} moves in five minutes", fleet.moves - moves);
    fleet.refuses = None;
    run(&mut fleet, 1_200);
    assert_eq!(fleet.tree()[&name("eu-3")], Some(name("eu-1")));
}

#[test]
fn a_relay_that_the_primary_gives_nothing_is_explained_where_it_is_wanted_for_the_while() {
    let groups: [(&str, usize, usize, &[&str]); 2] = [("core", 2, 0, &[]), ("eu", 4, 2, &["core"])];
    let mut fleet = Fleet::new(desired(&groups, 8, false), |_| name("core-1"));
    let run = |fleet: &mut Fleet, rounds: usize| {
        for _ in 0..rounds {
            fleet.tick(500);
            let (_, made) = fleet.plan();
            fleet.carry_out(&made, |_| true);
        }
    };
    let explained = |fleet: &mut Fleet| {
        let observed = fleet.observe();
        let made = plan(&fleet.desired, &observed, fleet.now);
        explain(&fleet.desired, &observed, &made, &name("eu-1"), fleet.now)
    };
    run(&mut fleet, 40);
    assert!(explained(&mut fleet).tier_one);
    fleet.refuses = Some((name("eu-1"), name("core-1")));
    run(&mut fleet, 40);
    assert_eq!(fleet.tree()[&name("eu-1")], Some(name("core-2")));
    let now = explained(&mut fleet);
    assert!(!now.tier_one);
    let told: Vec<_> = now.candidates.iter().map(|one| (one.node.as_str(), one.place)).collect();
    assert_eq!(told[..2], [("core-1", Some(1)), ("core-2", Some(0))], "{told:?}");
    assert!(now.candidates[0].refused_for_milliseconds.is_some());
}

#[test]
fn who_could_feed_a_node_is_told_in_the_order_in_which_the_plan_asks() {
    let groups: [(&str, usize, usize, &[&str]); 2] = [("core", 3, 0, &[]), ("ro", 6, 0, &["core"])];
    let mut fleet = Fleet::new(desired(&groups, 8, false), |_| name("core-1"));
    told(&mut fleet, 40);
    for gone in [None, Some("core-2")] {
        if let Some(gone) = gone {
            fleet.set_up(&name(gone), false);
        }
        told(&mut fleet, 40);
        let (observed, made) = fleet.plan();
        for node in (1..=6).map(|i| name(&format!("ro-{i}"))) {
            let explained = explain(&fleet.desired, &observed, &made, &node, fleet.now);
            let names: Vec<&str> = explained.candidates.iter().map(|one| one.node.as_str()).collect();
            assert_eq!(names.last(), Some(&"core-1"), "the primary comes last of its tier: {names:?}");
            let wanted = explained.candidates.iter().find(|one| one.standing == Standing::Good).map(|one| &one.node);
            assert_eq!(wanted, made.wanted[&node].first(), "{node}: {names:?}");
        }
    }
}

#[test]
fn a_server_that_rejects_our_password_is_not_taken_for_dead() {
    let mut fleet = Fleet::new(desired(&[("core", 3, 0, &[]), ("ro", 4, 0, &["core"])], 8, false), |_| name("core-1"));
    let run = |fleet: &mut Fleet, rounds: usize| {
        for _ in 0..rounds {
            fleet.tick(1_000);
            let (_, made) = fleet.plan();
            fleet.carry_out(&made, |_| true);
        }
    };
    run(&mut fleet, 20);
    let moves = fleet.moves;
    fleet.rejects_us = Some(name("core-2"));
    run(&mut fleet, 60);
    assert_eq!(fleet.moves, moves, "nobody is moved for our own trouble");
}

#[test]
fn the_disk_of_who_receives_nothing_by_its_own_fault_is_tried_now_and_then_and_nobody_elses() {
    let groups: [(&str, usize, usize, &[&str]); 2] = [("core", 1, 0, &[]), ("eu", 4, 2, &["core"])];
    let mut fleet = Fleet::new(desired(&groups, 8, false), |_| name("core-1"));
    for _ in 0..40 {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        fleet.carry_out(&made, |_| true);
    }
    let tried = |fleet: &mut Fleet, change: fn(&mut Facts, &mut NodeMemory)| {
        let mut observed = fleet.observe();
        let view = observed.nodes.get_mut(&name("eu-3")).unwrap();
        let remembered = Arc::make_mut(&mut observed.memory).nodes.get_mut(&name("eu-3")).unwrap();
        remembered.failing_since = Some(Millis(fleet.now.0 - 2_000));
        (remembered.receiver, remembered.upstream) = (None, None);
        let facts = Arc::make_mut(view.last.as_mut().unwrap());
        facts.receiver = None;
        change(facts, remembered);
        let steps = plan(&fleet.desired, &observed, fleet.now).steps.into_iter();
        let of_disks = steps.filter(|planned| planned.step.kind() == StepKind::TryDisk).collect::<Vec<_>>();
        let done = of_disks.iter().map(|planned| Done { planned: planned.clone(), result: Ok(()) }).collect();
        record(&mut fleet.memory, &Outcome { done }, fleet.now);
        of_disks.iter().map(|planned| planned.step.server().to_string()).collect::<Vec<_>>()
    };
    let patient = |_: &mut Facts, memory: &mut NodeMemory| memory.failing_since.as_mut().unwrap().0 += 1;
    let replaying = |facts: &mut Facts, _: &mut NodeMemory| facts.replay.0 -= facts.segment_bytes;
    let fed = |_: &mut Facts, memory: &mut NodeMemory| memory.receiver = Some((1, Millis(0)));
    for not in [patient, replaying, fed] {
        assert_eq!(tried(&mut fleet, not), [""; 0]);
    }
    fleet.desired.automation = Automation::Observe;
    assert_eq!(tried(&mut fleet, |_, _| {}), [""; 0]);
    fleet.desired.automation = Automation::Heal;
    assert_eq!(tried(&mut fleet, |_, _| {}), ["eu-3"]);
    fleet.now = fleet.now.plus(9_999);
    assert_eq!(tried(&mut fleet, |_, _| {}), [""; 0], "it was tried a short while ago");
    fleet.now = fleet.now.plus(1);
    assert_eq!(tried(&mut fleet, |_, _| {}), ["eu-3"]);
}

/// A relay `eu-1` and its leaf `eu-3`, formed; the other leaf has a relay of its own.
fn formed() -> Fleet {
    let groups: [(&str, usize, usize, &[&str]); 2] = [("core", 1, 0, &[]), ("eu", 4, 2, &["core"])];
    let mut fleet = Fleet::new(desired(&groups, 8, false), |_| name("core-1"));
    told(&mut fleet, 40);
    fleet
}

/// What is told while so many half seconds go by: of whom, what, in order, each change once.
fn told(fleet: &mut Fleet, times: usize) -> Vec<Vec<(String, String)>> {
    let mut told = Vec::new();
    for _ in 0..times {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        fleet.carry_out(&made, |_| true);
        told.push(made.findings.iter().map(|f| (f.node.to_string(), f.diagnosis.to_string())).collect());
    }
    told.dedup();
    told
}

fn shown(fleet: &mut Fleet, node: &str) -> (u64, u64) {
    match fleet.plan().1.sight.rooted[&name(node)] {
        Rooted::Yes { lag_milliseconds, shown_lag_milliseconds, .. } => (lag_milliseconds, shown_lag_milliseconds),
        ref other => panic!("{other:?}"),
    }
}

/// These have replayed what they had at the beginning, and say whatever else.
fn replay_stands_still(fleet: &mut Fleet, nodes: &'static [&'static str], change: impl Fn(&mut Facts) + 'static) {
    let at = fleet.servers[&name(nodes[0])].position;
    fleet.says = Box::new(move |node, facts| {
        if nodes.contains(&node.as_str()) {
            facts.replay = at;
            change(facts);
        }
    });
}

#[test]
fn a_leaf_lags_by_what_its_readers_see_and_a_relay_by_what_it_passes_on() {
    let mut fleet = formed();
    let moves = fleet.moves;
    replay_stands_still(&mut fleet, &["eu-1", "eu-3"], |_| {});
    assert_eq!(told(&mut fleet, 64), [vec![]], "30 s, and the patience of 2");
    let late = vec![("eu-3".to_owned(), "LaggingLeaf".to_owned())];
    assert_eq!(told(&mut fleet, 20), std::slice::from_ref(&late));
    for node in ["eu-1", "eu-3"] {
        assert_eq!(shown(&mut fleet, node), (0, 42_000), "{node}");
    }
    assert_eq!(fleet.moves, moves, "nobody is moved");

    // It catches up: at half the bound it is well again, and not before.
    let behind = |fleet: &mut Fleet, milliseconds: u64| {
        let back = milliseconds / 500 * (4 << 20);
        fleet.says = Box::new(move |node, facts| facts.replay.0 -= if *node == name("eu-3") { back } else { 0 });
    };
    behind(&mut fleet, 15_500);
    assert_eq!(told(&mut fleet, 4), [late]);
    behind(&mut fleet, 15_000);
    assert_eq!(told(&mut fleet, 4), [vec![]]);
}

#[test]
fn a_leaf_that_waits_for_the_rest_of_a_record_has_all_that_can_be_read() {
    let mut fleet = formed();
    replay_stands_still(&mut fleet, &["eu-3"], |facts| facts.startup_wait = Some("RecoveryWalStream".to_owned()));
    assert_eq!(told(&mut fleet, 90), [vec![]]);
    assert_eq!(shown(&mut fleet, "eu-3"), (0, 0));
}

#[test]
fn a_leaf_whose_replay_is_paused_or_held_up_by_readers_is_told_that_and_nothing_else() {
    let pause = |facts: &mut Facts| facts.replay_paused = true;
    let conflict = |facts: &mut Facts| facts.startup_wait = Some("RecoveryConflictSnapshot".to_owned());
    for (says, after) in [(pause as fn(&mut Facts), 0), (conflict, 1)] {
        let mut fleet = formed();
        replay_stands_still(&mut fleet, &["eu-3"], says);
        let blocked = vec![("eu-3".to_owned(), "ReplayBlocked".to_owned())];
        assert_eq!(told(&mut fleet, 90), [vec![vec![]; after], vec![blocked]].concat());
        assert_eq!(shown(&mut fleet, "eu-3"), (0, 45_000), "and what its readers see is old");
        fleet.says = Box::new(|_, _| {});
        assert_eq!(told(&mut fleet, 4), [vec![]]);
    }
}

#[test]
fn a_leaf_whose_replay_goes_on_again_has_the_patience_unless_its_walreceiver_was_there_all_along() {
    // The next look may see a walreceiver that has begun and brought nothing yet.
    for (while_paused, then) in [(false, false), (false, true), (true, true)] {
        let mut fleet = formed();
        let at = fleet.servers[&name("eu-3")].position;
        let mut told_still = |paused: bool| {
            fleet.says = Box::new(move |node, facts| {
                facts.oldest_wal = Some(Lsn(0));
                if *node == name("eu-3") {
                    (facts.replay_paused, facts.position, facts.replay) = (paused, at, at);
                    facts.receiver = facts.receiver.take().filter(|_| if paused { while_paused } else { then });
                    let waits = (facts.receiver.is_none() && !paused).then_some("RecoveryRetrieveRetryInterval");
                    facts.startup_wait = waits.map(str::to_owned);
                }
            });
            told(&mut fleet, 12)
        };
        assert_eq!(told_still(true).last(), Some(&vec![("eu-3".to_owned(), "ReplayBlocked".to_owned())]));
        let (ungated, cut_off) = (told_still(false), vec![("eu-3".to_owned(), "CutOffLeaf".to_owned())]);
        assert_eq!(ungated[0], if while_paused { cut_off.clone() } else { vec![] });
        assert!(ungated.contains(&cut_off), "{ungated:?}");
    }
}

#[test]
fn a_leaf_that_comes_back_a_little_behind_is_not_told_to_lag() {
    let mut fleet = formed();
    let at = fleet.servers[&name("eu-3")].position;
    fleet.set_up(&name("eu-3"), false);
    told(&mut fleet, 40);
    fleet.set_up(&name("eu-3"), true);
    // 20 s behind, it receives and replays twice as fast as the primary writes.
    let began = fleet.now;
    let mut all = Vec::new();
    for turn in 0..30 {
        let has = Lsn(at.0 + turn * 2 * (4 << 20));
        fleet.says = Box::new(move |node, facts| {
            if *node == name("eu-3") {
                facts.started = began.0;
                facts.position = facts.position.min(has);
                facts.replay = facts.position;
            }
        });
        all.extend(told(&mut fleet, 1).concat());
    }
    assert_eq!(all, []);
}

#[test]
fn a_walreceiver_is_stuck_when_one_and_the_same_is_stopping_for_the_patience() {
    for (stays, is_stuck) in [(true, true), (false, false)] {
        let mut fleet = formed();
        let at = fleet.servers[&name("eu-3")].position;
        let looks = Cell::new(0);
        fleet.says = Box::new(move |node, facts| {
            if *node == name("eu-3") {
                (facts.position, facts.replay) = (at, at);
                let receiver = facts.receiver.as_mut().unwrap();
                receiver.status = "stopping".to_owned();
                receiver.pid = if stays { 7 } else { looks.replace(looks.get() + 1) };
            }
        });
        let stuck = ("eu-3".to_owned(), "WalReceiverStuck".to_owned());
        assert_eq!(told(&mut fleet, 20).concat().contains(&stuck), is_stuck);
    }
}

/// Has `other` say what `one` says, and each the start of its server that is given here.
fn is_also(fleet: &mut Fleet, one: &'static str, other: &'static str, starts: &Rc<Cell<(u64, u64)>>) {
    let (said, starts) = (RefCell::new(None), Rc::clone(starts));
    fleet.says = Box::new(move |node, facts| {
        if node.as_str() == one {
            facts.started = starts.get().0;
            said.replace(Some(facts.clone()));
        } else if let Some(said) = said.borrow().clone().filter(|_| node.as_str() == other) {
            *facts = Facts { started: starts.get().1, ..said };
        }
    });
}

/// Goes on for so many half seconds: on whom and for whose sake there were steps, and what was told.
fn goes_on(fleet: &mut Fleet, times: usize) -> (BTreeSet<NodeName>, BTreeSet<(String, String, String)>) {
    let (mut touched, mut told) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..times {
        fleet.tick(500);
        let (_, made) = fleet.plan();
        fleet.carry_out(&made, |_| true);
        let steps = made.steps.iter().chain(&made.withheld).map(|planned| &planned.step);
        touched.extend(steps.flat_map(|step| [step.server().clone(), step.owner().clone()]));
        let finding = |f: &waltree::model::Finding| (f.node.to_string(), f.diagnosis.to_string(), f.message.clone());
        told.extend(made.findings.iter().map(finding));
    }
    (touched, told)
}

#[test]
fn a_standby_that_is_in_the_spec_twice_is_written_to_by_neither_name_also_when_it_is_started_again() {
    let groups: [(&str, usize, usize, &[&str]); 2] = [("core", 1, 0, &[]), ("eu", 4, 2, &["core"])];
    let mut fleet = Fleet::new(desired(&groups, 8, false), |_| name("core-1"));
    let starts = Rc::new(Cell::new((7, 7)));
    is_also(&mut fleet, "eu-1", "eu-2", &starts);
    let says = "eu-1 and eu-2 are one server: take one of them out of the spec; it is not written to until then.";
    let same = ["eu-1", "eu-2"].map(|node| (node.to_owned(), "SameServer".to_owned(), says.to_owned()));
    // It is seen to be started anew by one name, then by the other.
    for (now, looks) in [((7, 7), 40), ((8, 7), 1), ((8, 8), 40)] {
        starts.set(now);
        let (touched, told) = goes_on(&mut fleet, looks);
        assert!(!touched.contains(&name("eu-1")) && !touched.contains(&name("eu-2")), "{touched:?}");
        assert_eq!(told, BTreeSet::from(same.clone()));
    }
    // Two servers are two for good after the second look.
    let started = |node: &NodeName| match node.as_str() {
        "eu-1" => 8,
        "eu-2" => 9,
        _ => 0,
    };
    fleet.says = Box::new(move |node, facts| facts.started = started(node));
    let (touched, told_first) = goes_on(&mut fleet, 1);
    assert!(!touched.contains(&name("eu-1")) && !touched.contains(&name("eu-2")), "{touched:?}");
    assert_eq!(told_first, BTreeSet::from(same));
    let (touched, _) = goes_on(&mut fleet, 40);
    assert!(touched.contains(&name("eu-1")) && touched.contains(&name("eu-2")), "{touched:?}");
    assert_eq!(told(&mut fleet, 4), [vec![]]);
}

#[test]
fn a_primary_that_is_in_the_spec_twice_counts_once_and_nobody_is_moved() {
    for automation in [Automation::Observe, Automation::Heal] {
        let groups: [(&str, usize, usize, &[&str]); 2] = [("core", 2, 0, &[]), ("eu", 3, 1, &["core"])];
        let mut desired = desired(&groups, 8, false);
        desired.automation = automation;
        let mut fleet = Fleet::new(desired, |_| name("core-1"));
        is_also(&mut fleet, "core-1", "core-2", &Rc::new(Cell::new((7, 7))));
        let (touched, told) = goes_on(&mut fleet, 40);
        assert_eq!(touched, BTreeSet::new());
        let says =
            "core-1 and core-2 are one server: take one of them out of the spec; it is not written to until then.";
        assert_eq!(told, ["core-1", "core-2"].map(|node| (node.into(), "SameServer".into(), says.into())).into());
        let (_, made) = fleet.plan();
        assert!(made.sight.rooted.values().all(Rooted::is_yes), "{:?}", made.sight.rooted);
    }
}

#[test]
fn what_idle_slots_keep_stays_within_its_bound_also_where_one_server_is_in_the_spec_twice() {
    let bound = 8 * SEGMENT;
    for (one, other) in [("core-1", "core-2"), ("eu-1", "eu-2")] {
        let groups: [(&str, usize, usize, &[&str]); 2] = [("core", 3, 0, &[]), ("eu", 4, 2, &["core"])];
        let mut desired = desired(&groups, 8, false);
        desired.limits.retained_wal_bytes = bound;
        let mut fleet = Fleet::new(desired, |_| name("core-1"));
        goes_on(&mut fleet, 60);
        is_also(&mut fleet, one, other, &Rc::new(Cell::new((7, 7))));
        fleet.set_up(&name("eu-4"), false);
        let (mut given_up, mut steps) = (BTreeSet::new(), 0);
        while fleet.servers[&name("core-1")].position < Lsn(40 * SEGMENT) {
            fleet.tick(500);
            let (_, made) = fleet.plan();
            fleet.carry_out(&made, |_| true);
            let dropped = made.steps.iter().filter(|planned| planned.why == Why::RetainedWal);
            given_up.extend(dropped.map(|planned| planned.step.owner().to_string()));
            steps += 1;
        }
        assert!(given_up.contains("eu-4"), "{given_up:?} of {one} in {steps} passes");
        for (node, server) in fleet.servers.iter().filter(|(node, _)| node.as_str() != other) {
            let holds = |child: &fleet::Server, slot: &str| {
                child.up && child.slot == slot && child.upstream.as_ref() == Some(node)
            };
            let is_idle = |slot: &str| !fleet.servers.values().any(|child| holds(child, slot));
            for (slot, restart) in server.slots.iter().filter(|(slot, _)| is_idle(slot)) {
                let kept = server.position.0.saturating_sub(restart.0);
                assert!(kept <= bound + 2 * SEGMENT, "{slot} keeps {kept} bytes on {node}, {one} is {other}");
            }
        }
    }
}
