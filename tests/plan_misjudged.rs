//! What looks like the fault of a server, or like somebody else's doing, and is neither; and what goes on although one server
//! does not do its part.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use fleet::Fleet;
use fleet::laws::settle;
use fleet::shapes::{Shape, desired, downhill};
use waltree::model::{Diagnosis, Facts, Lsn, NodeName, Observed, WhyUnseen};
use waltree::plan::{Done, Outcome, Plan, Planned, Step, StepKind, Why, plan, record};

const BOUND: u64 = 128 << 20;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// A root group of two, two relays and four leaves, as declared.
fn formed() -> Fleet {
    let mut desired = desired(&Shape { root: 2, regions: vec![(2, 4)], zones: 0 });
    desired.limits.retained_wal_bytes = BOUND;
    let mut fleet = downhill(&desired, &[0; 32]);
    settle(&mut fleet).unwrap();
    fleet
}

/// A look, and what is planned then is done.
fn pass(fleet: &mut Fleet, milliseconds: u64) -> Plan {
    fleet.tick(milliseconds);
    let (_, made) = fleet.plan();
    fleet.carry_out(&made, |_| true);
    made
}

fn of_kind(made: &Plan, kind: StepKind) -> Vec<String> {
    let its = made.steps.iter().filter(|planned| planned.step.kind() == kind);
    its.map(|planned| planned.step.server().to_string()).collect()
}

/// The slots of a node that were given up, by the servers that they were on.
fn given_up(fleet: &mut Fleet, owner: &str, seconds: u64) -> Vec<String> {
    let mut dropped = Vec::new();
    for _ in 0..seconds {
        fleet.tick(1_000);
        let (_, made) = fleet.plan();
        let its = |planned: &Planned| *planned.step.owner() == name(owner) && planned.why == Why::RetainedWal;
        let (its, others): (Vec<_>, Vec<_>) = made.steps.into_iter().partition(its);
        for planned in its {
            let on = planned.step.server().clone();
            fleet.servers.get_mut(&on).unwrap().slots.remove(name(owner).slot());
            record(&mut fleet.memory, &Outcome { done: vec![Done { planned, result: Ok(()) }] }, fleet.now);
            dropped.push(on.to_string());
        }
        for planned in others {
            fleet.carry_out_one(planned);
        }
    }
    dropped.sort();
    dropped
}

#[test]
fn the_idle_slots_of_a_node_that_receives_from_outside_the_spec_are_given_up_beyond_the_bound() {
    // Somebody else's tool points it to an address of its own.
    let elsewhere = |facts: &mut Facts| {
        facts.receiver.as_mut().unwrap().host = "192.0.2.99".to_owned();
        facts.route.has_password = true;
    };
    // From where it did, and not by its slot.
    let without = |facts: &mut Facts| {
        facts.receiver.as_mut().unwrap().slot = None;
        (facts.route.slot, facts.route.has_password) = (String::new(), true);
    };
    for changed in [elsewhere as fn(&mut Facts), without] {
        let mut fleet = formed();
        let replay = fleet.servers[&name("r0-2")].position;
        fleet.says = Box::new(move |node, facts| {
            if *node == name("r0-2") {
                changed(facts);
                facts.replay = replay;
            }
            facts.slots.entry("r0_2".to_owned()).and_modify(|slot| {
                (slot.active_pid, slot.restart_lsn) = (None, slot.restart_lsn.map(|lsn| lsn.min(replay)));
            });
            facts.senders.retain(|sender| sender.application_name != "r0-2");
        });
        fleet.servers.get_mut(&name("r0-2")).unwrap().slot.clear();
        let dropped = given_up(&mut fleet, "r0-2", 120);
        let mut once = dropped.clone();
        once.dedup();
        assert_eq!(once.len(), fleet.memory.nodes[&name("r0-2")].slots_given_up.len(), "{dropped:?}");
        assert!(once.len() >= 3, "{dropped:?}");
    }
}

#[test]
fn a_server_that_is_given_another_address_in_the_spec_is_not_another_writer_of_the_routes_that_name_it() {
    let mut fleet = formed();
    for edit in 0..5 {
        fleet.desired.nodes.get_mut(&name("core-1")).unwrap().address = format!("192.0.2.{edit}");
        let made = pass(&mut fleet, 500);
        assert!(!of_kind(&made, StepKind::SetRoute).is_empty(), "{:?}", made.waits);
        for _ in 0..20 {
            let made = pass(&mut fleet, 500);
            let other = made.findings.iter().find(|finding| finding.diagnosis == Diagnosis::OtherWriter);
            assert_eq!(other, None);
        }
    }
    assert!(fleet.memory.nodes.values().all(|node| node.overwritten == 0));
}

#[test]
fn a_standby_that_still_reads_what_it_has_itself_is_not_led_from_upstream_to_upstream() {
    let mut fleet = formed();
    let leaf = name("r0-2");
    let has = fleet.servers[&leaf].position;
    for second in 0..120 {
        let wait = [None, Some("RestoreCommand")][second % 2];
        let read = Lsn(has.0 + second as u64);
        fleet.says = Box::new(move |node, facts| {
            if *node == name("r0-2") {
                (facts.receiver, facts.position, facts.replay) = (None, read, read);
                facts.startup_wait = wait.map(str::to_owned);
            }
        });
        let made = pass(&mut fleet, 1_000);
        for kind in [StepKind::SetRoute, StepKind::Reload] {
            assert!(!of_kind(&made, kind).contains(&leaf.to_string()), "{kind:?} after {second} s");
        }
        assert!(!made.findings.iter().any(|finding| finding.diagnosis == Diagnosis::HalfRelay), "{:?}", made.findings);
    }
    assert!(fleet.memory.nodes[&leaf].refused.is_empty());
}

#[test]
fn a_fallback_that_can_have_no_slot_does_not_hold_up_who_is_to_leave_a_relay_that_lags() {
    let mut fleet = formed();
    let leaf = fleet.standbys().into_iter().find(|node| {
        let server = &fleet.servers[node];
        node.as_str().starts_with("r0") && server.upstream.as_ref() == Some(&name("r0-0"))
    });
    let leaf = leaf.unwrap();
    let fallback =
        ["core-0", "core-1"].into_iter().find(|core| fleet.servers[&name(core)].slots.contains_key(leaf.slot()));
    let fallback = name(fallback.unwrap());
    // Its places are used up: it has none for this one any more.
    fleet.servers.get_mut(&fallback).unwrap().slots.remove(leaf.slot());
    let behind = fleet.servers[&name("r0-0")].position;
    let mut led = false;
    for second in 0..120_u64 {
        fleet.says = Box::new(move |node, facts| {
            if *node == name("r0-0") {
                (facts.position, facts.replay) = (Lsn(behind.0 + second), Lsn(behind.0 + second));
            }
        });
        fleet.tick(1_000);
        let (_, made) = fleet.plan();
        for planned in made.steps {
            let refused = matches!(&planned.step, Step::CreateSlot { on, owner } if *on == fallback && *owner == leaf);
            if refused {
                let done = Done { planned, result: Err("all replication slots are in use".to_owned()) };
                record(&mut fleet.memory, &Outcome { done: vec![done] }, fleet.now);
            } else {
                fleet.carry_out_one(planned);
            }
        }
        led |= fleet.servers[&leaf].upstream.as_ref() == Some(&name("r0-1"));
    }
    assert!(led, "{:?}", fleet.plan().1.waits);
}

#[test]
fn when_all_relays_of_a_group_lag_alike_nobody_is_moved_for_it() {
    let mut fleet = formed();
    let behind = fleet.servers[&name("r0-0")].position;
    let mut told = Vec::new();
    for second in 0..90_u64 {
        // They go on, slowly: who stands still is cut off.
        let at = Lsn(behind.0 + second);
        fleet.says = Box::new(move |node, facts| {
            if node.as_str().starts_with("r0-") {
                (facts.position, facts.replay) = (at, at);
            }
        });
        let made = pass(&mut fleet, 1_000);
        assert_eq!(of_kind(&made, StepKind::SetRoute), Vec::<String>::new());
        told.extend(made.findings.into_iter().filter(|finding| finding.diagnosis == Diagnosis::LaggingRelay));
    }
    assert!(told.iter().any(|finding| finding.message.contains("nobody is moved for it")), "{told:?}");
    // One that catches up shows that it was the other's own doing.
    let mut led = false;
    for second in 90..180_u64 {
        let at = Lsn(behind.0 + second);
        fleet.says = Box::new(move |node, facts| {
            if *node == name("r0-0") {
                (facts.position, facts.replay) = (at, at);
            }
        });
        led |= !of_kind(&pass(&mut fleet, 1_000), StepKind::SetRoute).is_empty();
    }
    assert!(led);
}

#[test]
fn that_a_slot_could_not_be_helped_long_ago_is_not_told_of_it_now() {
    let mut fleet = formed();
    fleet.says = Box::new(|node, facts| {
        if *node == name("r0-1") {
            let idle = facts.slots.values_mut().find(|slot| slot.active_pid.is_none());
            idle.unwrap().xmin = Some(700);
        }
    });
    let told = |fleet: &mut Fleet, ago: u64| {
        fleet.tick(1_000);
        let step = Step::ClearXmin { on: name("r0-1"), owner: idle_owner(fleet) };
        let done = Done { planned: Planned { step, why: Why::ReleaseXmin }, result: Err("no entry".to_owned()) };
        record(&mut fleet.memory, &Outcome { done: vec![done] }, fleet.now);
        fleet.now = fleet.now.plus(ago);
        fleet.plan().1.findings.iter().any(|finding| finding.diagnosis == Diagnosis::SlotHoldsXmin)
    };
    assert!(told(&mut fleet, 1_000));
    assert!(!told(&mut fleet, 3_600_000));
}

/// Who has the first idle slot on r0-1.
fn idle_owner(fleet: &Fleet) -> NodeName {
    let feeds = |owner: &NodeName| fleet.servers[owner].upstream.as_ref() == Some(&name("r0-1"));
    let slots = fleet.servers[&name("r0-1")].slots.keys();
    let mut owners = slots.map(|slot| fleet.desired.nodes.keys().find(|node| node.slot() == slot).unwrap());
    owners.find(|owner| !feeds(owner)).unwrap().clone()
}

#[test]
fn a_zone_whose_servers_do_not_let_the_operator_in_is_not_out_of_sight() {
    let mut desired = desired(&Shape { root: 2, regions: vec![(2, 4)], zones: 2 });
    desired.limits.retained_wal_bytes = BOUND;
    let mut fleet = downhill(&desired, &[0; 32]);
    settle(&mut fleet).unwrap();
    let zone: Vec<NodeName> =
        desired.nodes.keys().filter(|node| desired.zone_of(node) == Some("z1")).cloned().collect();
    fleet.silent = zone.iter().cloned().collect();
    for _ in 0..10 {
        fleet.tick(1_000);
        fleet.observe();
    }
    let mut observed = fleet.observe();
    let told = |observed: &Observed, diagnosis: Diagnosis| {
        let made = plan(&fleet.desired, observed, fleet.now);
        made.findings.iter().filter(|finding| finding.diagnosis == diagnosis).count()
    };
    assert_eq!(told(&observed, Diagnosis::ZoneDown), 1);
    for node in &zone {
        observed.nodes.get_mut(node).unwrap().unseen.as_mut().unwrap().why = WhyUnseen::CredentialsMissing;
    }
    assert_eq!((told(&observed, Diagnosis::ZoneDown), told(&observed, Diagnosis::Unseen)), (0, zone.len()));
}
