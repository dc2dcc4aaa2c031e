//! The configuration of one server: what users ask for over what every server here begins with, under what is not theirs to
//! set, as PostgreSQL reads it.

use std::collections::BTreeMap;

use crate::model::NodeName;
use crate::model::parameters::{BadParameter, FIXED, FIXED_SINCE, check};

/// What every server begins with, and users may set otherwise. Values and reasons: postgres-facts.md, "Recommended GUCs".
const DEFAULTS: &[(&str, &str)] = &[
    // With less, a child that was away for a moment already needs a slot.
    ("wal_keep_size", "512MB"),
    // A query that holds back replay holds back every child, and the way to another upstream (1.3).
    ("max_standby_streaming_delay", "30s"),
    ("hot_standby_feedback", "on"),
    ("max_connections", "100"),
    ("password_encryption", "scram-sha-256"),
];

/// What one server is, as far as its configuration goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// The major version of its PostgreSQL.
    pub version: u32,
    /// The port that it listens to.
    pub port: u16,
    /// The folder of its socket.
    pub socket: &'a str,
    /// How many servers may ever be its children. The same for all of a tree: a standby does not start with less than its
    /// primary has.
    pub children_max: u32,
    /// What some parameters may not be less than; a standby would not start.
    pub floors: &'a BTreeMap<String, u64>,
    /// Its `primary_conninfo`; empty for one that has no upstream yet.
    pub route: &'a str,
    /// The folder of its certificate and of the authority's; `None` where there is no TLS.
    pub certificates: Option<&'a str>,
}

/// The text of the file. Senders and slots are for all children, and as many again for backups and what comes and goes.
///
/// # Errors
/// Every parameter of users that cannot be written.
pub fn settings(server: &Server<'_>, users: &BTreeMap<String, String>) -> Result<String, Vec<BadParameter>> {
    let mut bad = Vec::new();
    let mut all: BTreeMap<String, String> =
        DEFAULTS.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    for (name, value) in users {
        match check(name, value) {
            Ok(name) => drop(all.insert(name, value.clone())),
            Err(why) => bad.push(why),
        }
    }
    if !bad.is_empty() {
        return Err(bad);
    }
    let since = FIXED_SINCE.iter().filter(|(since, ..)| server.version >= *since).map(|(_, name, value)| (name, value));
    let fixed = FIXED.iter().map(|(name, value)| (name, value)).chain(since);
    all.extend(fixed.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let links = (server.children_max + 4).max(10).to_string();
    let own = [
        ("cluster_name", server.node.as_str()),
        ("port", &server.port.to_string()),
        ("unix_socket_directories", server.socket),
        ("max_wal_senders", &links),
        ("max_replication_slots", &links),
        ("primary_conninfo", server.route),
        ("primary_slot_name", if server.route.is_empty() { "" } else { server.node.slot() }),
    ];
    all.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for (name, floor) in server.floors {
        if all.get(name).and_then(|value| value.parse().ok()).is_none_or(|value: u64| value < *floor) {
            all.insert(name.clone(), floor.to_string());
        }
    }
    all.extend(tls(server.certificates));
    Ok(lines(all.iter().map(|(name, value)| format!("{name} = {}", quoted(value)))))
}

/// PostgreSQL's configuration reads a backslash as the begin of an escape.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

fn tls(certificates: Option<&str>) -> Vec<(String, String)> {
    let Some(folder) = certificates else { return Vec::new() };
    let files = [("ssl_cert_file", "tls.crt"), ("ssl_key_file", "tls.key"), ("ssl_ca_file", "ca.crt")];
    let files = files.map(|(name, file)| (name.to_owned(), format!("{folder}/{file}")));
    std::iter::once(("ssl".to_owned(), "on".to_owned())).chain(files).collect()
}

fn lines(all: impl Iterator<Item = String>) -> String {
    all.flat_map(|line| [line, "\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    static NONE: BTreeMap<String, u64> = BTreeMap::new();

    fn server(node: &NodeName) -> Server<'_> {
        Server {
            floors: &NONE,
            node,
            version: 18,
            port: 5432,
            socket: "/run/pg",
            children_max: 8,
            route: "host=r1",
            certificates: None,
        }
    }

    fn rendered(users: &[(&str, &str)]) -> Result<String, Vec<BadParameter>> {
        let users = users.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings(&server(&NodeName::new("eu-1").unwrap()), &users)
    }

    #[test]
    fn users_parameters_stand_over_defaults_and_each_name_stands_once() {
        let text = rendered(&[("WAL_keep_size", "1GB"), ("auto_explain.log_min_duration", "1s")]).unwrap();
        for line in ["wal_keep_size = '1GB'", "auto_explain.log_min_duration = '1s'", "primary_slot_name = 'eu_1'"] {
            assert_eq!(text.lines().filter(|have| *have == line).count(), 1, "{line} in:\n{text}");
        }
        assert_eq!(text.matches("wal_keep_size").count(), 1);
    }

    #[test]
    fn a_server_is_given_no_less_than_its_primary_has() {
        let floors = [("max_connections".to_owned(), 200), ("max_locks_per_transaction".to_owned(), 64)].into();
        let node = NodeName::new("eu-1").unwrap();
        let with = |value: &str| {
            let users = [("max_connections".to_owned(), value.to_owned())].into();
            settings(&Server { floors: &floors, ..server(&node) }, &users).unwrap()
        };
        for (asked, given) in [("100", "200"), ("300", "300")] {
            let text = with(asked);
            assert!(text.contains(&format!("max_connections = '{given}'\nmax_locks_per_transaction = '64'")), "{text}");
        }
    }

    #[test]
    fn a_value_cannot_begin_a_line_or_leave_its_quotes() {
        let text = rendered(&[("search_path", r"a'; fsync = off\n#")]).unwrap();
        assert!(text.contains(r"search_path = 'a''; fsync = off\\n#'"), "{text}");
        assert_eq!(rendered(&[("work_mem", "1\nfsync = off")]), Err(vec![BadParameter::Value("work_mem".into())]));
        let name = "work_mem = 1\nfsync";
        assert_eq!(rendered(&[(name, "off")]), Err(vec![BadParameter::Name(name.into())]));
    }
}
