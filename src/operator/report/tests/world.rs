//! A small topology with everything as declared; tests spoil it.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::model::{Memory, Sight};

const SYSTEM_IDENTIFIER: u64 = 7_300_000_000_000_000_001;
const NODES: [(&str, Option<&str>); 5] = [
    ("core-1", None),
    ("core-2", Some("core-1")),
    ("eu-1", Some("core-1")),
    ("eu-2", Some("eu-1")),
    ("eu-3", Some("eu-1")),
];

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn now(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A world with everything as declared; tests spoil it.
pub(super) struct World {
    pub(super) desired: Desired,
    pub(super) observed: Observed,
    pub(super) plan: Plan,
    pub(super) outcome: Outcome,
}

impl World {
    pub(super) fn new() -> Self {
        let host = |node: &str| json!({"name": node, "address": node});
        let spec = json!({"groups": [
            {"name": "core", "hosts": [host("core-1"), host("core-2")]},
            {"name": "eu", "upstreams": ["core"], "relays": 1, "hosts": [host("eu-1"), host("eu-2"), host("eu-3")]},
        ]});
        let desired = Desired::try_from(&serde_json::from_value(spec).unwrap()).unwrap();
        let memory = Memory { system_identifier: Some(SYSTEM_IDENTIFIER), ..Memory::default() };
        let mut observed = Observed { nodes: crate::model::ByNode::default(), memory: memory.into() };
        let mut plan = Plan::default();
        for (node, upstream) in NODES {
            observed.nodes.insert(name(node), NodeView { last: Some(Arc::new(facts(node, upstream))), unseen: None });
            let hops = usize::from(upstream.is_some()) + usize::from(upstream == Some("eu-1"));
            Arc::make_mut(&mut plan.sight)
                .rooted
                .insert(name(node), Rooted::Yes { hops, lag_milliseconds: 0, shown_lag_milliseconds: 300 });
            if let Some(upstream) = upstream {
                let (entries, attrs) = (vec![name(upstream), name("core-2")], SessionAttrs::Any);
                plan.wanted.insert(name(node), Route { entries, attrs });
                plan.fallbacks.insert(name(node), vec![(name("core-2"), Readiness::Unproven)]);
            }
        }
        Self { desired, observed, plan, outcome: Outcome::default() }
    }

    pub(super) fn memory(&mut self) -> &mut Memory {
        Arc::make_mut(&mut self.observed.memory)
    }

    pub(super) fn report(&self, previous: Option<&Status>, second: i64) -> Status {
        let (desired, observed, outcome) = (&self.desired, &self.observed, &self.outcome);
        let mut plan = self.plan.clone();
        let sight = Arc::make_mut(&mut plan.sight);
        sight.primary = true_primary(desired, &observed.nodes, &observed.memory);
        sight.edges = Sight::of(desired, observed).edges;
        let view = View { desired, observed, plan: &plan, outcome, previous };
        let status = compose(&view, 7, now(second));
        for known in &status.conditions {
            let kind = ConditionType::iter().find(|kind| kind.to_string() == known.type_).unwrap();
            let allowed = crate::api::Reason::all().filter(|reason| reason.conditions().contains(&kind));
            assert!(allowed.map(Reason::as_str).any(|reason| reason == known.reason), "{known:?}");
            assert!(known.message.ends_with('.'), "{known:?}");
        }
        status
    }

    pub(super) fn unsee(&mut self, node: &str, why: WhyUnseen, detail: &str) {
        let view = self.observed.nodes.get_mut(&name(node)).unwrap();
        view.unseen = Some(Unseen { why, detail: detail.to_owned() });
        Arc::make_mut(&mut self.plan.sight).rooted.insert(name(node), Rooted::Unknown("it is not seen".to_owned()));
    }

    pub(super) fn want(&mut self, node: &str, first: &str) {
        let route = Route { entries: vec![name(first)], attrs: SessionAttrs::Any };
        self.plan.wanted.insert(name(node), route);
    }

    pub(super) fn reattach(&mut self, node: &str, upstream: &str) {
        let mut changed = facts(node, Some(upstream));
        changed.position = Lsn(9);
        self.observed.nodes.get_mut(&name(node)).unwrap().last = Some(Arc::new(changed));
        let view = self.observed.nodes.get_mut(&name(upstream)).unwrap();
        let mut above = view.last.as_deref().cloned().unwrap();
        above.senders.push(sender(node));
        view.last = Some(Arc::new(above));
    }
}

fn sender(node: &str) -> Sender {
    let (application_name, state) = (node.to_owned(), "streaming".to_owned());
    Sender { pid: 1, application_name, state, sync: Some(false), slot: None, client: None, replied: None }
}

pub(super) fn facts(node: &str, upstream: Option<&str>) -> Facts {
    Facts {
        asked_at: Millis(0),
        at: Millis(0),
        system_identifier: SYSTEM_IDENTIFIER,
        cluster_name: String::new(),
        version_num: 150_018,
        started: 1,
        in_recovery: upstream.is_some(),
        position: Lsn(1),
        replay: Lsn(1),
        timeline: Some(Timeline(3)),
        timeline_at_least: None,
        history: Vec::new(),
        redo: Lsn(0),
        oldest_wal: None,
        segment_bytes: 16 << 20,
        replay_paused: false,
        startup_wait: None,
        receiver: upstream.map(|upstream| Receiver {
            pid: 1,
            status: "streaming".to_owned(),
            host: upstream.to_owned(),
            port: 5432,
            slot: None,
            timeline: Timeline(3),
            silent_for_milliseconds: 0,
        }),
        connecting: false,
        route: InstalledRoute::default(),
        senders: NODES.iter().filter(|(_, above)| *above == Some(node)).map(|(child, _)| sender(child)).collect(),
        slots: BTreeMap::new(),
        synchronous_standby_names: String::new(),
        alter_system_allowed: true,
        disk_full: false,
        missing_grants: Vec::new(),
        may_end_senders: true,
        parameters: BTreeMap::new(),
    }
}
