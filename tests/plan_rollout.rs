//! Who is started anew when, and when pods of nodes go that were taken out of the spec.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod fleet;

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet::Fleet;
use waltree::api::ReplicaTopologySpec;
use waltree::model::memory::NodeMemory;
use waltree::model::orders::{Account, Data, Orders, Role};
use waltree::model::pods::{Labels, MadeFrom, Pod, Pods};
use waltree::model::primary::Primary;
use waltree::model::rooted::Rooted;
use waltree::model::tree::Edge;
use waltree::model::{ByNode, Desired, Memory, Millis, NodeName, Observed, Route, SessionAttrs, Sight};
use waltree::plan::pods::tend;
use waltree::plan::removed::remove;
use waltree::plan::{Deed, Plan, Why, rollout};

const IDENTIFIER: u64 = 7_000_000_000_000_000_001;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// Two candidates, and below them a relay with two leaves.
struct Tree {
    desired: Desired,
    pods: Pods,
    sight: Sight,
    memory: Memory,
}

const EDGES: [(&str, &str); 4] = [("core-2", "core-1"), ("eu-1", "core-2"), ("eu-2", "eu-1"), ("eu-3", "eu-1")];
/// The leaves, their relay, the candidate, the primary.
const ORDER: [&str; 5] = ["eu-2", "eu-3", "eu-1", "core-2", "core-1"];

impl Tree {
    fn new() -> Self {
        let spec = "{groups: [{name: core, replicas: 2}, {name: eu, replicas: 3, relays: 1, upstreams: [core]}]}";
        let spec: ReplicaTopologySpec = serde_yaml::from_str(spec).unwrap();
        let primary = name("core-1");
        let hops = [("core-1", 0), ("core-2", 1), ("eu-1", 2), ("eu-2", 3), ("eu-3", 3)];
        let rooted = |hops| Rooted::Yes { hops, lag_milliseconds: 0, shown_lag_milliseconds: 0 };
        let edge = |(child, upstream): (&str, &str)| (name(child), Edge::Both(name(upstream)));
        Self {
            desired: Desired::try_from(&spec).unwrap(),
            pods: ORDER.map(pod).into(),
            sight: Sight {
                primary: Primary::Known { name: primary.clone(), system_identifier: IDENTIFIER },
                edges: EDGES.map(edge).into_iter().chain([(primary.clone(), Edge::None)]).collect(),
                rooted: hops.into_iter().map(|(node, hops)| (name(node), rooted(hops))).collect(),
            },
            memory: Memory { system_identifier: Some(IDENTIFIER), primary: Some(primary), ..Memory::default() },
        }
    }

    fn pod(&mut self, node: &str) -> &mut Pod {
        self.pods.get_mut(&name(node)).unwrap()
    }

    fn account(&mut self, node: &str) -> &mut Account {
        self.pod(node).account.as_mut().unwrap()
    }

    fn lags(&mut self, node: &str, milliseconds: u64) {
        let rooted = Rooted::Yes { hops: 2, lag_milliseconds: 0, shown_lag_milliseconds: milliseconds };
        self.sight.rooted.insert(name(node), rooted);
    }

    /// All of them have to be started anew for a parameter.
    fn wants_restarts(mut self) -> Self {
        for node in ORDER {
            self.account(node).restart_for = vec!["max_connections".to_owned()];
        }
        self
    }

    /// All of them were made from another image than is named now.
    fn wants_another_image(mut self) -> Self {
        for node in ORDER {
            self.pod(node).made_from = MadeFrom::Before(format!("uid of {node}"));
        }
        self
    }

    fn observed(&self) -> Observed {
        let memory = Memory { sight: Some(Arc::new(self.sight.clone())), ..self.memory.clone() };
        Observed { nodes: ByNode::default(), memory: Arc::new(memory) }
    }

    /// What is done, where these routes are wanted.
    fn plan(&self, wanted: &[(&str, &str)]) -> Plan {
        let observed = self.observed();
        let leaving = rollout::leaving(&self.desired, &observed, &self.pods);
        let desired = Desired { leaving, ..self.desired.clone() };
        let route = |(child, upstream): &(&str, &str)| {
            (name(child), Route { entries: vec![name(upstream)], attrs: SessionAttrs::Any })
        };
        let mut plan =
            Plan { sight: Arc::new(self.sight.clone()), wanted: wanted.iter().map(route).collect(), ..Plan::default() };
        tend(&desired, &observed, &self.pods, &mut plan);
        plan
    }

    /// Whose PostgreSQL or pod is to end now, and what is waited for.
    fn next(&self, wanted: &[(&str, &str)]) -> (Vec<String>, Option<String>) {
        let plan = self.plan(wanted);
        let ends = |deed: &Deed| match deed {
            Deed::Order { node, assignment } if assignment.restart.is_some() => Some(format!("restart {node}")),
            Deed::Replace { node, pod } => Some(format!("replace {node} {pod}")),
            _ => None,
        };
        (plan.deeds.iter().filter_map(ends).collect(), plan.rollout.and_then(|rollout| rollout.waits))
    }
}

/// A pod that is as it is to be.
fn pod(node: &str) -> (NodeName, Pod) {
    let role = if node == "core-1" { Role::Primary } else { Role::Standby };
    let orders = Orders {
        node: node.to_owned(),
        term: 1,
        children_max: 64,
        role,
        system_identifier: Some(IDENTIFIER.to_string()),
        sources: Vec::new(),
        route: String::new(),
        application: None,
        parameters: [].into(),
        hba: Vec::new(),
        restart: None,
    };
    let account = Account {
        data: Data::Of(IDENTIFIER.to_string()),
        orders: Some(orders),
        as_ordered: true,
        postmaster: Some("9-1".to_owned()),
        ..Account::default()
    };
    let pod = Pod {
        is_made: true,
        is_taken_in: true,
        hostaddr: Some("192.0.2.1".to_owned()),
        account: Some(account),
        is_current: true,
        is_writer: Some(node == "core-1"),
        labelled: Some(Some(Labels::first(role))),
        made_from: MadeFrom::Now(format!("uid of {node}")),
        is_ready: true,
        stuck: None,
        undone: None,
    };
    (name(node), pod)
}

#[test]
fn servers_are_started_anew_one_by_one_the_leaves_first_and_the_primary_last() {
    let mut tree = Tree::new().wants_restarts();
    for node in ORDER {
        assert_eq!(tree.next(&EDGES), (vec![format!("restart {node}")], None));
        let account = tree.account(node);
        account.orders.as_mut().unwrap().restart = account.postmaster.clone();
        // It is told once, and goes on being the one until it has done so.
        assert_eq!(tree.next(&EDGES), (vec![], None));
        let account = tree.account(node);
        (account.as_ordered, account.postmaster) = (false, None);
        account.restart_for.clear();
        let waits = format!("{node} is not as it was ordered yet");
        let is_last = node == "core-1";
        assert_eq!(tree.next(&EDGES), (vec![], (!is_last).then_some(waits)));
        let account = tree.account(node);
        (account.as_ordered, account.postmaster) = (true, Some("10-2".to_owned()));
    }
    assert_eq!(
        tree.plan(&EDGES),
        Plan { sight: Arc::new(tree.sight.clone()), wanted: tree.plan(&EDGES).wanted, ..Plan::default() }
    );
}

#[test]
fn pods_of_another_image_are_replaced_in_the_same_order() {
    let mut tree = Tree::new().wants_another_image();
    for node in ORDER {
        assert_eq!(tree.next(&EDGES), (vec![format!("replace {node} uid of {node}")], None));
        tree.pod(node).made_from = MadeFrom::Leaving;
        let waits = (node != "core-1").then(|| format!("{node} has no pod"));
        assert_eq!(tree.next(&EDGES), (vec![], waits));
        tree.pod(node).made_from = MadeFrom::Now("another".to_owned());
    }
    assert_eq!(tree.next(&EDGES), (vec![], None));

    // Whoever makes pods would make another from what was said before.
    let mut tree = Tree::new().wants_another_image();
    tree.pod("eu-2").is_taken_in = false;
    let waits = "eu-2 has objects that Kubernetes has not taken in yet".to_owned();
    assert_eq!(tree.next(&EDGES), (vec![], Some(waits)));
}

#[test]
fn while_anybody_is_not_well_nobody_is_started_anew() {
    type Change = fn(&mut Tree);
    let changes: [(Change, &str); 12] = [
        (|tree| tree.pod("eu-1").account = None, "the agent of eu-1 is not heard"),
        (|tree| tree.account("eu-1").trouble = "no place".to_owned(), "eu-1 has a trouble of its own: no place"),
        (|tree| tree.account("eu-1").as_ordered = false, "eu-1 is not as it was ordered yet"),
        (|tree| tree.pod("eu-1").is_current = false, "eu-1 was not told all yet"),
        (|tree| tree.pod("eu-1").is_made = false, "eu-1 has objects in Kubernetes that are not as they are to be yet"),
        (|tree| tree.pod("eu-1").made_from = MadeFrom::Unknown, "eu-1 has no pod"),
        (|tree| tree.pod("eu-1").is_ready = false, "eu-1 has a pod that is not ready"),
        (|tree| drop(tree.sight.edges.swap_remove(&name("eu-1"))), "eu-1 is not seen"),
        (|tree| drop(tree.sight.edges.insert(name("eu-1"), Edge::None)), "eu-1 receives from nobody"),
        (|tree| tree.lags("eu-1", 31_000), "eu-1 is far behind the primary"),
        (|tree| drop(tree.sight.rooted.swap_remove(&name("eu-1"))), "eu-1 has no path to the primary"),
        (|tree| tree.sight.primary = Primary::NotSeen, "no primary is seen"),
    ];
    for (change, why) in changes {
        let mut tree = Tree::new().wants_restarts();
        change(&mut tree);
        assert_eq!(tree.next(&EDGES), (vec![], Some(why.to_owned())));
    }
    let mut tree = Tree::new().wants_restarts();
    tree.desired.deleting = true;
    assert_eq!(tree.next(&EDGES), (vec![], None));
}

#[test]
fn a_relay_is_started_anew_when_its_children_are_elsewhere_or_have_no_other_place() {
    let mut tree = Tree::new().wants_restarts();
    for leaf in ["eu-2", "eu-3"] {
        tree.account(leaf).restart_for.clear();
    }
    let elsewhere = [("eu-2", "core-2"), ("eu-3", "core-2")];
    let leaving = |tree: &Tree| rollout::leaving(&tree.desired, &tree.observed(), &tree.pods);
    let relay = BTreeSet::from([name("eu-1")]);
    assert_eq!(leaving(&tree), relay);
    let waits = "the children of eu-1 are moved away first".to_owned();
    assert_eq!(tree.next(&elsewhere), (vec![], Some(waits)));
    assert_eq!(tree.next(&EDGES), (vec!["restart eu-1".to_owned()], None), "there is no other place");
    for leaf in ["eu-2", "eu-3"] {
        tree.sight.edges.insert(name(leaf), Edge::Both(name("core-2")));
    }
    assert_eq!(leaving(&tree), relay, "until it is done");
    assert_eq!(tree.next(&elsewhere), (vec!["restart eu-1".to_owned()], None));
    // It writes what is in its memory, which takes its time.
    tree.account("eu-1").as_ordered = false;
    assert_eq!(leaving(&tree), relay);
    // Another one that feeds somebody is away: its place is needed.
    let away = NodeMemory { unrooted_since: Some(Millis(1_000)), ..NodeMemory::default() };
    tree.memory.nodes.insert(name("core-2"), away);
    for (at, expected) in [(2_999, &relay), (3_000, &BTreeSet::new())] {
        tree.memory.at = Millis(at);
        assert_eq!(leaving(&tree), *expected, "for a moment it changes nothing");
    }
    // Whoever takes its pod away, its children go.
    let mut tree = Tree::new();
    tree.pod("eu-1").made_from = MadeFrom::Leaving;
    assert_eq!(leaving(&tree), relay);
}

#[test]
fn children_are_moved_away_from_who_is_started_anew_and_not_back_before_that_is_over() {
    let hosts = |group: &str, count: usize| {
        let all = (1..=count).map(|i| format!("{{name: {group}-{i}, address: {group}-{i}.test}}"));
        all.collect::<Vec<_>>().join(", ")
    };
    let spec = format!(
        "{{groups: [{{name: core, management: Routes, hosts: [{}]}},
           {{name: eu, relays: 2, upstreams: [core], management: Routes, hosts: [{}]}}]}}",
        hosts("core", 1),
        hosts("eu", 6)
    );
    let spec: ReplicaTopologySpec = serde_yaml::from_str(&spec).unwrap();
    let mut fleet = Fleet::new(Desired::try_from(&spec).unwrap(), |_| name("core-1"));
    let load = |fleet: &Fleet| fleet.load().get(&name("eu-1")).copied().unwrap_or_default();
    let children = |fleet: &mut Fleet| {
        let (mut least, mut reasons) = (usize::MAX, BTreeSet::new());
        for _ in 0..100 {
            fleet.tick(500);
            let (_, made) = fleet.plan();
            reasons.extend(made.steps.iter().filter(|planned| made.is_move(&planned.step)).map(|planned| planned.why));
            fleet.carry_out(&made, |_| true);
            least = least.min(load(fleet));
        }
        (load(fleet), least, reasons)
    };
    assert_eq!(children(&mut fleet).0, 2);
    fleet.desired.leaving.insert(name("eu-1"));
    assert_eq!(children(&mut fleet), (0, 0, [Why::UpstreamRestarts].into()));
    assert_eq!(children(&mut fleet), (0, 0, BTreeSet::new()), "they stay where they are");
    fleet.desired.leaving.clear();
    assert_eq!(children(&mut fleet).0, 2);
}

#[test]
fn a_pod_that_does_not_run_is_replaced_before_all_others_and_whatever_is_wrong_with_them() {
    let mut tree = Tree::new().wants_another_image();
    tree.pod("core-2").stuck = Some("ImagePullBackOff".to_owned());
    tree.pod("core-2").account = None;
    tree.account("eu-1").trouble = "no place".to_owned();
    assert_eq!(
        tree.next(&EDGES),
        (vec![], Some("the agent of core-2 is not heard".to_owned())),
        "it is seen all the same"
    );
    tree.sight.rooted.insert(name("core-2"), Rooted::Unknown("not seen".to_owned()));
    assert_eq!(tree.next(&EDGES), (vec!["replace core-2 uid of core-2".to_owned()], None));

    // What does not run with what is named now is the first that failed, and the last.
    tree.pod("core-2").made_from = MadeFrom::Now("uid".to_owned());
    tree.account("eu-1").trouble.clear();
    assert_eq!(tree.next(&EDGES), (vec![], Some("the agent of core-2 is not heard".to_owned())));

    // That it is not seen may be us.
    tree.pod("core-2").made_from = MadeFrom::Before("uid".to_owned());
    tree.pod("core-2").stuck = None;
    assert_eq!(tree.next(&EDGES), (vec![], Some("the agent of core-2 is not heard".to_owned())));
}

#[test]
fn a_relay_waits_for_who_was_away_a_short_while_ago_and_the_primary_does_not() {
    for (node, waits) in [("eu-1", Some("core-2 was away a short while ago".to_owned())), ("core-1", None)] {
        let mut tree = Tree::new();
        tree.account(node).restart_for = vec!["max_connections".to_owned()];
        tree.memory.at = Millis(1_000);
        let settles = NodeMemory { settling_until: Some(Millis(2_000)), ..NodeMemory::default() };
        tree.memory.nodes.insert(name("core-2"), settles);
        let restarts = if waits.is_none() { vec![format!("restart {node}")] } else { vec![] };
        assert_eq!(tree.next(&EDGES), (restarts, waits));
        tree.memory.at = Millis(2_000);
        assert_eq!(tree.next(&EDGES), (vec![format!("restart {node}")], None));
    }
}

#[test]
fn a_trouble_of_somebody_who_is_well_makes_nobody_broken_and_one_of_the_new_image_holds_the_rest() {
    let mut tree = Tree::new().wants_another_image();
    for node in ORDER {
        // Orders of another operator have just come, and a line of hba is refused as before.
        let account = tree.account(node);
        (account.as_ordered, account.trouble) = (false, "postgres.hba: no".to_owned());
    }
    assert_eq!(tree.next(&EDGES), (vec![], Some("core-1 is not as it was ordered yet".to_owned())));
    for node in ORDER {
        tree.account(node).as_ordered = true;
    }
    assert_eq!(tree.next(&EDGES), (vec!["replace eu-2 uid of eu-2".to_owned()], None), "the other may take it");
    tree.pod("eu-2").made_from = MadeFrom::Now("another".to_owned());
    let waits = "eu-2 has a trouble of its own: postgres.hba: no".to_owned();
    assert_eq!(tree.next(&EDGES), (vec![], Some(waits)));
}

#[test]
fn a_primary_that_does_not_come_up_with_its_image_is_replaced_when_another_is_named() {
    let mut tree = Tree::new().wants_another_image();
    tree.sight.primary = Primary::NotSeen;
    for rooted in tree.sight.rooted.values_mut() {
        *rooted = Rooted::No("no primary".to_owned());
    }
    let account = tree.account("core-1");
    (account.as_ordered, account.postmaster, account.starts_in_vain) = (false, None, 3);
    assert_eq!(tree.next(&EDGES), (vec![], Some("no primary is seen".to_owned())));
    tree.account("core-1").starts_in_vain = 4;
    assert_eq!(tree.next(&EDGES), (vec!["replace core-1 uid of core-1".to_owned()], None));
}

#[test]
fn an_order_to_start_anew_is_taken_back_when_others_are_not_well_before_it_is_followed() {
    let mut tree = Tree::new().wants_restarts();
    let account = tree.account("eu-2");
    account.orders.as_mut().unwrap().restart = account.postmaster.clone();
    account.as_ordered = false;
    let taken_back = |tree: &Tree| {
        let none = |deed: &Deed| matches!(deed, Deed::Order { node, assignment } if *node == name("eu-2") && assignment.restart.is_none());
        tree.plan(&EDGES).deeds.iter().any(none)
    };
    assert!(!taken_back(&tree), "it is being followed");
    tree.pod("core-2").is_ready = false;
    assert!(taken_back(&tree));
}

#[test]
fn who_follows_nobody_is_started_anew_first_where_only_that_is_wrong() {
    let mut tree = Tree::new().wants_restarts();
    tree.sight.edges.insert(name("eu-3"), Edge::None);
    tree.sight.rooted.insert(name("eu-3"), Rooted::No("full".to_owned()));
    assert_eq!(tree.next(&EDGES), (vec!["restart eu-3".to_owned()], None));
    tree.account("eu-2").as_ordered = false;
    assert_eq!(tree.next(&EDGES), (vec![], Some("eu-2 is not as it was ordered yet".to_owned())));
}

#[test]
fn the_pod_of_an_agent_that_does_not_say_which_start_it_is_is_replaced() {
    let mut tree = Tree::new().wants_restarts();
    tree.account("eu-2").postmaster = None;
    assert_eq!(tree.next(&EDGES), (vec!["replace eu-2 uid of eu-2".to_owned()], None));
    // It has ended, and begins again by itself.
    tree.account("eu-2").as_ordered = false;
    assert_eq!(tree.next(&EDGES), (vec![], Some("eu-2 is not as it was ordered yet".to_owned())));
}

/// What becomes of a node that is not in the spec any more.
fn removed(tree: &Tree) -> (Vec<Deed>, Option<String>) {
    let gone = BTreeSet::from([name("eu-4")]);
    let mut plan = Plan { sight: Arc::new(tree.sight.clone()), ..Plan::default() };
    remove(&tree.desired, &tree.observed(), &tree.pods, &gone, &mut plan);
    (plan.deeds, plan.pending.into_values().next())
}

#[test]
fn a_pod_that_is_in_the_spec_no_more_goes_when_nobody_can_need_it() {
    let mut tree = Tree::new();
    let goes =
        (vec![Deed::Remove { node: name("eu-4") }], Some("eu-4 is not in the spec any more and is removed".to_owned()));
    let stays = |why: &str| (vec![], Some(format!("eu-4 is not in the spec any more and stays for now, as {why}")));
    assert_eq!(removed(&tree), goes);

    tree.account("eu-3").data = Data::None;
    let source = waltree::model::orders::Source { node: "eu-4".to_owned(), conninfo: String::new() };
    tree.account("eu-3").orders.as_mut().unwrap().sources = vec![source];
    assert_eq!(removed(&tree), stays("eu-3 is being cloned from it"));

    // It may receive from it: it is not seen, or tells of somebody who is not in the spec.
    for edge in [None, Some(Edge::Stranger("192.0.2.9:5432".to_owned()))] {
        let mut tree = Tree::new();
        tree.sight.edges.swap_remove(&name("eu-3"));
        tree.sight.edges.extend(edge.map(|edge| (name("eu-3"), edge)));
        assert_eq!(removed(&tree), stays("eu-3 is not seen to receive from another, and may from it"));
        // Whoever has nothing follows nobody.
        tree.account("eu-3").data = Data::None;
        assert_eq!(removed(&tree), goes);
    }

    let mut tree = Tree::new();
    tree.sight.primary = Primary::NotSeen;
    assert_eq!(removed(&tree), stays("no primary is seen among those that are in the spec"));
    (tree.memory.system_identifier, tree.memory.primary) = (None, None);
    assert_eq!(removed(&tree), stays("no primary is seen among those that are in the spec"), "there are data");
    for node in ORDER {
        tree.account(node).data = Data::None;
    }
    assert_eq!(removed(&tree), goes, "there never was one");
    tree.desired.deleting = true;
    assert_eq!(removed(&tree), (vec![], None));
}
