//! A small topology in one state after the other: what is said about each.

use std::sync::Arc;

use super::*;
use crate::api::conditions::condition;
use crate::api::status::{Change, HISTORY_ENTRIES};
use crate::model::memory::{FailedStep, NodeMemory, Ordered, Sample};
use crate::model::observed::{InstalledRoute, Receiver, Sender};
use crate::model::primary::true_primary;
use crate::model::{Conninfo, Facts, Lsn, Management, Millis, NodeView, Route, SessionAttrs, Timeline};
use crate::plan::{Done, Readiness, Wait, WaitReason, Why};

mod retained;
mod world;

use world::{World, facts, name, now};

/// Truth and reason of a condition.
fn said(status: &Status, kind: ConditionType) -> (&str, &str) {
    let known = condition(&status.conditions, kind).unwrap();
    (known.status.as_str(), known.reason.as_str())
}

fn message(status: &Status, kind: ConditionType) -> &str {
    &condition(&status.conditions, kind).unwrap().message
}

#[test]
fn a_tree_as_declared_is_ready_and_leaves_nothing_to_do() {
    let status = World::new().report(None, 100);
    let all = ConditionType::iter().map(|kind| said(&status, kind)).collect::<Vec<_>>();
    let expected = [
        ("True", "Valid"),
        ("True", "AsDeclared"),
        ("True", "PrimarySeen"),
        ("True", "EveryGroupServes"),
        ("True", "AllRooted"),
        ("True", "Unproven"),
        ("True", "AsDeclared"),
        ("False", "Idle"),
    ];
    assert_eq!(all, expected);
    for known in &status.conditions {
        assert!(known.message.ends_with("Nothing to do."), "{known:?}");
    }
    let summary =
        Summary { nodes: "5/5".into(), fallbacks: "4/4".into(), lag: "<1s".into(), depth: 2, ..Summary::default() };
    assert_eq!(status.summary, Some(summary));
    let expected = PrimaryStatus { name: "core-1".into(), timeline: Some(3), since: stored(now(100)) };
    assert_eq!(status.primary, Some(expected));
    assert_eq!(status.system_identifier.as_deref(), Some("7300000000000000001"));
    assert_eq!(status.observed_generation, Some(7));
    let as_seen: Vec<_> = status.nodes.iter().map(|node| (node.state, node.upstream.as_deref())).collect();
    let expected = [
        (NodeState::Primary, None),
        (NodeState::Standby, Some("core-1")),
        (NodeState::Relay, Some("core-1")),
        (NodeState::Leaf, Some("eu-1")),
        (NodeState::Leaf, Some("eu-1")),
    ];
    assert_eq!(as_seen, expected);
}

#[test]
fn a_healthy_node_takes_eighty_bytes_at_most() {
    let status = World::new().report(None, 100);
    for node in &status.nodes {
        let bytes = serde_json::to_vec(node).unwrap().len();
        assert!(bytes <= 80, "{bytes} bytes: {node:?}");
    }
}

#[test]
fn five_hundred_nodes_that_all_fail_fit_into_sixty_kilobytes_and_each_says_in_a_word_what_it_is() {
    let mut status = World::new().report(None, 100);
    let node = status.nodes[3].clone();
    let reason = Some("CredentialsRejected".to_owned());
    let failed = |number| {
        let (name, message) = (format!("region-{number}"), Some("x".repeat(NODE_MESSAGE_CHARS)));
        NodeStatus {
            name,
            state: NodeState::Unknown,
            upstream: None,
            lag: None,
            reason: reason.clone(),
            message,
            ..node.clone()
        }
    };
    status.nodes = (0..500).map(failed).collect();
    shorten(&mut status.nodes);
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(bytes < 60_000, "{bytes} bytes");
    assert!(status.nodes[0].message.is_some() && status.nodes[499].message.is_none());
    assert!(status.nodes.iter().all(|node| node.reason == reason));
}

#[test]
fn an_idle_or_steadily_loaded_topology_says_the_same_for_ever() {
    let mut world = World::new();
    let first = world.report(None, 100);
    for (pass, lag) in [0, 1100, 40, 999, 1000, 2300, 600, 1500].into_iter().enumerate() {
        for rooted in Arc::make_mut(&mut world.plan.sight).rooted.values_mut() {
            if let Rooted::Yes { shown_lag_milliseconds, .. } = rooted {
                *shown_lag_milliseconds = lag;
            }
        }
        let primary = name("core-1");
        let step = match pass % 2 {
            0 => Step::Heartbeat { primary },
            _ => Step::AdvanceSlot { on: primary, owner: name("eu-1"), to: Lsn(lag) },
        };
        let planned = Planned { step, why: Why::Quiet };
        world.outcome.done = vec![Done { planned: planned.clone(), result: Ok(()) }];
        world.plan.steps = vec![planned];
        // Read back from the API, as the operator does.
        let stored: Status = serde_json::from_value(serde_json::to_value(&first).unwrap()).unwrap();
        assert_eq!(world.report(Some(&stored), 200), first);
    }
}

#[test]
fn a_step_that_fails_is_told_in_the_same_words_whether_it_is_tried_in_this_pass_or_waits() {
    let mut world = World::new();
    let step = |owner: &str| Planned {
        step: Step::CreateSlot { on: name("core-2"), owner: name(owner) },
        why: Why::AsDeclared,
    };
    let failed =
        |owner: &str| Done { planned: step(owner), result: Err("all replication slots are in use".to_owned()) };
    world.plan.fallbacks.insert(name("eu-2"), vec![(name("core-2"), Readiness::NotReady)]);
    for owner in ["eu-2", "eu-3"] {
        let said = FailedStep { error: "all replication slots are in use".to_owned(), ..FailedStep::default() };
        world.memory().failed_steps.insert((name("core-2"), name(owner), "CreateSlot"), said);
    }
    world.plan.postponed = vec![step("eu-3"), step("eu-2")];
    let waiting = world.report(None, 100);
    assert_eq!(said(&waiting, ConditionType::Converged), ("False", "StepFailed"));
    assert_eq!(said(&waiting, ConditionType::Progressing), ("False", "Blocked"));
    // One is tried again, and then the other.
    for (tried, rest) in [("eu-2", "eu-3"), ("eu-3", "eu-2")] {
        world.plan.steps = vec![step(tried)];
        world.plan.postponed = vec![step(rest)];
        world.outcome.done = vec![failed(tried)];
        assert_eq!(world.report(Some(&waiting), 200), waiting);
        // It is due, and the server was too slow for it to begin.
        world.outcome.done.clear();
        assert_eq!(world.report(Some(&waiting), 200), waiting);
    }
    // What succeeds is news.
    world.plan.postponed.clear();
    world.outcome.done = vec![Done { planned: step("eu-3"), result: Ok(()) }];
    assert_eq!(said(&world.report(Some(&waiting), 300), ConditionType::Converged), ("False", "Working"));
}

#[test]
fn a_lag_that_grows_is_told_and_told_again_when_it_shrinks() {
    let steps =
        [(300, "<1s"), (3500, "<5s"), (900, "<5s"), (600, "<1s"), (60_000, "<5m"), (900_000, ">5m"), (10, "<1s")];
    let mut told = None;
    for (lag, expected) in steps {
        let bucket = lag_bucket(lag, told);
        assert_eq!(bucket.to_string(), expected, "{lag}");
        told = Some(bucket);
    }
}

#[test]
fn until_every_node_was_tried_the_previous_status_stands() {
    let mut world = World::new();
    let before = world.report(None, 100);
    world.unsee("eu-3", WhyUnseen::NotYet, "");
    let after = status(&world.desired, &world.observed, &world.plan, &world.outcome, Some(&before), 8, now(200));
    assert_eq!(after, before);
    let first = status(&world.desired, &world.observed, &world.plan, &world.outcome, None, 8, now(200));
    assert_eq!(first.observed_generation, Some(8));
}

#[test]
fn a_wrong_password_names_the_node_and_the_secret() {
    let mut world = World::new();
    world.unsee("eu-3", WhyUnseen::CredentialsRejected, "password authentication failed for user \"waltree\"");
    let status = world.report(None, 100);
    assert_eq!(said(&status, ConditionType::Rooted), ("Unknown", "CredentialsRejected"));
    let expected = "1 of 5 nodes has no proven path to the primary: eu-3. eu-3: it rejects the operator's credentials: \
                    password authentication failed for user \"waltree\". Correct username and password in the Secret, or \
                    give the role a line in pg_hba.conf.";
    assert_eq!(message(&status, ConditionType::Rooted), expected);
    assert_eq!(said(&status, ConditionType::Ready), ("True", "Degraded"));
    let node = status.nodes.last().unwrap();
    assert_eq!((node.state, node.reason.as_deref(), node.lag), (NodeState::Unknown, Some("CredentialsRejected"), None));
    assert_eq!(status.summary.unwrap().nodes, "4/5");
}

#[test]
fn a_primary_that_is_not_seen_is_unknown_and_its_last_name_stays() {
    let mut world = World::new();
    let before = world.report(None, 100);
    world.unsee("core-1", WhyUnseen::Refused, "connection refused");
    let after = world.report(Some(&before), 200);
    assert_eq!(said(&after, ConditionType::Writable), ("Unknown", "Refused"));
    assert_eq!(said(&after, ConditionType::Ready), ("Unknown", "Refused"));
    assert!(message(&after, ConditionType::Writable).contains("core-1 of core may be it"));
    assert_eq!(after.primary, before.primary);
    assert_eq!(after.system_identifier, before.system_identifier);
}

#[test]
fn nobody_and_two_primaries_are_not_writable() {
    let mut world = World::new();
    world.observed.nodes.get_mut(&name("core-1")).unwrap().last = Some(Arc::new(facts("core-1", Some("core-2"))));
    assert_eq!(said(&world.report(None, 1), ConditionType::Writable), ("False", "NoPrimary"));
    let mut world = World::new();
    world.observed.nodes.get_mut(&name("core-2")).unwrap().last = Some(Arc::new(facts("core-2", None)));
    let status = world.report(None, 1);
    assert_eq!(said(&status, ConditionType::Writable), ("False", "TwoPrimaries"));
    assert_eq!(said(&status, ConditionType::Ready), ("False", "TwoPrimaries"));
    assert!(message(&status, ConditionType::Writable).starts_with("core-1, core-2 all take writes"));
}

/// No server of the root group is a primary: its first receives from `above`, or is not seen.
fn without_primary(management: Management, above: Option<&str>) -> String {
    let mut world = World::new();
    world.desired.groups[0].management = management;
    match above {
        Some(above) => {
            world.observed.nodes.get_mut(&name("core-1")).unwrap().last = Some(Arc::new(facts("core-1", Some(above))));
        }
        None => world.unsee("core-1", WhyUnseen::Refused, "connection refused"),
    }
    message(&world.report(None, 1), ConditionType::Writable).to_owned()
}

#[test]
fn who_promotes_is_said_by_who_keeps_the_root_group() {
    let ours = [without_primary(Management::Routes, Some("core-2")), without_primary(Management::Routes, None)];
    assert!(ours[0].ends_with(" none takes writes. Promote one of them; waltree never does."), "{}", ours[0]);
    assert!(ours[1].ends_with(" If it is lost: Promote another of core; waltree never does."), "{}", ours[1]);
    let theirs = [without_primary(Management::Observe, Some("core-2")), without_primary(Management::Observe, None)];
    for (said, whom) in theirs.iter().zip(["one of them", "another of core"]) {
        let expected = format!("The manager that keeps core promotes {whom}; promote nobody by hand.");
        assert!(said.ends_with(&expected), "{said}");
    }
}

#[test]
fn where_only_standbys_of_another_tree_are_the_root_group_its_primary_is_to_be_declared_and_nobody_promoted() {
    let strange = "core-1 receives from 192.0.2.9:5432, which is not in the topology. If the primary is there, promote \
                   nobody: declare all servers that may be the primary as a group with management: Observe and without \
                   upstreams, above core, and let core name it in upstreams. If not: ";
    for (management, rest) in [
        (Management::Observe, "The manager that keeps core promotes one of them; promote nobody by hand."),
        (Management::Routes, "Promote one of them; waltree never does."),
    ] {
        let said = without_primary(management, Some("192.0.2.9"));
        assert!(said.ends_with(&format!("{strange}{rest}")), "{said}");
    }
}

#[test]
fn a_group_without_a_rooted_node_within_the_bound_is_down() {
    let mut world = World::new();
    for node in ["eu-1", "eu-2", "eu-3"] {
        Arc::make_mut(&mut world.plan.sight)
            .rooted
            .insert(name(node), Rooted::No("its position stands still".to_owned()));
    }
    let status = world.report(None, 1);
    assert_eq!(said(&status, ConditionType::Serving), ("False", "GroupDown"));
    assert_eq!(said(&status, ConditionType::Ready), ("False", "GroupDown"));
    assert!(
        message(&status, ConditionType::Serving)
            .contains("at most 30 s behind in eu. eu-1: its position stands still.")
    );
    let counts: Vec<_> = status.groups.iter().map(|group| (group.nodes, group.rooted, group.serving)).collect();
    assert_eq!(counts, [(2, 2, 2), (3, 0, 0)]);
    for node in ["eu-1", "eu-2", "eu-3"] {
        Arc::make_mut(&mut world.plan.sight)
            .rooted
            .insert(name(node), Rooted::Yes { hops: 1, lag_milliseconds: 0, shown_lag_milliseconds: 30_001 });
    }
    let status = world.report(None, 1);
    assert_eq!((said(&status, ConditionType::Serving).0, said(&status, ConditionType::Rooted).0), ("False", "True"));
}

#[test]
fn the_reason_of_not_rooted_is_the_worst_finding() {
    let mut world = World::new();
    for node in ["eu-1", "eu-2"] {
        Arc::make_mut(&mut world.plan.sight).rooted.insert(name(node), Rooted::No("no stream".to_owned()));
    }
    let message_of = "It refuses connections and nobody receives from it. Start it.";
    let finding = Finding { node: name("eu-1"), diagnosis: Diagnosis::DeadRelay, message: message_of.to_owned() };
    world.plan.findings = vec![finding];
    let status = world.report(None, 1);
    assert_eq!(said(&status, ConditionType::Rooted), ("False", "DeadRelay"));
    assert!(message(&status, ConditionType::Rooted).ends_with(&message_of.replace("It refuses", "eu-1: it refuses")));
    assert_eq!(said(&status, ConditionType::Converged), ("False", "DeadRelay"));
}

#[test]
fn a_fallback_that_is_not_ready_and_a_shortage_are_told() {
    let mut world = World::new();
    world.plan.shortages = vec!["eu: 2 nodes have one fallback instead of two".to_owned()];
    assert_eq!(said(&world.report(None, 1), ConditionType::FallbacksReady), ("False", "TooFew"));
    world.plan.fallbacks.insert(name("eu-2"), vec![(name("core-2"), Readiness::NotReady)]);
    let status = world.report(None, 1);
    assert_eq!(said(&status, ConditionType::FallbacksReady), ("False", "NotReady"));
    assert!(
        message(&status, ConditionType::FallbacksReady)
            .starts_with("3 of 4 fallbacks are ready; not yet: core-2 for eu-2.")
    );
    assert_eq!(status.summary.unwrap().fallbacks, "3/4");
    world.plan.fallbacks.insert(name("eu-2"), vec![(name("core-2"), Readiness::Ahead)]);
    let status = world.report(None, 1);
    let told = message(&status, ConditionType::FallbacksReady);
    assert!(told.contains("not yet: core-2 for eu-2. Their slots keep WAL only from beyond"), "{told}");
}

#[test]
fn steps_waits_and_withheld_steps_are_not_converged() {
    let create = || Planned { step: Step::CreateSlot { on: name("core-2"), owner: name("eu-2") }, why: Why::Prepare };
    let wait = |reason| Wait { node: name("eu-2"), reason, message: "the slot is not there".to_owned() };
    let mut world = World::new();
    let both = |world: &World| {
        let status = world.report(None, 1);
        let (converged, progressing) =
            (said(&status, ConditionType::Converged), said(&status, ConditionType::Progressing));
        (converged.0.to_owned(), converged.1.to_owned(), progressing.0.to_owned(), progressing.1.to_owned())
    };
    let expect = |a: &str, b: &str, c: &str, d: &str| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned());
    world.plan.steps = vec![create()];
    assert_eq!(both(&world), expect("False", "Working", "True", "Working"));
    assert_eq!(said(&world.report(None, 1), ConditionType::Ready), ("True", "Healing"));
    world.outcome.done = vec![Done { planned: create(), result: Err("permission denied".to_owned()) }];
    assert_eq!(both(&world), expect("False", "StepFailed", "False", "Blocked"));
    world.outcome.done.clear();
    world.plan.steps.clear();
    world.plan.waits = vec![wait(WaitReason::SlotNotReady)];
    assert_eq!(both(&world), expect("False", "Waiting", "True", "Waiting"));
    world.plan.waits = vec![wait(WaitReason::NotWritable)];
    assert_eq!(both(&world), expect("False", "Blocked", "False", "Blocked"));
    world.plan.waits.clear();
    world.plan.withheld = vec![create()];
    assert_eq!(both(&world), expect("False", "ObserveOnly", "False", "Idle"));
    let status = world.report(None, 1);
    let expected = "Not done, as Observe forbids it: create the slot of eu-2 on core-2 (Prepare).";
    assert!(message(&status, ConditionType::Converged).starts_with(expected));
    world.desired.deleting = true;
    assert_eq!(said(&world.report(None, 1), ConditionType::Progressing), ("True", "Deleting"));
}

#[test]
fn an_edge_is_told_only_when_both_ends_agree() {
    let mut world = World::new();
    let view = world.observed.nodes.get_mut(&name("eu-1")).unwrap();
    let mut alone = view.last.as_deref().cloned().unwrap();
    alone.senders.retain(|sender| sender.application_name != "eu-3");
    view.last = Some(Arc::new(alone));
    let status = world.report(None, 1);
    let upstream = |node: usize| status.nodes[node].upstream.as_deref();
    assert_eq!((upstream(3), upstream(4)), (Some("eu-1"), None));
}

#[test]
fn a_heal_is_told_in_the_history_with_how_long_it_took() {
    let mut world = World::new();
    let before = world.report(None, 100);
    assert!(before.history.is_empty());
    world.unsee("eu-1", WhyUnseen::Refused, "connection refused");
    for node in ["eu-2", "eu-3"] {
        world.reattach(node, "core-2");
    }
    world.plan.waits =
        vec![Wait { node: name("eu-1"), reason: WaitReason::NotWritable, message: "not seen".to_owned() }];
    let during = world.report(Some(&before), 200);
    assert_eq!(during.nodes[3].reason.as_deref(), Some("OnFallback"));
    let told: Vec<_> =
        during.history.iter().map(|c| (c.what.as_str(), c.why.as_str(), c.healed_after_seconds)).collect();
    let expected =
        [("eu-2, eu-3 moved from eu-1 to core-2", "Refused", None), ("eu-1 cannot be seen", "Refused", None)];
    assert_eq!(told, expected);
    assert_eq!(world.report(Some(&during), 230).history, during.history);
    let after = World::new().report(Some(&during), 260);
    let told: Vec<_> =
        after.history.iter().map(|c| (c.what.as_str(), c.why.as_str(), c.healed_after_seconds)).collect();
    let expected = [
        ("eu-2, eu-3 moved from core-2 to eu-1", "GiveBack", Some(0)),
        ("eu-1 came back", "Refused", Some(0)),
        ("eu-2, eu-3 moved from eu-1 to core-2", "Refused", Some(60)),
        ("eu-1 cannot be seen", "Refused", Some(60)),
    ];
    assert_eq!(told, expected);
    let mut status = after;
    for second in 300..320 {
        let mut world = World::new();
        if second % 2 == 0 {
            world.unsee("eu-3", WhyUnseen::Timeout, "");
        }
        status = world.report(Some(&status), second);
    }
    assert_eq!(status.history.len(), HISTORY_ENTRIES);
}

#[test]
fn a_move_is_told_in_the_history_also_when_the_node_was_seen_below_nobody_on_its_way() {
    let mut world = World::new();
    let mut look = |upstream: Option<&str>, previous: &Status, second: i64| {
        if let Some(upstream) = upstream {
            world.reattach("eu-3", upstream);
        } else {
            let mut alone = facts("eu-3", Some("eu-1"));
            alone.receiver = None;
            world.observed.nodes.get_mut(&name("eu-3")).unwrap().last = Some(Arc::new(alone));
        }
        let (desired, nodes) = (world.desired.clone(), world.observed.nodes.clone());
        world.memory().advance(&desired, &nodes, Millis(second.unsigned_abs() * 1000));
        let status = world.report(Some(previous), second);
        let told = |change: &Change| change.what.contains(" moved ").then(|| change.what.clone());
        let moves: Vec<_> = status.history.iter().filter_map(told).collect();
        (status, moves)
    };
    let before = World::new().report(None, 100);
    let (status, _) = look(Some("eu-1"), &before, 101);
    let (status, _) = look(None, &status, 102);
    assert_eq!(status.nodes[4].upstream, None);
    let (status, moves) = look(Some("core-2"), &status, 103);
    assert_eq!(moves, ["eu-3 moved from eu-1 to core-2"]);
    // It is the same one that it comes back to.
    let (status, _) = look(None, &status, 104);
    let (_, moves) = look(Some("core-2"), &status, 105);
    assert_eq!(moves.len(), 1, "{moves:?}");
}

#[test]
fn a_tree_is_not_as_declared_while_a_node_receives_from_nobody_and_nothing_is_diagnosed_yet() {
    let mut world = World::new();
    let memory = |at| NodeMemory { alone_since: Some(Millis(at)), asked_at: Millis(2_000), ..NodeMemory::default() };
    // A look that was asked for at once sees a reconnect of milliseconds as well.
    for at in [2_000, 1_970] {
        world.memory().nodes.insert(name("eu-3"), memory(at));
        assert_eq!(said(&world.report(None, 1), ConditionType::Converged), ("True", "AsDeclared"));
    }
    world.memory().nodes.insert(name("eu-3"), memory(1_000));
    let status = world.report(None, 1);
    assert_eq!(said(&status, ConditionType::Converged), ("False", "Waiting"));
    assert!(message(&status, ConditionType::Converged).starts_with("eu-3 receives from nobody at the moment"));
}

#[test]
fn a_refused_spec_says_what_to_correct_and_that_nobody_looks_until_then() {
    let before = World::new().report(None, 100);
    let rejections =
        vec![Rejection::new("spec.groups[1].relays", "eu: 3 relays of 3 hosts leave nobody to feed: lower it")];
    let after = rejected(&rejections, Some(&before), 8, now(200));
    assert_eq!(said(&after, ConditionType::Accepted), ("False", "Invalid"));
    assert_eq!(said(&after, ConditionType::Ready), ("False", "Invalid"));
    // Nobody looks any more, so nothing is known any more (law 8).
    for kind in ConditionType::iter().filter(|kind| ![ConditionType::Accepted, ConditionType::Ready].contains(kind)) {
        assert_eq!(said(&after, kind), ("Unknown", "Invalid"), "{kind}");
    }
    assert_eq!(after.summary.as_ref().unwrap().lag, LagBucket::Unknown.to_string());
    let expected = "spec.groups[1].relays: eu: 3 relays of 3 hosts leave nobody to feed: lower it. Correct the spec: until \
                    then no server is touched.";
    assert_eq!(message(&after, ConditionType::Accepted), expected);
    assert_eq!((after.nodes, after.observed_generation), (before.nodes, Some(8)));
    assert_eq!(rejected(&rejections, None, 1, now(1)).conditions.len(), 2);
}

#[test]
fn a_move_is_told_with_the_reason_of_the_order_that_it_follows() {
    // Ordered to where it is, a moment before it came there; elsewhere; and to there, long ago.
    for (first, ordered_at, told) in
        [("core-2", 100_000, "Regroup"), ("eu-1", 100_000, "GiveBack"), ("core-2", 1_000, "GiveBack")]
    {
        let mut world = World::new();
        // As it is in the pass that orders the move.
        world.want("eu-3", "core-2");
        let before = world.report(None, 100);
        world.reattach("eu-3", "core-2");
        let ordered = Ordered {
            route: Route { entries: vec![name(first)], attrs: SessionAttrs::Any },
            conninfo: Conninfo::default(),
            why: Why::Regroup.into(),
            at: Millis(ordered_at),
            seen_installed: true,
            followed: false,
            streamed: true,
            moves: true,
            arrived: false,
        };
        let memory = world.memory().nodes.entry(name("eu-3")).or_default();
        (memory.ordered, memory.upstream) = (Some(ordered), Some((name("core-2"), Millis(100_100))));
        let history = world.report(Some(&before), 101).history;
        let moves: Vec<_> = history.iter().map(|change| (change.what.as_str(), change.why.as_str())).collect();
        assert_eq!(moves, [("eu-3 moved from eu-1 to core-2", told)]);
    }
}
