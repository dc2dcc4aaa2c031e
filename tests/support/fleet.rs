//! Servers of a [`Tree`](super::postgres::Tree), watched as the operator watches them: as the role `waltree`.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::collections::BTreeMap;
use std::sync::Arc;

use waltree::model::{Facts, NodeName, NodeView, Unseen, WhyUnseen};
use waltree::observe::{Credentials, Fence, Fleet, ServerAccess, ServerSpec, SslMode, Timing, Wallet};
use waltree::operator::clock;

use super::postgres::{Tree, WALTREE_PASSWORD, eventually};

/// A node's name.
pub fn name(node: &str) -> NodeName {
    NodeName::new(node).unwrap()
}

/// The right credentials.
pub fn credentials() -> Credentials {
    Credentials { password: Some(WALTREE_PASSWORD.to_owned()), ..Credentials::default() }
}

/// The leader of a term.
pub fn fence(term: u64, identity: &str) -> Fence {
    Fence { scope: "shop/orders".into(), term, identity: identity.into() }
}

/// How a server of the tree is reached.
pub fn spec(tree: &Tree, node: &str, fence: Option<&Fence>) -> ServerSpec {
    ServerSpec {
        address: "127.0.0.1".into(),
        hostaddr: None,
        port: tree.port(node),
        access: ServerAccess { secret: None, ssl_mode: SslMode::Disable },
        fence: fence.cloned(),
    }
}

/// Watches some servers of a tree.
pub async fn watch(tree: &Tree, nodes: &[&str], fence: Option<&Fence>) -> Fleet {
    let specs = nodes.iter().map(|node| (name(node), spec(tree, node, fence))).collect();
    watch_as(credentials(), specs).await
}

/// Watches servers with given credentials.
pub async fn watch_as(credentials: Credentials, specs: BTreeMap<NodeName, ServerSpec>) -> Fleet {
    let fleet = Fleet::new(Wallet::fixed(credentials), Timing::default(), clock::now);
    fleet.watch(&specs);
    fleet.tried().await;
    fleet
}

/// What is known of a node.
pub fn view(fleet: &Fleet, node: &str) -> NodeView {
    fleet.views().swap_remove(&name(node)).expect("it is watched")
}

/// What a node says, asked again after this call until it is as wanted.
pub async fn until(fleet: &Fleet, node: &str, what: &str, wanted: impl Fn(&Facts) -> bool) -> Arc<Facts> {
    let asked = clock::now();
    let mut found = None;
    eventually(&format!("{node}: {what}"), async || {
        fleet.poke(&name(node));
        let view = view(fleet, node);
        let facts = view.last.filter(|f| view.unseen.is_none() && f.asked_at >= asked && wanted(f));
        found = facts;
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// What a node says now.
pub async fn facts(fleet: &Fleet, node: &str) -> Arc<Facts> {
    until(fleet, node, "is seen", |_| true).await
}

/// Why a node is not seen, once it is so for this reason.
pub async fn unseen(fleet: &Fleet, node: &str, why: WhyUnseen) -> Unseen {
    let mut last = None;
    eventually(&format!("{node} is not seen: {why}"), async || {
        last = view(fleet, node).unseen;
        last.as_ref().is_some_and(|u| u.why == why)
    })
    .await;
    last.unwrap()
}
