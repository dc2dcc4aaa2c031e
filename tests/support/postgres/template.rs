//! What every server here begins as: made once, and kept among the build's files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use super::*;

/// A data directory, shut down cleanly, with the roles in it. Made once for each word in `whose`, and kept among the
/// build's files.
pub(super) fn template(bin: &Path, whose: &'static str) -> PathBuf {
    static MADE: OnceLock<std::sync::Mutex<BTreeMap<(PathBuf, &'static str), PathBuf>>> = OnceLock::new();
    let mut made = MADE.get_or_init(Default::default).lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((bin.to_owned(), whose)).or_insert_with(|| make_template(bin, whose)).clone()
}

fn make_template(bin: &Path, whose: &str) -> PathBuf {
    let version = run(Command::new(bin.join("postgres")).arg("--version"));
    let old = version.contains(" 14.");
    let role = if old { ROLE_OF_14.to_owned() } else { fs::read_to_string(OPERATOR_ROLE).unwrap() };
    let mut hasher = DefaultHasher::new();
    // Nobody can use what another user owns.
    (&role, CONF, HBA, version, whose, owner(), include_str!("../postgres.rs"), include_str!("template.rs"))
        .hash(&mut hasher);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{:016x}", hasher.finish()));
    if kept.exists() {
        return kept;
    }
    let dir = std::env::temp_dir().join(format!("waltree-{}-template-{whose}", std::process::id()));
    own_dir(&dir);
    let data = dir.join("data");
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]);
    run(as_owner(&mut initdb).current_dir(&dir));
    append(&data.join("postgresql.conf"), CONF);
    fs::write(data.join("pg_hba.conf"), HBA).unwrap();
    let port = free_port();
    append(&data.join("postgresql.auto.conf"), &format!("port = {port}\n"));
    let running = Running::new(&dir, bin, &data, &dir.join("log"), None);
    let mut sql = role;
    writeln!(sql, "ALTER ROLE waltree PASSWORD '{WALTREE_PASSWORD}';").unwrap();
    writeln!(sql, "CREATE ROLE repl LOGIN REPLICATION PASSWORD '{REPL_PASSWORD}';").unwrap();
    psql(port, &sql);
    running.end("stop");
    fs::write(data.join("postgresql.auto.conf"), "").unwrap();
    let fresh = kept.with_extension(std::process::id().to_string());
    run(Command::new("cp").arg("-a").arg(&data).arg(&fresh));
    // Another test binary may have been quicker; then its template is as good.
    if fs::rename(&fresh, &kept).is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    let _ = fs::remove_dir_all(&dir);
    kept
}

/// Runs a script with psql, as soon as the server lets us in.
fn psql(port: u16, sql: &str) {
    for _ in 0..600 {
        let mut child = Command::new("psql")
            .args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1"])
            .args(["-p", &port.to_string(), "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(sql.as_bytes());
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => return,
            Some(2) => std::thread::sleep(Duration::from_millis(50)), // Not let in yet.
            _ => panic!("psql: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
    panic!("the template server did not start");
}
