//! Every rule with its message: who, which value, what to do.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{Automation, Healing, Limits, Management, NodeName, NodeSpec, Reads};

/// A group of `count` hosts below `upstreams`, of which the first `relays` feed the others.
fn group(name: &str, upstreams: &[&str], relays: usize, count: usize) -> Group {
    Group {
        name: GroupName::new(name).unwrap(),
        upstreams: upstreams.iter().map(|upstream| GroupName::new(upstream).unwrap()).collect(),
        relays,
        region: None,
        management: Management::Routes,
        fan_out: 8,
        members: (1..=count).map(|number| NodeName::new(&format!("{name}-{number}")).unwrap()).collect(),
    }
}

fn desired(groups: Vec<Group>) -> Desired {
    let mut nodes = BTreeMap::new();
    for (place, group) in groups.iter().enumerate() {
        for name in &group.members {
            let address = format!("{name}.example");
            nodes.insert(
                name.clone(),
                NodeSpec { name: name.clone(), group: place, address, hostaddr: None, port: 5432, zone: None },
            );
        }
    }
    Desired {
        automation: Automation::Heal,
        deleting: false,
        acknowledged: BTreeSet::new(),
        leaving: BTreeSet::new(),
        limits: Limits { fan_out: 8, depth: 4, cross_region_streams: 2, retained_wal_bytes: 10 << 30 },
        healing: Healing { suspect_after_milliseconds: 2000, lag_seconds: 30, settle_seconds: 60 },
        reads: Reads::default(),
        groups,
        nodes: nodes.into_iter().collect(),
    }
}

fn said(groups: Vec<Group>) -> Vec<String> {
    check(&desired(groups)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_tree_that_can_be_is_accepted() {
    let groups = vec![
        group("core", &[], 0, 3),
        group("eu", &["core"], 2, 18),
        group("ap", &["core"], 2, 18),
        group("warehouse", &["eu", "ap"], 0, 0),
    ];
    assert_eq!(said(groups), ["spec.groups[3].hosts: warehouse has no hosts: name at least one"]);
    assert_eq!(said(vec![group("core", &[], 0, 3), group("eu", &["core"], 2, 18)]), Vec::<String>::new());
}

#[test]
fn an_unknown_upstream_is_named() {
    let found = said(vec![group("core", &[], 0, 1), group("eu", &["cor"], 0, 1)]);
    let expected =
        "spec.groups[1].upstreams[0]: eu names cor, and there is no such group: correct the name, or add the group";
    assert_eq!(found, [expected]);
}

#[test]
fn a_group_written_below_is_told_where_to_go() {
    let found = said(vec![group("core", &[], 0, 1), group("eu", &["us"], 0, 1), group("us", &["core"], 0, 1)]);
    let expected = "spec.groups[1].upstreams[0]: eu names us, which is written below it: move eu below us";
    assert_eq!(found, [expected]);
}

#[test]
fn a_cycle_names_all_who_are_in_it() {
    let found = said(vec![group("core", &[], 0, 1), group("eu", &["us"], 0, 1), group("us", &["eu"], 0, 1)]);
    let expected =
        "spec.groups[1].upstreams[0]: eu and us feed each other in a cycle: let one of them name a group outside it";
    assert_eq!(found, [expected]);
    let found = said(vec![group("core", &[], 0, 1), group("eu", &["eu"], 0, 1)]);
    assert_eq!(found, ["spec.groups[1].upstreams[0]: eu names itself: remove it"]);
}

#[test]
fn there_is_one_root_group() {
    let none = said(vec![group("core", &["eu"], 0, 1), group("eu", &["core"], 0, 1)]);
    assert!(none.iter().any(|text| text.starts_with("spec.groups: no group is without upstreams")), "{none:?}");
    let two = said(vec![group("core", &[], 0, 1), group("heart", &[], 0, 1)]);
    let expected = "spec.groups: core and heart have no upstreams, and only the root group may have none: give the others upstreams";
    assert_eq!(two, [expected]);
}

#[test]
fn a_name_is_used_once() {
    let mut again = group("eu", &["core"], 0, 1);
    again.members = vec![NodeName::new("core-1").unwrap()];
    let found = said(vec![group("core", &[], 0, 1), again]);
    let expected = "spec.groups[1].hosts[0].name: core-1 is a host of core already, and of eu: rename one";
    assert_eq!(found, [expected]);
    let found = said(vec![group("core", &[], 0, 1), group("eu", &["core"], 0, 1), group("eu", &["core"], 0, 0)]);
    assert!(found.contains(&"spec.groups[2].name: there are two groups eu: rename one".to_owned()), "{found:?}");
}

#[test]
fn one_server_is_one_host() {
    let mut wanted = desired(vec![group("core", &[], 0, 1), group("eu", &["core"], 0, 1)]);
    wanted.nodes.get_mut(&NodeName::new("eu-1").unwrap()).unwrap().address = "CORE-1.example".to_owned();
    let found: Vec<String> = check(&wanted).iter().map(ToString::to_string).collect();
    let expected = "spec.groups[1].hosts[0].address: eu-1 has the address CORE-1.example:5432 of core-1: one server is one host; correct it";
    assert_eq!(found, [expected]);
}

#[test]
fn relays_need_somebody_to_feed() {
    let found = said(vec![group("core", &[], 0, 1), group("eu", &["core"], 3, 3)]);
    let expected = "spec.groups[1].relays: eu: 3 relays of 3 hosts leave nobody to feed: lower relays to 2 at most, or leave it out";
    assert_eq!(found, [expected]);
    let found = said(vec![group("core", &[], 1, 3)]);
    assert_eq!(
        found,
        ["spec.groups[0].relays: core is the root group, whose primary feeds its other servers: leave relays out"]
    );
}

#[test]
fn relays_that_cannot_hold_their_group_are_told_with_numbers() {
    let mut eu = group("eu", &["core"], 2, 60);
    eu.fan_out = 20;
    let found = said(vec![group("core", &[], 0, 1), eu]);
    let expected = "spec.groups[1].fanOut: eu: 2 relays x 20 = 40: 40 places for 58 nodes: raise its fanOut to 29, or its relays to 3";
    assert_eq!(found, [expected.replace(": 40 places", " places")]);
}

#[test]
fn a_root_group_too_large_for_its_primary_is_told_with_numbers() {
    let found = said(vec![group("core", &[], 0, 10)]);
    let expected = "spec.groups[0].fanOut: core: 1 primary x 8 = 8 places for 9 nodes: raise its fanOut to 9, or move servers into a group below it";
    assert_eq!(found, [expected]);
}

#[test]
fn groups_that_crowd_one_upstream_together_are_named_together() {
    let groups = vec![
        group("core", &[], 0, 3),
        group("eu", &["core"], 0, 12),
        group("ap", &["core"], 0, 11),
        group("us", &["eu"], 0, 9),
    ];
    let expected = "spec.groups[0].fanOut: 23 nodes (12 of eu, 11 of ap) want a place directly below core, which has 22 \
                    (core: 3 hosts x 8 = 24 less 2 of its own): raise the fanOut of core to 9, or give eu and ap relays \
                    that feed the rest";
    assert_eq!(said(groups), [expected]);
}

#[test]
fn a_second_upstream_group_takes_what_the_first_cannot() {
    let fits = vec![group("core", &[], 0, 1), group("eu", &["core"], 0, 2), group("us", &["core", "eu"], 0, 22)];
    assert_eq!(said(fits), Vec::<String>::new());
    let too_many = vec![group("core", &[], 0, 1), group("eu", &["core"], 0, 2), group("us", &["core", "eu"], 0, 23)];
    assert!(said(too_many)[0].contains("want a place directly below core and eu, which has 24"));
}

#[test]
fn a_tree_deeper_than_the_limit_is_told_by_how_much() {
    let groups = vec![
        group("core", &[], 0, 1),
        group("a", &["core"], 1, 2),
        group("b", &["a"], 1, 2),
        group("c", &["b"], 1, 2),
        group("d", &["c"], 1, 2),
    ];
    assert_eq!(feeder_ranks(&desired(groups.clone())), [0, 1, 2, 3, 4]);
    let expected = "spec.limits.depth: the lowest nodes of d are 5 hops below the primary, and the limit is 4: raise limits.depth to 5, or let d name a group further up";
    assert_eq!(said(groups.clone()), [expected]);
    assert_eq!(said(groups[..4].to_vec()), Vec::<String>::new());
}

#[test]
fn a_region_with_too_many_streams_from_outside_is_named() {
    let in_eu = |mut group: Group| {
        group.region = Some("eu".to_owned());
        group
    };
    let two = vec![group("core", &[], 0, 1), in_eu(group("eu", &["core"], 2, 4)), in_eu(group("more", &["eu"], 0, 4))];
    assert_eq!(said(two.clone()), Vec::<String>::new());
    let mut three = two;
    three.push(in_eu(group("late", &["core"], 0, 1)));
    let expected = "spec.limits.crossRegionStreams: region eu takes 3 WAL streams from other regions (eu brings 2 from \
                    core, late brings 1 from core), and the limit is 2: let fewer relays feed the rest of the region, or \
                    raise limits.crossRegionStreams to 3";
    assert_eq!(said(three), [expected]);
}
