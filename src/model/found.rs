//! A server of a fleet that nobody has written down yet, as it is found by going from one server to the next.

use std::sync::Arc;

use super::Facts;

/// A server that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name or IP under which the other servers know it, or else we do.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// What it said.
    pub facts: Arc<Facts>,
    /// The server that it receives from, or is told to, as its place among all that were found; `None` for a primary,
    /// and where that one was not found.
    pub upstream: Option<usize>,
}

impl Found {
    /// The name under which its upstream sees it: what libpq takes where `primary_conninfo` names none.
    pub fn application_name(&self) -> &str {
        let cluster = Some(self.facts.cluster_name.as_str()).filter(|name| !name.is_empty());
        self.facts.route.conninfo.get("application_name").or(cluster).unwrap_or("walreceiver")
    }

    /// Where it listens, for people.
    pub fn listener(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }
}
