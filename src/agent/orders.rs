//! What a node is to be, as the operator decided it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

use crate::model::conninfo::{BadConninfo, SECRETS};
use crate::model::{BadName, Conninfo, NodeName};

/// The orders of one node. The agent carries them out and decides nothing about them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Orders {
    /// The node's name.
    pub node: String,
    /// Where its data are; made by the agent when it is not there. The folder that holds it is on the same volume.
    pub data_directory: PathBuf,
    /// The folder of the socket, by which the agent speaks with its PostgreSQL.
    pub socket_directory: PathBuf,
    /// The port of PostgreSQL.
    pub port: u16,
    /// How many servers may ever be its children.
    pub children_max: u32,
    /// What it is to be.
    pub role: Role,
    /// The system identifier of the tree; none before its first server was made.
    #[serde(default)]
    pub system_identifier: Option<String>,
    /// Whom it may be cloned from, the best first.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// Its `primary_conninfo`.
    #[serde(default)]
    pub route: String,
    /// Users' parameters of PostgreSQL.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf for whoever comes over the network, in order.
    #[serde(default)]
    pub hba: Vec<String>,
}

/// What a node is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Role {
    /// The one that writes.
    Primary,
    /// One that follows.
    Standby,
}

/// A server to clone from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Its name.
    pub node: String,
    /// How to reach it as a role that may replicate.
    pub conninfo: String,
}

/// Orders that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadOrders {
    /// The file.
    #[error("cannot read the orders in {0}")]
    File(PathBuf, #[source] io::Error),
    /// What is in it.
    #[error("the orders in {0} are none")]
    Text(PathBuf, #[source] serde_yaml::Error),
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
    /// # Errors
    /// When there are none, or they cannot be understood.
    pub fn read(file: &Path) -> Result<Self, BadOrders> {
        let text = fs::read_to_string(file).map_err(|error| BadOrders::File(file.to_owned(), error))?;
        let orders: Self = serde_yaml::from_str(&text).map_err(|error| BadOrders::Text(file.to_owned(), error))?;
        NodeName::new(&orders.node).map_err(BadOrders::Name)?;
        let sources = orders.sources.iter().map(|source| ("sources", &source.conninfo));
        for (what, text) in sources.chain([("route", &orders.route)]) {
            let conninfo = Conninfo::parse(text).map_err(|bad| BadOrders::Conninfo(what, bad))?;
            if let Some(secret) = SECRETS.iter().find(|secret| conninfo.get(secret).is_some()) {
                return Err(BadOrders::Secret(what, secret));
            }
        }
        Ok(orders)
    }

    /// # Errors
    /// Never for orders that were read.
    pub fn name(&self) -> Result<NodeName, BadOrders> {
        NodeName::new(&self.node).map_err(BadOrders::Name)
    }
}
