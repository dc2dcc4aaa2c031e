//! What is done about pods: when a cluster of databases is made, who is cloned from whom, and who is told to write.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use waltree::api::ReplicaTopologySpec;
use waltree::model::orders::{Account, Data, Orders, Role, Source};
use waltree::model::pods::{Assignment, Labels, MadeFrom, Pod, Pods};
use waltree::model::primary::Primary;
use waltree::model::rooted::Rooted;
use waltree::model::{ByNode, Desired, Diagnosis, Finding, Memory, NodeName, Observed, Sight};
use waltree::plan::pods::tend;
use waltree::plan::{Deed, Plan};

const IDENTIFIER: u64 = 7_000_000_000_000_000_001;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// Three of the root group, with lines of the spec.
fn desired(more: &str) -> Desired {
    let spec = format!("{{{more} groups: [{{name: core, replicas: 3}}]}}");
    let spec: ReplicaTopologySpec = serde_yaml::from_str(&spec).unwrap();
    Desired::try_from(&spec).unwrap()
}

/// What is known before anything is.
fn unknown() -> Observed {
    Observed { nodes: ByNode::default(), memory: Arc::default() }
}

/// A tree whose primary is seen, or was.
fn known(primary: &str, is_seen: bool) -> Observed {
    let primary = name(primary);
    let seen = Primary::Known { name: primary.clone(), system_identifier: IDENTIFIER };
    let sight = Sight { primary: if is_seen { seen } else { Primary::NotSeen }, ..Sight::default() };
    let memory = Memory {
        system_identifier: Some(IDENTIFIER),
        primary: Some(primary),
        sight: Some(Arc::new(sight)),
        ..Memory::default()
    };
    Observed { nodes: ByNode::default(), memory: Arc::new(memory) }
}

fn data() -> Data {
    Data::Of(IDENTIFIER.to_string())
}

fn orders(node: &str, role: Role, sources: &[&str]) -> Orders {
    let source = |source: &&str| Source { node: (*source).to_owned(), conninfo: String::new() };
    Orders {
        node: node.to_owned(),
        term: 1,
        children_max: 64,
        role,
        system_identifier: Some(IDENTIFIER.to_string()),
        sources: sources.iter().map(source).collect(),
        route: String::new(),
        application: None,
        parameters: [].into(),
        hba: Vec::new(),
        restart: None,
    }
}

/// A pod that is made, whose agent says this.
fn heard(node: &str, data: Data, orders: Option<Orders>) -> (NodeName, Pod) {
    let account = Account { data, orders, ..Account::default() };
    let pod = Pod {
        is_made: true,
        is_taken_in: true,
        hostaddr: Some("192.0.2.1".to_owned()),
        account: Some(account),
        is_current: true,
        is_writer: Some(node == "core-1"),
        labelled: Some(Some(Labels::first(if node == "core-1" { Role::Primary } else { Role::Standby }))),
        made_from: MadeFrom::Now("uid".to_owned()),
        is_ready: true,
        stuck: None,
        undone: None,
    };
    (name(node), pod)
}

fn silent(node: &str) -> (NodeName, Pod) {
    let (node, pod) = heard(node, Data::Unknown, None);
    (node, Pod { account: None, ..pod })
}

/// The deeds, where these are rooted.
fn deeds(desired: &Desired, observed: &Observed, pods: impl Into<Pods>, rooted: &[&str]) -> Vec<Deed> {
    let mut plan = Plan::default();
    let yes = Rooted::Yes { hops: 1, lag_milliseconds: 0, shown_lag_milliseconds: 0 };
    Arc::make_mut(&mut plan.sight).rooted = rooted.iter().map(|node| (name(node), yes.clone())).collect();
    tend(desired, observed, &pods.into(), &mut plan);
    plan.deeds
}

fn order(node: &str, role: Role, identifier: Option<u64>, sources: &[&str]) -> Deed {
    let sources = sources.iter().map(|source| name(source)).collect();
    let assignment = Assignment { role, system_identifier: identifier, sources, restart: None };
    Deed::Order { node: name(node), assignment }
}

#[test]
fn the_first_server_is_made_when_every_volume_was_looked_at_and_is_empty() {
    let (desired, observed) = (desired(""), unknown());
    let empty = |node| heard(node, Data::None, None);
    let all = [empty("core-1"), empty("core-2"), empty("core-3")];
    assert_eq!(
        deeds(&desired, &observed, all.clone(), &[]),
        [order("core-1", Role::Primary, None, &[])],
        "one of them, and the others wait for it"
    );

    let [one, two, _] = all;
    assert_eq!(deeds(&desired, &observed, [one.clone(), two.clone(), silent("core-3")], &[]), []);
    let unread = heard("core-3", Data::Unknown, None);
    assert_eq!(deeds(&desired, &observed, [one, two, unread], &[]), []);
}

#[test]
fn an_empty_volume_of_a_tree_that_has_data_is_cloned_or_waits() {
    let desired = desired("");
    let pods: Pods = [
        heard("core-1", data(), Some(orders("core-1", Role::Primary, &[]))),
        heard("core-2", Data::None, None),
        heard("core-3", data(), Some(orders("core-3", Role::Standby, &["core-1"]))),
    ]
    .into();
    assert_eq!(
        deeds(&desired, &known("core-1", true), pods.clone(), &["core-1", "core-3"]),
        [order("core-2", Role::Standby, Some(IDENTIFIER), &["core-3", "core-1"])],
        "from a standby rather than from the primary"
    );
    assert_eq!(deeds(&desired, &known("core-1", false), pods.clone(), &[]), [], "nobody is known to have all rows");

    // The primary's own volume: whoever has its rows decides nothing about who writes.
    let mut lost = pods;
    lost.extend([heard("core-1", Data::None, Some(orders("core-1", Role::Primary, &[])))]);
    lost.extend([heard("core-2", data(), Some(orders("core-2", Role::Standby, &["core-1"])))]);
    assert_eq!(deeds(&desired, &known("core-1", false), lost, &[]), []);
}

#[test]
fn each_server_feeds_one_clone_at_a_time() {
    let (desired, observed) = (desired(""), known("core-1", true));
    let primary = heard("core-1", data(), Some(orders("core-1", Role::Primary, &[])));
    let empty = |node| heard(node, Data::None, None);
    let first: Pods = [primary.clone(), empty("core-2"), empty("core-3")].into();
    assert_eq!(
        deeds(&desired, &observed, first, &["core-1"]),
        [order("core-2", Role::Standby, Some(IDENTIFIER), &["core-1"])]
    );

    let cloning = heard("core-2", Data::None, Some(orders("core-2", Role::Standby, &["core-1"])));
    let second: Pods = [primary.clone(), cloning, empty("core-3")].into();
    assert_eq!(deeds(&desired, &observed, second, &["core-1"]), [], "it is being done");

    let cloned = heard("core-2", data(), Some(orders("core-2", Role::Standby, &["core-1"])));
    let third: Pods = [primary, cloned, empty("core-3")].into();
    assert_eq!(
        deeds(&desired, &observed, third, &["core-1", "core-2"]),
        [order("core-3", Role::Standby, Some(IDENTIFIER), &["core-2", "core-1"])]
    );
}

#[test]
fn volumes_of_an_earlier_life_are_taken_up_with_the_roles_that_they_had() {
    let (desired, observed) = (desired(""), unknown());
    let kept = |node, role| heard(node, data(), Some(orders(node, role, &[])));
    let pods: Pods =
        [kept("core-1", Role::Standby), kept("core-2", Role::Primary), heard("core-3", Data::None, None)].into();
    assert_eq!(deeds(&desired, &observed, pods.clone(), &[]), [], "they follow their orders; the third waits");

    // Of two trees, or of one in which two were to write, nothing is made out.
    let mut other = pods.clone();
    other.extend([heard("core-3", Data::Of("7".to_owned()), None)]);
    assert_eq!(deeds(&desired, &observed, other, &[]), []);
    let mut two = pods;
    two.extend([kept("core-1", Role::Primary)]);
    assert_eq!(deeds(&desired, &observed, two, &[]), []);
}

#[test]
fn what_is_not_as_it_is_to_be_in_kubernetes_is_made_and_nothing_by_who_only_observes() {
    let (made, other) = (heard("core-1", Data::None, None), heard("core-2", Data::None, None));
    let other = (other.0, Pod { is_made: false, ..other.1 });
    let pods: Pods = [made, other, silent("core-3")].into();
    let only = Deed::Make { node: name("core-2") };
    assert_eq!(deeds(&desired(""), &unknown(), pods.clone(), &[]), [only]);
    assert_eq!(deeds(&desired("automation: Observe,"), &unknown(), pods, &[]), []);
}

#[test]
fn a_region_grows_from_its_own_relay_and_no_clone_crosses_into_it_twice() {
    let spec =
        "{groups: [{name: core, replicas: 2}, {name: eu, region: eu, upstreams: [core], replicas: 3, relays: 1}]}";
    let spec: ReplicaTopologySpec = serde_yaml::from_str(spec).unwrap();
    let (desired, observed) = (Desired::try_from(&spec).unwrap(), known("core-1", true));
    let empty = |node| heard(node, Data::None, None);
    let has = |node, role, sources: &[&str]| heard(node, data(), Some(orders(node, role, sources)));
    let mut pods: Pods = [
        has("core-1", Role::Primary, &[]),
        has("core-2", Role::Standby, &["core-1"]),
        empty("eu-1"),
        empty("eu-2"),
        empty("eu-3"),
    ]
    .into();
    let relay = order("eu-1", Role::Standby, Some(IDENTIFIER), &["core-2", "core-1"]);
    assert_eq!(deeds(&desired, &observed, pods.clone(), &["core-1", "core-2"]), [relay], "the leaves wait for it");

    pods.extend([has("eu-1", Role::Standby, &["core-2", "core-1"])]);
    assert_eq!(deeds(&desired, &observed, pods.clone(), &["core-1", "core-2"]), [], "also while it begins");
    assert_eq!(
        deeds(&desired, &observed, pods.clone(), &["core-1", "core-2", "eu-1"]),
        [order("eu-2", Role::Standby, Some(IDENTIFIER), &["eu-1", "core-2", "core-1"])],
        "one after the other"
    );

    pods.extend([has("eu-2", Role::Standby, &["eu-1", "core-2", "core-1"])]);
    let rooted = ["core-1", "core-2", "eu-1", "eu-2"];
    let sources = ["eu-1", "eu-2", "core-2", "core-1"];
    assert_eq!(deeds(&desired, &observed, pods, &rooted), [order("eu-3", Role::Standby, Some(IDENTIFIER), &sources)]);
}

/// Three pods that are as they are to be, after the first of the tree has begun to write.
fn three() -> Pods {
    let node = |node: &str, role| heard(node, data(), Some(orders(node, role, &[])));
    [node("core-1", Role::Primary), node("core-2", Role::Standby), node("core-3", Role::Standby)].into()
}

#[test]
fn clients_are_led_to_another_only_when_that_is_seen_to_be_the_primary() {
    let (desired, pods) = (desired(""), three());
    let rooted = ["core-1", "core-2", "core-3"];
    assert_eq!(deeds(&desired, &known("core-1", true), pods.clone(), &rooted), []);
    // It is not seen any more: where they are led they stay.
    assert_eq!(deeds(&desired, &known("core-2", false), pods.clone(), &rooted), []);

    let found = deeds(&desired, &known("core-2", true), pods.clone(), &rooted);
    let label = |node: &str, role| Deed::Label { node: name(node), labels: Labels::first(role) };
    let expected =
        [Deed::Publish { writer: name("core-2") }, label("core-1", Role::Standby), label("core-2", Role::Primary)];
    assert_eq!(found[..3], expected);

    // What is there is not known: nothing is told, whatever else is done.
    let unlisted = |(node, pod): (NodeName, Pod)| (node, Pod { is_writer: None, labelled: None, ..pod });
    let unlisted: Pods = pods.into_iter().map(unlisted).collect();
    let found = deeds(&desired, &known("core-2", true), unlisted, &rooted);
    assert!(found.iter().all(|deed| matches!(deed, Deed::Order { .. })), "{found:?}");
}

#[test]
fn before_anybody_writes_clients_are_led_to_who_is_to() {
    let none = |(node, pod): (NodeName, Pod)| (node, Pod { is_writer: Some(false), labelled: None, ..pod });
    let empty: Pods = [silent("core-1"), silent("core-2"), silent("core-3")].into_iter().map(none).collect();
    assert_eq!(deeds(&desired(""), &unknown(), empty, &[]), [Deed::Publish { writer: name("core-1") }]);
}

#[test]
fn what_an_agent_says_of_its_server_and_what_could_not_be_done_about_it_is_told() {
    let mut pods = three();
    pods.get_mut(&name("core-2")).unwrap().undone = Some("forbidden".to_owned());
    pods.get_mut(&name("core-3")).unwrap().account.as_mut().unwrap().trouble = "no place".to_owned();
    let mut plan = Plan::default();
    tend(&desired(""), &known("core-1", true), &pods, &mut plan);
    let told = [("core-2", "forbidden"), ("core-3", "no place")].map(|(node, why)| (name(node), why.to_owned()));
    assert_eq!(plan.troubles.into_iter().collect::<Vec<_>>(), told);
}

/// What the labels of three pods become, of whom core-2 and core-3 are so rooted and were labelled so.
fn labels(rooted: [&Rooted; 2], were: [bool; 2], diverged: bool) -> (Vec<(bool, bool)>, bool) {
    let mut plan = Plan::default();
    let nodes = ["core-2", "core-3"];
    let sight = Arc::make_mut(&mut plan.sight);
    sight.rooted = nodes.iter().zip(rooted).map(|(node, rooted)| (name(node), rooted.clone())).collect();
    if diverged {
        let (node, message) = (name("core-2"), String::new());
        plan.findings.push(Finding { node, diagnosis: Diagnosis::Diverged, message });
    }
    let mut pods = three();
    for (node, reads) in nodes.iter().zip(were) {
        pods.get_mut(&name(node)).unwrap().labelled = Some(Some(Labels { reads, ..Labels::first(Role::Standby) }));
    }
    tend(&desired("reads: {maxStalenessSeconds: 10},"), &known("core-1", true), &pods, &mut plan);
    for deed in &plan.deeds {
        if let Deed::Label { node, labels } = deed {
            pods.get_mut(node).unwrap().labelled = Some(Some(*labels));
        }
    }
    let labels = nodes.map(|node| pods[&name(node)].labelled.unwrap().unwrap());
    (labels.map(|labels| (labels.reads, labels.reads_in_group)).to_vec(), plan.all_too_stale)
}

#[test]
fn readers_are_led_away_from_who_is_stale_unless_all_are() {
    let lags = |seconds: u64| {
        let milliseconds = seconds * 1000;
        Rooted::Yes { hops: 1, lag_milliseconds: 0, shown_lag_milliseconds: milliseconds }
    };
    let (no, unknown) = (Rooted::No("alone".to_owned()), Rooted::Unknown("unseen".to_owned()));
    let (yes, out) = ((true, true), (false, false));
    let led = |rooted: [&Rooted; 2], were: [bool; 2]| labels(rooted, were, false);
    assert_eq!(led([&lags(0), &lags(9)], [true; 2]), (vec![yes, yes], false));
    assert_eq!(led([&lags(11), &lags(0)], [true; 2]), (vec![out, yes], false));
    assert_eq!(led([&no, &lags(0)], [true; 2]), (vec![out, yes], false));
    // Back when it is clearly fresh again, and not before.
    assert_eq!(led([&lags(9), &lags(0)], [false, true]), (vec![out, yes], false));
    assert_eq!(led([&lags(5), &lags(0)], [false, true]), (vec![yes, yes], false));
    // What is not known changes nothing.
    assert_eq!(led([&unknown, &unknown], [false, true]), (vec![out, yes], false));
    // Old rows are better than none; wrong ones are not.
    assert_eq!(led([&lags(11), &no], [true, false]), (vec![yes, yes], true));
    assert_eq!(labels([&lags(0), &no], [true, true], true), (vec![out, yes], true));
}
