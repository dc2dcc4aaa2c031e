//! How the servers of a topology reach each other, and the orders by which they do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::orders::{Account, Application, Data, Orders, Role, STANDBY_ROLE, Source};
use crate::model::pods::Assignment;
use crate::model::{Conninfo, Desired, NodeName};

/// Where a pod has its certificate.
pub(super) const CERTIFICATES: &str = "/etc/waltree/certificates";

/// The `primary_conninfo` by which one server reaches another: by its address, and only if its certificate has its name.
fn way(node: &NodeName, address: IpAddr) -> String {
    let mut way = Conninfo::default();
    let at = address.to_string();
    for (keyword, value) in [
        ("host", node.as_str()),
        ("hostaddr", &at),
        ("port", &super::pods::POSTGRES_PORT.to_string()),
        ("user", STANDBY_ROLE),
        ("sslmode", "verify-full"),
        ("sslcert", &format!("{CERTIFICATES}/tls.crt")),
        ("sslkey", &format!("{CERTIFICATES}/tls.key")),
        ("sslrootcert", &format!("{CERTIFICATES}/ca.crt")),
    ] {
        way.set(keyword, value);
    }
    way.to_string()
}

/// What every server of a tree is told alike, whatever is decided about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// The term of whoever gives orders.
    pub term: u64,
    /// What the primary has for clients; `None` where that is not known.
    pub application: Option<Application>,
    /// Users' parameters of PostgreSQL.
    pub parameters: BTreeMap<String, String>,
    /// Users' lines of pg_hba.conf.
    pub hba: Vec<String>,
}

impl Wishes {
    /// What the orders of a node say of the application: nothing but what is known, and what was told before otherwise.
    fn application(&self, role: Role, followed: Option<&Orders>) -> Option<Application> {
        let told = || followed.and_then(|followed| followed.application.clone());
        let is_told = |known: &Application| told().filter(|told| told.secret_version == known.secret_version);
        let known = self.application.as_ref().map(|known| is_told(known).unwrap_or_else(|| known.clone()));
        known.or_else(told).filter(|_| role == Role::Primary)
    }
}

/// The orders of a node. Of one that has data it stays in them as it was whom they were cloned from, so that nothing changes
/// while nothing is decided.
pub fn orders(
    desired: &Desired,
    node: &NodeName,
    assignment: &Assignment,
    wishes: &Wishes,
    account: Option<&Account>,
) -> Orders {
    let followed = account.and_then(|account| account.orders.as_ref());
    let same = followed.filter(|_| account.is_some_and(|account| account.data != Data::None));
    let same = same.filter(|followed| {
        followed.sources.iter().map(|source| source.node.as_str()).eq(assignment.sources.iter().map(NodeName::as_str))
    });
    let sources: Vec<Source> = match same {
        Some(followed) => followed.sources.clone(),
        None => assignment.sources.iter().filter_map(|source| self::source(desired, source)).collect(),
    };
    let route = sources.first().map(|source| source.conninfo.clone()).unwrap_or_default();
    Orders {
        node: node.to_string(),
        term: wishes.term,
        children_max: children_max(desired),
        role: assignment.role,
        system_identifier: assignment.system_identifier.map(|identifier| identifier.to_string()),
        sources,
        route,
        application: wishes.application(assignment.role, followed),
        parameters: wishes.parameters.clone(),
        hba: wishes.hba.clone(),
        restart: assignment.restart.clone(),
    }
}

fn source(desired: &Desired, node: &NodeName) -> Option<Source> {
    let address = desired.nodes.get(node)?.hostaddr.as_ref()?.parse().ok()?;
    Some(Source { node: node.to_string(), conninfo: way(node, address) })
}

/// Whether the orders that a node follows are of this term and say of its server what the spec does now, and where to clone
/// from as far as that is to be done, whatever was decided about it.
pub fn is_current(desired: &Desired, account: &Account, wishes: &Wishes) -> bool {
    let Some(orders) = &account.orders else { return false };
    let there = |given: &Source| {
        let node = NodeName::new(&given.node).ok();
        node.and_then(|node| source(desired, &node)).as_ref() == Some(given)
    };
    let settings = orders.children_max == children_max(desired)
        && orders.parameters == wishes.parameters
        && orders.hba == wishes.hba;
    let application = wishes.application(orders.role, Some(orders)) == orders.application;
    orders.term == wishes.term
        && application
        && settings
        && (account.data != Data::None || orders.sources.iter().all(there))
}

/// What a server may ever have to feed. The same for all, and generous: to raise it takes a restart of everybody.
fn children_max(desired: &Desired) -> u32 {
    let most = desired.nodes.keys().map(|node| desired.burst(node)).max().unwrap_or_default();
    // Slots of fallbacks take places too.
    u32::try_from(most * 2).unwrap_or(u32::MAX).max(CHILDREN_MIN)
}

/// Enough for a tree that is ten times as large tomorrow.
const CHILDREN_MIN: u32 = 64;
