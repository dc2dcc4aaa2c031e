use proptest::prelude::*;

use super::*;
use crate::model::check::check;
use crate::model::observed::{InstalledRoute, Receiver, Sender};
use crate::model::{Conninfo, Facts, Group, GroupName, Lsn, Timeline};

/// A healthy fleet: each server's name and the place of its upstream.
fn fleet(servers: &[(&str, Option<usize>)]) -> Vec<Found> {
    let address = |place: usize| format!("10.0.0.{place}");
    let found = servers.iter().enumerate().map(|(place, (name, upstream))| {
        let receiver = upstream.map(|upstream| Receiver {
            pid: 1,
            status: "streaming".to_owned(),
            host: address(upstream),
            port: 5432,
            slot: None,
            timeline: Timeline(1),
            silent_for_milliseconds: 0,
        });
        let children = servers.iter().filter(|(_, upstream)| *upstream == Some(place));
        let sender = |(name, _): &(&str, Option<usize>)| Sender {
            pid: 1,
            application_name: (*name).to_owned(),
            state: "streaming".to_owned(),
            sync: Some(false),
            slot: None,
            client: None,
            replied: None,
        };
        let route = upstream.map(|upstream| format!("host={} application_name={name} user=repl", address(upstream)));
        let facts = Facts {
            receiver,
            in_recovery: upstream.is_some(),
            senders: children.map(sender).collect(),
            route: InstalledRoute {
                conninfo: Conninfo::parse(&route.unwrap_or_default()).unwrap(),
                ..route_of_nobody()
            },
            ..facts(name, place)
        };
        Found { address: address(place), port: 5432, facts: facts.into(), upstream: *upstream }
    });
    found.collect()
}

fn route_of_nobody() -> InstalledRoute {
    InstalledRoute {
        conninfo: Conninfo::default(),
        slot: String::new(),
        nudged: false,
        has_password: false,
        unreadable: false,
        pending: None,
    }
}

fn facts(cluster_name: &str, started: usize) -> Facts {
    Facts {
        asked_at: Millis(1),
        at: Millis(2),
        system_identifier: 7,
        cluster_name: cluster_name.to_owned(),
        version_num: 150_018,
        started: started as u64,
        in_recovery: false,
        position: Lsn(1 << 24),
        replay: Lsn(1 << 24),
        timeline: Some(Timeline(1)),
        timeline_at_least: Some(Timeline(1)),
        history: Vec::new(),
        redo: Lsn(1 << 24),
        oldest_wal: Some(Lsn(0)),
        segment_bytes: 1 << 24,
        replay_paused: false,
        startup_wait: None,
        receiver: None,
        connecting: false,
        route: route_of_nobody(),
        senders: Vec::new(),
        slots: BTreeMap::new(),
        synchronous_standby_names: String::new(),
        alter_system_allowed: true,
        disk_full: false,
        missing_grants: Vec::new(),
        may_end_senders: true,
        parameters: BTreeMap::new(),
    }
}

fn groups(adoption: &Adoption) -> Vec<String> {
    let list = |all: &[NodeName]| all.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" ");
    let upstreams = |g: &Group| g.upstreams.iter().map(GroupName::as_str).collect::<Vec<_>>().join(" ");
    let one = |g: &Group| format!("{} < {}: {} of {}", g.name, upstreams(g), g.relays, list(&g.members));
    adoption.desired.groups.iter().map(one).collect()
}

#[test]
fn relays_that_feed_as_many_are_one_group_and_standbys_that_feed_nobody_stand_beside_the_primary() {
    let found = fleet(&[
        ("db-1", None),
        ("db-2", Some(0)),
        ("eu-1", Some(0)),
        ("eu-2", Some(0)),
        ("eu-3", Some(2)),
        ("eu-4", Some(3)),
        ("eu-5", Some(2)),
    ]);
    let adoption = adopt(&found, Management::Routes).unwrap();
    assert_eq!(groups(&adoption), ["core < : 0 of db-1 db-2", "eu < core: 2 of eu-1 eu-2 eu-3 eu-4 eu-5"]);
    assert_eq!((&adoption.moves, &adoption.remarks), (&BTreeMap::new(), &Vec::new()));
}

#[test]
fn a_relay_that_feeds_more_than_its_siblings_or_feeds_relays_has_a_group_of_its_own() {
    let found = fleet(&[
        ("p", None),
        ("a", Some(0)),
        ("b", Some(0)),
        ("a1", Some(1)),
        ("a2", Some(1)),
        ("a3", Some(1)),
        ("b1", Some(2)),
        ("b1x", Some(6)),
        ("b1y", Some(6)),
    ]);
    let adoption = adopt(&found, Management::Routes).unwrap();
    let expected = ["core < : 0 of p", "b < core: 0 of b", "a < core: 1 of a a1 a2 a3", "b1 < b core: 1 of b1 b1x b1y"];
    assert_eq!(groups(&adoption), expected);
    assert_eq!(adoption.moves, BTreeMap::new());
}

#[test]
fn many_standbys_right_below_the_primary_are_readers_and_it_is_said() {
    let mut servers = vec![("p".to_owned(), None)];
    servers.extend((0..12).map(|i| (format!("r{i}"), Some(0))));
    let servers: Vec<(&str, Option<usize>)> = servers.iter().map(|(name, up)| (name.as_str(), *up)).collect();
    let adoption = adopt(&fleet(&servers), Management::Routes).unwrap();
    assert_eq!(adoption.desired.groups[0].fan_out, 12);
    assert_eq!((adoption.desired.groups.len(), adoption.desired.groups[1].members.len()), (2, 12));
    assert!(adoption.remarks[0].starts_with("12 standbys that feed nobody"), "{:?}", adoption.remarks);
    assert_eq!(adoption.moves, BTreeMap::new());
}

#[test]
fn names_are_made_legal_and_unique_and_a_word_that_all_share_names_nobody() {
    let mut found = fleet(&[("DB_1", None), ("walreceiver", Some(0)), ("walreceiver", Some(0)), ("db.1", Some(0))]);
    for server in &mut found {
        let cluster_name = server.facts.cluster_name.replace("walreceiver", "15/main");
        server.facts = Facts { cluster_name, ..(*server.facts).clone() }.into();
    }
    let names = names::names(&found).unwrap();
    let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
    assert_eq!(names, ["pg-10-0-0-0", "pg-10-0-0-1", "pg-10-0-0-2", "pg-10-0-0-3"]);
    found.truncate(3);
    assert_eq!(names::names(&found).unwrap()[0].as_str(), "db-1");
}

#[test]
fn what_is_not_below_the_primary_is_left_out_and_named() {
    let found = fleet(&[("p", None), ("l", Some(0)), ("q", None), ("m", Some(2))]);
    let adoption = adopt(&found, Management::Routes).unwrap();
    assert_eq!(groups(&adoption), ["core < : 0 of p l"]);
    let said = adoption.remarks.join("\n");
    assert!(said.contains("q (10.0.0.2:5432) answers as a primary beside the one taken for it"), "{said}");
    assert!(said.contains("m (10.0.0.3:5432) is fed by a server that is left out"), "{said}");
}

proptest! {
    /// Whatever the tree, its manifest is one that is taken, and applying it moves nobody.
    #[test]
    fn a_healthy_fleet_of_any_shape_is_adopted_without_a_move(
        parents in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..3), 1..60),
    ) {
        let mut depth = vec![0_usize];
        let mut upstreams: Vec<Option<usize>> = vec![None];
        for (parent, bias) in &parents {
            // Some trees are broad and some are deep.
            let at = if *bias == 0 { 0 } else { parent.index(upstreams.len()) };
            let at = if depth[at] < 12 { at } else { 0 };
            depth.push(depth[at] + 1);
            upstreams.push(Some(at));
        }
        let names: Vec<String> = (0..upstreams.len()).map(|i| format!("n{i}")).collect();
        let servers: Vec<(&str, Option<usize>)> = names.iter().map(String::as_str).zip(upstreams).collect();
        let adoption = adopt(&fleet(&servers), Management::Routes).unwrap();
        prop_assert_eq!(check(&adoption.desired), Vec::new());
        prop_assert_eq!(&adoption.moves, &BTreeMap::new());
        prop_assert_eq!(adoption.desired.nodes.len(), servers.len());
    }
}
