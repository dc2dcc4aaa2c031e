//! What the operator and an agent tell each other: what a node is to be, and what has become of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conninfo::{BadConninfo, Conninfo, SECRETS};
use super::{BadName, NodeName};

/// The name in the certificate of an operator: whoever shows it gives orders. It has points, which no node's has.
pub const OPERATOR: &str = "operator.waltree.dev";

/// The role that servers stream as from each other; it logs in with a certificate of its node.
pub const STANDBY_ROLE: &str = "waltree_standby";

/// The orders of one node, as the operator decided them. The agent carries them out and decides nothing about them. Either may
/// be newer than the other, so what one does not know is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Orders {
    /// The node's name.
    pub node: String,
    /// The term of the operator that gave them: those of an earlier one are refused (law 13).
    #[serde(default)]
    pub term: u64,
    /// How many servers may ever be its children.
    pub children_max: u32,
    /// What it is to be.
    pub role: Role,
    /// The system identifier of the tree; none before its first server was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Whom it may be cloned from, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// Its `primary_conninfo`, where no `ALTER SYSTEM` says otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// What the primary has for clients; nothing where that is not known, and of a standby.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<Application>,
    /// Users' parameters of PostgreSQL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Users' lines of pg_hba.conf for whoever comes over the network, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hba: Vec<String>,
    /// Its PostgreSQL is to be started anew if it still is this one ([`Account::postmaster`]): any other has read all already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<String>,
}

/// The database that is made for an application, and the role that owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// The database.
    pub database: String,
    /// The role.
    pub owner: String,
    /// What its password is checked by, as PostgreSQL keeps it: the password is not in it.
    pub verifier: String,
    /// Which writing of the Secret the password was in: another one has another verifier.
    pub secret_version: String,
}

/// What a node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The one that writes.
    Primary,
    /// One that follows.
    Standby,
}

/// A server to clone from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Its name.
    pub node: String,
    /// How to reach it as a role that may replicate.
    pub conninfo: String,
}

/// What an agent says of its node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// What is on its volume.
    pub data: Data,
    /// The orders that it follows; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<Orders>,
    /// Whether PostgreSQL was seen to be what it is ordered to be.
    pub as_ordered: bool,
    /// Parameters whose new values it takes at its next start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_for: Vec<String>,
    /// Which start of PostgreSQL it is that answers: another one has another. `None` while none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postmaster: Option<String>,
    /// How often in a row PostgreSQL did not come up.
    #[serde(default)]
    pub starts_in_vain: u32,
    /// What keeps it from that, or from a part of it, in words; empty where nothing does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

/// What is in a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Data {
    /// It cannot be told.
    #[default]
    Unknown,
    /// Nothing, or no directory.
    None,
    /// The data of a cluster with this system identifier.
    Of(String),
}

/// Orders that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOrders {
    /// The name of the node.
    #[error("the orders' node")]
    Name(#[source] BadName),
    /// A connection string.
    #[error("the orders' {0}")]
    Conninfo(&'static str, #[source] BadConninfo),
    /// A secret in a connection string, which would come to light on command lines and in settings.
    #[error("the orders' {0} holds a secret, {1}. Name a passfile or a certificate instead")]
    Secret(&'static str, &'static str),
}

impl Orders {
    /// Whether they can be followed at all.
    ///
    /// # Errors
    /// Says why not.
    pub fn check(&self) -> Result<(), BadOrders> {
        self.name()?;
        let sources = self.sources.iter().map(|source| ("sources", &source.conninfo));
        for (what, text) in sources.chain([("route", &self.route)]) {
            let conninfo = Conninfo::parse(text).map_err(|bad| BadOrders::Conninfo(what, bad))?;
            if let Some(secret) = SECRETS.iter().find(|secret| conninfo.get(secret).is_some()) {
                return Err(BadOrders::Secret(what, secret));
            }
        }
        Ok(())
    }

    /// # Errors
    /// Never for orders that were checked.
    pub fn name(&self) -> Result<NodeName, BadOrders> {
        NodeName::new(&self.node).map_err(BadOrders::Name)
    }
}
