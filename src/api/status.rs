//! What is reported back. Small (about 80 bytes a healthy node), and without any figure that changes while nothing
//! happens: an idle topology writes nothing.

#![allow(unreachable_pub, reason = "KubeSchema repeats each struct, its `pub` included, inside a function")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::plain;

/// How many entries [`ReplicaTopologyStatus::history`] keeps.
pub const HISTORY_ENTRIES: usize = 16;

/// What was seen and done last. Details (LSNs, slots, time per hop) are served by the operator, not stored.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct ReplicaTopologyStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Ready, Writable, Serving, Rooted, FallbacksReady, Converged, Progressing. Each message ends with what to
    /// do, or with "Nothing to do."
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// PostgreSQL's system identifier of the data of this topology, once seen. A server with another one is foreign and
    /// is never touched. Text, because it needs 64 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// The primary seen last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<PrimaryStatus>,
    /// The topology in four words, for the columns of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What would be survived by PostgreSQL alone, from the routes as they are installed: everybody who is left is fed,
    /// nobody who takes in others has more than 1.5 times its fanOut, and no region gets more WAL streams from others than
    /// limits.crossRegionStreams. The primary is taken to stay: waltree promotes nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerates: Option<Tolerates>,
    /// Counts per group, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub groups: Vec<GroupStatus>,
    /// Every node, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub nodes: Vec<NodeStatus>,
    /// Nodes that were taken out of the spec and whose slots may still be on a server. Such slots are dropped: those that
    /// the node does not use, and all of them once it has used none for healing.settleSeconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub leaving: Vec<String>,
    /// The value of the annotation waltree.dev/acknowledge that was taken last: another one is taken once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
    /// The newest changes of the tree, the newest first, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub history: Vec<Change>,
}

/// The primary seen last.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct PrimaryStatus {
    /// Its name.
    pub name: String,
    /// Its timeline: a number that each promotion raises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<i64>,
    /// Since when it is seen as the primary on this timeline.
    pub since: Time,
}

/// The topology in four words.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct Summary {
    /// Nodes with a proven path of advancing WAL to the primary, of all nodes: `42/43`.
    pub nodes: String,
    /// Fallbacks that are ready, of all that the routes name: `40/40`.
    pub fallbacks: String,
    /// The largest lag of a rooted node, by what it has replayed: `<1s`, `<5s`, `<30s`, `<5m`, `>5m`, or `?` when no node is rooted.
    pub lag: String,
    /// Hops from the primary to the lowest rooted node, as seen.
    pub depth: i32,
    /// For how long a node may be away until the WAL that its slots keep comes to limits.retainedWal, at the rate at which the
    /// primary has written for the last minutes: `<1h`, `<6h`, `<1d`, `<7d` (a day or more and less than seven), `>7d`; absent
    /// until the rate is known. Once told, a step stays until it is wrong by a factor of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_wal_lasts: Option<String>,
}

/// What would be survived by PostgreSQL alone.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct Tolerates {
    /// Whether the loss of any one node is survived.
    pub node: Tolerated,
    /// Whether the loss of any one zone is survived; Unknown as well where the hosts name fewer than two zones.
    pub zone: Tolerated,
    /// Whether the loss of any one region is survived; Unknown as well where there are fewer than two. The hosts of groups
    /// without a region are one.
    pub region: Tolerated,
    /// The weakest spot, and its cure. `kubectl waltree what-if --lose` says more of each.
    pub weakest: String,
}

/// True, False, or Unknown when it cannot be told.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum Tolerated {
    /// It is.
    True,
    /// It is not.
    False,
    /// It cannot be told.
    Unknown,
}

/// Counts of one group.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its nodes.
    pub nodes: i32,
    /// Those of them that are rooted.
    pub rooted: i32,
    /// Those of the rooted whose readers see data that is at most healing.lagSeconds behind.
    pub serving: i32,
}

/// One node, as seen.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// The node it receives WAL from, as seen at both ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// What it is: Primary, Standby (in the root group), Relay (feeds others), Leaf, Unrooted (no proven path to the
    /// primary), Unknown (cannot be seen).
    pub state: NodeState,
    /// How far what its readers see, which is what it has replayed, is behind the primary: `<1s`, `<5s`, `<30s`, `<5m`, `>5m`, `?`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagBucket>,
    /// Where idle slots keep a quarter of limits.retainedWal or more: until when, at the present rate, it is reached and they
    /// are dropped, in the steps of summary.retainedWalLasts. Absent where they keep less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_wal_lasts: Option<String>,
    /// What deviates, in one word; absent when all is as declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was seen and what to do; absent when all is as declared, and where dozens of nodes deviate, of all but the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a node is seen to be.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum NodeState {
    /// It takes writes.
    Primary,
    /// A rooted standby of the root group.
    Standby,
    /// It is rooted and feeds others.
    Relay,
    /// It is rooted and feeds nobody.
    Leaf,
    /// It has no proven path to the primary.
    Unrooted,
    /// It cannot be seen.
    Unknown,
}

/// How far behind, in steps coarse enough to stand still while nothing happens.
#[derive(
    JsonSchema,
    Serialize,
    Deserialize,
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::Display,
    strum::EnumIter,
)]
pub enum LagBucket {
    /// Below one second.
    #[serde(rename = "<1s")]
    #[strum(serialize = "<1s")]
    Second,
    /// Below five seconds.
    #[serde(rename = "<5s")]
    #[strum(serialize = "<5s")]
    Seconds,
    /// Below half a minute.
    #[serde(rename = "<30s")]
    #[strum(serialize = "<30s")]
    HalfMinute,
    /// Below five minutes.
    #[serde(rename = "<5m")]
    #[strum(serialize = "<5m")]
    Minutes,
    /// Five minutes or more.
    #[serde(rename = ">5m")]
    #[strum(serialize = ">5m")]
    More,
    /// Not known.
    #[serde(rename = "?")]
    #[strum(serialize = "?")]
    Unknown,
}

/// One change of the tree.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = plain)]
pub struct Change {
    /// When it was seen.
    pub at: Time,
    /// What changed.
    pub what: String,
    /// Why, in one word.
    pub why: String,
    /// How long it took from then until the tree was as declared again, in seconds; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healed_after_seconds: Option<i64>,
}
