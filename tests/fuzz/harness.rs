//! What is done with any input, and what must hold whatever it is; each says whether the input was read at all.
//! `tests/any_input.rs` draws it at random, the targets beside this file let libFuzzer look for it, both from `seeds`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken law is a crash")]
#![allow(dead_code, reason = "every target compiles this and uses a part of it")]

use std::sync::Arc;

use waltree::api::ReplicaTopologySpec;
use waltree::model::conninfo::{Conninfo, Entry};
use waltree::model::tree::Union;
use waltree::model::{ByNode, Desired, Facts, Memory, Millis, NodeName, NodeView, Observed, Unseen, WhyUnseen};
use waltree::plan::{Plan, Step, plan};
use waltree::simulate::World;
use waltree::simulate::laws::before_writing;

/// What stands for a secret. Nobody writes it by chance, but libFuzzer sees what is compared and writes that.
pub(crate) const SECRET: &str = "s3cr3t-0f-th3-t3st";

/// What a plan may not do, whatever servers say: what [`before_writing`] tells of (among it law 2, no route leads to a seen
/// server that lacks the node's slot, and law 8, nothing is written where nobody was seen), make a ring possible, whatever
/// was there before (law 1), or drop a slot that is in use (law 3).
pub(crate) fn is_legal(desired: &Desired, observed: &Observed, made: &Plan) {
    let broken = before_writing(desired, observed, made);
    assert!(broken.is_empty(), "{broken:?}");
    let mut union = Union::of(desired, observed);
    for planned in &made.steps {
        match &planned.step {
            Step::SetRoute { node, route, .. } => {
                assert!(union.ring(node, route).is_none(), "law 1: {planned} closes a ring");
                union.add_route(node, route);
            }
            Step::DropSlot { on, owner } | Step::RecreateSlot { on, owner } => {
                let slot = observed.seen(on).and_then(|facts| facts.slots.get(owner.slot()));
                assert!(
                    slot.is_some_and(|slot| slot.active_pid.is_none()),
                    "law 3: {planned}, which is in use or gone"
                );
            }
            _ => {}
        }
    }
}

/// Looks and plans, and forgets nothing.
pub(crate) fn pass(desired: &Desired, nodes: &ByNode<NodeView>, memory: &mut Memory, now: Millis) -> Plan {
    memory.advance(desired, nodes, now);
    let observed = Observed { nodes: nodes.clone(), memory: memory.clone().into() };
    let made = plan(desired, &observed, now);
    is_legal(desired, &observed, &made);
    assert_eq!(made, plan(desired, &observed, now), "the same input, another plan");
    made
}

/// A spec as YAML or JSON: refused, or planned for with servers that are not there and with servers that are.
pub(crate) fn spec(text: &str) -> bool {
    let Ok(spec) = serde_yaml::from_str::<ReplicaTopologySpec>(text) else { return false };
    let Ok(desired) = Desired::try_from(&spec) else { return false };
    let unseen = || Unseen { why: WhyUnseen::Refused, detail: String::new() };
    let away = desired.nodes.keys().map(|name| (name.clone(), NodeView { last: None, unseen: Some(unseen()) }));
    pass(&desired, &away.collect(), &mut Memory::default(), Millis(1_000));
    let first = desired.root().and_then(|root| root.members.first()).cloned();
    let mut world = World::new(&desired, 1, |node| first.clone().unwrap_or_else(|| node.clone()));
    let mut memory = Memory::default();
    for _ in 0..2 {
        let view = |name: &NodeName| match world.look(name) {
            Ok(facts) => NodeView { last: Some(Arc::new(facts)), unseen: None },
            Err(unseen) => NodeView { last: None, unseen: Some(unseen) },
        };
        let nodes = desired.nodes.keys().map(|name| (name.clone(), view(name))).collect();
        let made = pass(&desired, &nodes, &mut memory, world.now);
        world.install(&desired, &made.wanted);
        world.pass(500);
    }
    true
}

/// A connection string: what is read is written so that it is read the same again, and no secret of it is shown.
pub(crate) fn conninfo(text: &str) -> bool {
    // Elsewhere than in a secret's place it is none, and may be shown.
    if text.contains(SECRET) {
        return false;
    }
    let read = Conninfo::parse(text);
    if let Ok(read) = &read {
        assert_eq!(Conninfo::parse(&read.to_string()).as_ref(), Ok(read), "{read}");
        let entries = [Entry::new("192.0.2.1", 5432), Entry::new("192.0.2.2", 5433)];
        let route = read.with_route("eu-3", &entries, true);
        assert_eq!(route.hosts(), [("192.0.2.1".to_owned(), 5432), ("192.0.2.2".to_owned(), 5433)]);
        assert_eq!(route.with_route("eu-3", &entries, true), route);
        read.hosts();
        for keyword in ["password", "sslpassword"] {
            let mut with = read.clone();
            with.set(keyword, SECRET);
            assert!(!format!("{with:?}").contains(SECRET), "{keyword} is shown");
            assert_eq!(Conninfo::parse(&with.to_string()), Ok(with));
        }
    }
    // To libpq only these end a value or change it; a blank of Unicode is a part of it.
    if !text.contains(['\t', '\n', '\u{b}', '\u{c}', '\r', ' ', '\'', '\\']) {
        let value = format!("x{text}");
        let read = Conninfo::parse(&format!("dbname={value} user=repl"));
        assert_eq!(read.as_ref().map(|read| read.get("dbname")), Ok(Some(value.as_str())));
    }
    // Whatever stands around a password, an error shows nothing of it.
    for broken in [
        format!("password={SECRET} {text}"),
        format!("password='{SECRET}{text}"),
        format!("password=a {SECRET} {text}"),
    ] {
        if let Err(error) = Conninfo::parse(&broken) {
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
        }
    }
    read.is_ok()
}

/// An answer of a server as JSON: refused, or planned with in each place of a tree.
pub(crate) fn answer(text: &str) -> bool {
    let Ok(facts) = waltree::observe::read(text, Millis(1_000)) else { return false };
    let desired = small();
    let first = NodeName::new("core-1").unwrap();
    let mut world = World::new(&desired, 1, |_| first.clone());
    world.pass(500);
    for place in desired.nodes.keys() {
        let mut memory = Memory::default();
        for look in 0..3 {
            let now = Millis(1_000 + look * 3_000);
            let said = |name: &NodeName| -> Facts {
                let own = if name == place { facts.clone() } else { world.look(name).unwrap() };
                Facts { asked_at: now, at: now, ..own }
            };
            let view = |name: &NodeName| NodeView { last: Some(Arc::new(said(name))), unseen: None };
            let nodes = desired.nodes.keys().map(|name| (name.clone(), view(name))).collect();
            pass(&desired, &nodes, &mut memory, now);
        }
    }
    true
}

/// Two that may be the primary, two relays, three leaves.
pub(crate) fn small() -> Desired {
    let host = |name: &str| format!("{{name: {name}, address: {name}}}");
    let hosts = |names: &[&str]| names.iter().map(|name| host(name)).collect::<Vec<_>>().join(", ");
    let text = format!(
        "groups: [{{name: core, hosts: [{}]}}, {{name: eu, upstreams: [core], relays: 2, region: eu, hosts: [{}]}}]",
        hosts(&["core-1", "core-2"]),
        hosts(&["eu-1", "eu-2", "eu-3", "eu-4", "eu-5"]),
    );
    Desired::try_from(&serde_yaml::from_str::<ReplicaTopologySpec>(&text).unwrap()).unwrap()
}
