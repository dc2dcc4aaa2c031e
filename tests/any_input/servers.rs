//! Servers that say anything: edges that contradict each other, positions and timelines that cannot be, slots of whoever,
//! answers that are late.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use waltree::model::observed::{InstalledRoute, Receiver, Sender, Slot};
use waltree::model::{Conninfo, Facts, Lsn, Millis, NodeName, NodeView, Timeline, Unseen, WhyUnseen};

const NAMES: [&str; 7] = ["core-1", "core-2", "eu-1", "eu-2", "eu-3", "eu-4", "eu-5"];
const ROUNDS: std::ops::Range<usize> = 1..7;

/// What every server says at one look.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// How long after the look before.
    pub(crate) after_milliseconds: u64,
    /// One for each server.
    pub(crate) views: Vec<Said>,
    /// Which steps fail, by their place.
    pub(crate) failed: u8,
}

/// What one server says, or does not.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    name: &'static str,
    facts: Option<Facts>,
    unseen: Option<WhyUnseen>,
    late_milliseconds: u64,
}

impl Said {
    /// As the view of a look at that time.
    pub(crate) fn at(self, now: Millis) -> (NodeName, NodeView) {
        let asked_at = Millis(now.0.saturating_sub(self.late_milliseconds));
        let last = self.facts.map(|facts| Arc::new(Facts { asked_at, at: now, ..facts }));
        let why = self.unseen.or(last.is_none().then_some(WhyUnseen::NotYet));
        let unseen = why.map(|why| Unseen { why, detail: "at random".to_owned() });
        (NodeName::new(self.name).unwrap(), NodeView { last, unseen })
    }
}

/// Some looks, one after the other.
pub(crate) fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let views: Vec<_> = NAMES.into_iter().map(said).collect();
    let round = (0_u64..20_000, views, any::<u8>());
    let round = round.prop_map(|(after_milliseconds, views, failed)| Round { after_milliseconds, views, failed });
    prop::collection::vec(round, ROUNDS)
}

fn said(name: &'static str) -> impl Strategy<Value = Said> {
    let why =
        select(vec![WhyUnseen::Refused, WhyUnseen::Timeout, WhyUnseen::CredentialsRejected, WhyUnseen::BadAnswer]);
    let facts = prop::option::weighted(0.9, facts(name));
    (facts, prop::option::weighted(0.15, why), 0_u64..10_000).prop_map(move |(facts, unseen, late_milliseconds)| Said {
        name,
        facts,
        unseen,
        late_milliseconds,
    })
}

fn lsn() -> impl Strategy<Value = Lsn> {
    let near = (0_u64..8).prop_map(|n| (3 << 24) + (n << 22));
    prop_oneof![4 => near, 1 => any::<u64>(), 1 => Just(0), 1 => Just(u64::MAX)].prop_map(Lsn)
}

fn timeline() -> impl Strategy<Value = Timeline> {
    prop_oneof![5 => Just(1), 2 => 1_u32..4, 1 => any::<u32>()].prop_map(Timeline)
}

fn anybody() -> impl Strategy<Value = &'static str> {
    select([NAMES.as_slice(), &["stranger"]].concat())
}

fn slot_name() -> impl Strategy<Value = String> {
    anybody().prop_map(|name| name.replace('-', "_"))
}

fn conninfo() -> impl Strategy<Value = Conninfo> {
    (prop::collection::vec(anybody(), 0..4), any::<bool>(), any::<bool>()).prop_map(|(hosts, primary_only, mine)| {
        let mut conninfo = Conninfo::default();
        if !hosts.is_empty() {
            conninfo.set("host", &hosts.join(","));
            conninfo.set("user", "repl");
        }
        if primary_only {
            conninfo.set("target_session_attrs", "primary");
        }
        if mine {
            conninfo.set("application_name", "eu-3");
        }
        conninfo
    })
}

fn receiver() -> impl Strategy<Value = Receiver> {
    let status = select(vec!["streaming", "waiting", "stopping"]);
    let silent = select(vec![0, 500, 5_000, 86_400_000, u64::MAX]);
    (0_i32..9, status, anybody(), prop::option::of(slot_name()), timeline(), silent).prop_map(
        |(pid, status, host, slot, timeline, silent_for_milliseconds)| Receiver {
            pid,
            status: status.to_owned(),
            host: host.to_owned(),
            port: 5432,
            slot,
            timeline,
            silent_for_milliseconds,
        },
    )
}

fn sender() -> impl Strategy<Value = Sender> {
    let client = prop::option::of(select(vec!["10.0.0.1:40000", "10.0.0.2:40000"]));
    let sync = prop::option::of(any::<bool>());
    (0_i32..9, anybody(), prop::option::of(slot_name()), client, prop::option::of(any::<i64>()), sync).prop_map(
        |(pid, name, slot, client, replied, sync)| Sender {
            pid,
            application_name: name.to_owned(),
            state: "streaming".to_owned(),
            sync,
            slot,
            client: client.map(str::to_owned),
            replied,
        },
    )
}

fn slot() -> impl Strategy<Value = Slot> {
    (prop::option::of(0_i32..9), prop::option::weighted(0.9, lsn()), prop::option::of(any::<u64>()), any::<u8>())
        .prop_map(|(active_pid, restart_lsn, xmin, lost)| Slot { active_pid, restart_lsn, xmin, lost: lost < 20 })
}

fn route(name: &'static str) -> impl Strategy<Value = InstalledRoute> {
    let slot = prop_oneof![3 => Just(name.replace('-', "_")), 1 => slot_name(), 1 => Just(String::new())];
    let rarely = || prop::bool::weighted(0.05);
    (conninfo(), slot, any::<bool>(), rarely(), rarely(), prop::option::weighted(0.2, conninfo())).prop_map(
        |(conninfo, slot, nudged, has_password, unreadable, pending)| InstalledRoute {
            conninfo,
            slot,
            nudged,
            has_password,
            unreadable,
            pending,
        },
    )
}

fn facts(name: &'static str) -> impl Strategy<Value = Facts> {
    let identity = (
        prop_oneof![12 => Just(7_u64), 1 => any::<u64>()],
        prop_oneof![12 => Just(150_018_u32), 1 => any::<u32>()],
        0_u64..3,
        prop::bool::weighted(if name == "core-1" { 0.2 } else { 0.9 }),
    );
    let wal =
        (lsn(), lsn(), prop::option::of(timeline()), prop::option::of(timeline()), lsn(), prop::option::of(lsn()));
    let history = prop::collection::vec((timeline(), lsn()), 0..3);
    let bytes = prop_oneof![6 => Just(16_u64 << 20), 1 => Just(0), 1 => any::<u64>()];
    let replay =
        (prop::bool::weighted(0.1), prop::option::weighted(0.1, select(vec!["RecoveryPause", "WalReceiverExit"])));
    let streams = (
        prop::option::weighted(0.8, receiver()),
        route(name),
        prop::collection::vec(sender(), 0..5),
        prop::collection::btree_map(slot_name(), slot(), 0..7),
    );
    let rest = (
        prop::bool::weighted(0.95),
        select(vec!["", "*", "FIRST 1 (eu-3)", "any 2 (eu-4, \"Core\", *)", "9 (", "\""]),
        prop::collection::btree_map(select(vec!["max_wal_senders".to_owned()]), 0_u64..9, 0..2),
    );
    (identity, wal, history, bytes, replay, streams, rest).prop_map(
        |(identity, wal, history, bytes, replay, streams, rest)| {
            let (system_identifier, version_num, started, in_recovery) = identity;
            let (position, replayed, timeline, timeline_at_least, redo, oldest_wal) = wal;
            let (receiver, route, senders, slots) = streams;
            let slots: BTreeMap<String, Slot> = slots;
            Facts {
                asked_at: Millis(0),
                at: Millis(0),
                system_identifier,
                cluster_name: String::new(),
                version_num,
                started,
                in_recovery,
                position,
                replay: replayed,
                timeline,
                timeline_at_least,
                history,
                redo,
                oldest_wal,
                segment_bytes: bytes,
                replay_paused: replay.0,
                startup_wait: replay.1.map(str::to_owned),
                connecting: receiver.is_none(),
                receiver,
                route,
                senders,
                slots,
                synchronous_standby_names: rest.1.to_owned(),
                alter_system_allowed: rest.0,
                disk_full: false,
                missing_grants: Vec::new(),
                may_end_senders: true,
                parameters: rest.2,
            }
        },
    )
}
