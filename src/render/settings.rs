//! The configuration of one server: what users ask for over what every server here begins with, under what is not theirs to
//! set, as PostgreSQL reads it.

use std::collections::BTreeMap;

use crate::model::NodeName;

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

/// What is the same everywhere, whoever asks. Each stands for a promise that would not hold otherwise.
const FIXED: &[(&str, &str)] = &[
    ("listen_addresses", "*"),
    ("hot_standby", "on"),
    ("wal_level", "replica"),
    // Whoever was primary comes back by a rewind, which needs one of this and checksums (10).
    ("wal_log_hints", "on"),
    ("recovery_target_timeline", "latest"),
    ("full_page_writes", "on"),
    // An upstream that is frozen or gone without a word is left after this (1.5), less gives false alarms.
    ("wal_receiver_timeout", "3s"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_receiver_create_temp_slot", "off"),
    ("wal_retrieve_retry_interval", "250ms"),
    // Frees the slot of a child that is gone, which it needs when it comes back (2.2).
    ("wal_sender_timeout", "5s"),
    // Whoever can write to the socket is let in without a password.
    ("unix_socket_permissions", "0700"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
];

/// The same, of versions that have them: idle slots of standbys are there on purpose.
const FIXED_SINCE: &[(u32, &str, &str)] =
    &[(17, "allow_alter_system", "on"), (18, "idle_replication_slot_timeout", "0")];

/// Set elsewhere, or by nobody: places of files, what recovery aims at, and what makes a standby of whom.
const REFUSED: &[&str] = &[
    "archive_cleanup_command",
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    // No parameters but directives, which would bring in whatever is refused here.
    "include",
    "include_dir",
    "include_if_exists",
    "max_replication_slots",
    "max_wal_senders",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restart_after_crash",
    "synchronous_standby_names",
    "unix_socket_directories",
    "unix_socket_group",
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
    /// Its `primary_conninfo`; empty for one that has no upstream yet.
    pub route: &'a str,
    /// The folder of its certificate and of the authority's; `None` where there is no TLS.
    pub certificates: Option<&'a str>,
}

/// A parameter of users that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadParameter {
    /// waltree sets it.
    #[error("postgres.parameters: {0:?} is set by waltree and cannot be set here. Remove it")]
    Ours(String),
    /// No name of a parameter.
    #[error(
        "postgres.parameters: {0:?} is no name of a parameter. Write it as PostgreSQL's documentation does, as in work_mem"
    )]
    Name(String),
    /// A value of more than one line.
    #[error("postgres.parameters: the value of {0:?} holds a character that no setting can hold. Write it in one line")]
    Value(String),
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
    all.extend(tls(server.certificates));
    Ok(lines(all.iter().map(|(name, value)| format!("{name} = {}", quoted(value)))))
}

/// Names are the same in any case. Those of extensions have a point.
fn check(name: &str, value: &str) -> Result<String, BadParameter> {
    let lower = name.to_ascii_lowercase();
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !lower.split('.').all(part) || lower.split('.').count() > 2 {
        return Err(BadParameter::Name(name.to_owned()));
    }
    let fixed = FIXED.iter().map(|(fixed, _)| *fixed).chain(FIXED_SINCE.iter().map(|(_, fixed, _)| *fixed));
    let ours = fixed.chain(REFUSED.iter().copied()).any(|ours| ours == lower);
    if ours || lower.starts_with("recovery_target") || lower.starts_with("ssl") {
        return Err(BadParameter::Ours(name.to_owned()));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(BadParameter::Value(name.to_owned()));
    }
    Ok(lower)
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

    fn server(node: &NodeName) -> Server<'_> {
        Server {
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
    fn a_value_cannot_begin_a_line_or_leave_its_quotes() {
        let text = rendered(&[("search_path", r"a'; fsync = off\n#")]).unwrap();
        assert!(text.contains(r"search_path = 'a''; fsync = off\\n#'"), "{text}");
        assert_eq!(rendered(&[("work_mem", "1\nfsync = off")]), Err(vec![BadParameter::Value("work_mem".into())]));
        let name = "work_mem = 1\nfsync";
        assert_eq!(rendered(&[(name, "off")]), Err(vec![BadParameter::Name(name.into())]));
    }

    #[test]
    fn what_waltree_sets_is_refused_by_name_and_all_at_once() {
        let refused =
            rendered(&[("Port", "1"), ("ssl_ca_file", "x"), ("recovery_target_lsn", "0/0"), ("work_mem", "1MB")]);
        let ours = |name: &str| BadParameter::Ours(name.to_owned());
        assert_eq!(refused, Err(vec![ours("Port"), ours("recovery_target_lsn"), ours("ssl_ca_file")]));
    }
}
