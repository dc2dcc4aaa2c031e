//! Which parameters of PostgreSQL, and which lines of pg_hba.conf, are users' to write.

/// What is the same everywhere, whoever asks. Each stands for a promise that would not hold otherwise.
pub(crate) const FIXED: &[(&str, &str)] = &[
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
pub(crate) const FIXED_SINCE: &[(u32, &str, &str)] =
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

/// A parameter of users that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadParameter {
    /// waltree sets it.
    #[error("{0:?} is set by waltree and cannot be set here. Remove it")]
    Ours(String),
    /// No name of a parameter.
    #[error("{0:?} is no name of a parameter. Write it as PostgreSQL's documentation does, as in work_mem")]
    Name(String),
    /// A value that is no plain number.
    #[error(
        "the value of {0:?} is no number in plain digits, and a server must not have less than its primary. Write one"
    )]
    Number(String),
    /// A value of more than one line.
    #[error("the value of {0:?} holds a character that no setting can hold. Write it in one line")]
    Value(String),
}

/// The name of a parameter that users may set, as PostgreSQL writes it: names are the same in any case, and those of
/// extensions have a point.
///
/// # Errors
/// When it cannot be set by users, or not to this value.
pub fn check(name: &str, value: &str) -> Result<String, BadParameter> {
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
    if AT_LEAST_AS_THE_PRIMARY.contains(&lower.as_str()) && value.parse::<u32>().is_err() {
        return Err(BadParameter::Number(name.to_owned()));
    }
    Ok(lower)
}

/// What a standby must not have less of than its primary, of what users may set (postgres-facts.md 8). They are compared, and
/// PostgreSQL reads more as a number than we do.
const AT_LEAST_AS_THE_PRIMARY: &[&str] =
    &["max_connections", "max_locks_per_transaction", "max_prepared_transactions", "max_worker_processes"];

/// What begins a line of pg_hba.conf about whoever comes over the network.
const HBA_BEGINS: &[&str] = &["host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];

/// What is wrong with a line of users for pg_hba.conf, and the cure. PostgreSQL reads the rest of it.
pub fn hba_fault(line: &str) -> Option<String> {
    let begin = line.split_ascii_whitespace().next().unwrap_or_default();
    if line.contains(['\n', '\r', '\0']) {
        return Some("holds more than one line: write each as an entry of its own".to_owned());
    }
    if line.trim_end().ends_with('\\') {
        return Some("ends with a backslash, which would join it with the next: remove that".to_owned());
    }
    (!HBA_BEGINS.contains(&begin)).then(|| {
        let known = HBA_BEGINS.join(", ");
        format!(
            "begins with {begin:?}: begin it with one of {known}; the socket and other files are not for users to name"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waltree_sets_is_refused_by_name() {
        for name in ["Port", "ssl_ca_file", "recovery_target_lsn", "wal_level", "idle_replication_slot_timeout"] {
            assert_eq!(check(name, "1"), Err(BadParameter::Ours(name.to_owned())));
        }
        assert_eq!(check("Work_Mem", "1MB"), Ok("work_mem".to_owned()));
        assert_eq!(check("max_connections", "0x20"), Err(BadParameter::Number("max_connections".to_owned())));
        assert_eq!(check("a.b.c", "1"), Err(BadParameter::Name("a.b.c".to_owned())));
    }

    #[test]
    fn a_line_of_users_is_one_line_about_the_network() {
        assert_eq!(hba_fault("hostssl all all 192.0.2.0/24 scram-sha-256"), None);
        for line in ["local all all trust", "include other", "", "# remark", "host all\nlocal all", "host all \\"] {
            assert!(hba_fault(line).is_some(), "{line:?}");
        }
    }
}
