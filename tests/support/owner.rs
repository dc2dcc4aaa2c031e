//! Whom the servers run as. PostgreSQL does not run as root: where we are, it runs as the user `postgres`. Where we are root
//! of a user namespace of our own (`unshare -Urnm`), nobody else is there to run it; it runs one namespace further in, in
//! which the same user is not root.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::postgres::run;

/// Enters a namespace in which we are not root, but the user of number 1: initdb wants one that has a name.
const INNER: [&str; 4] = ["unshare", "--user", "--map-user=1", "--map-group=1"];

/// User and group of the servers, as we see them; `None` where they are ours and we are not root.
pub fn owner() -> Option<(u32, u32)> {
    static OWNER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *OWNER.get_or_init(|| {
        let id = |args: &[&str]| run(Command::new("id").args(args)).trim().parse::<u32>().unwrap();
        let is_root = id(&["-u"]) == 0;
        is_root.then(|| if is_nested() { (0, 0) } else { (id(&["-u", "postgres"]), id(&["-g", "postgres"])) })
    })
}

/// Whether we are in a user namespace that maps not all users.
pub fn is_nested() -> bool {
    static NESTED: OnceLock<bool> = OnceLock::new();
    *NESTED.get_or_init(|| {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap();
        map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
    })
}

/// Whether what only root can make is made here. Where we are not root a test that needs it fails, unless it is said that
/// somebody runs it as root, as `tests/run` does in namespaces: green is never what was not tested.
pub fn makes(what: &str) -> bool {
    if owner().is_some() {
        return true;
    }
    let elsewhere = std::env::var("WALTREE_ROOT_TESTS").is_ok_and(|place| place == "elsewhere");
    assert!(
        elsewhere,
        "{what}: only root can make that. Run it as root, or in namespaces as tests/run does (`unshare -Urnm`), or say \
         WALTREE_ROOT_TESTS=elsewhere when somebody else does"
    );
    // Past the capture of tests, so that it is read.
    let mut stderr = std::io::stderr();
    writeln!(stderr, "NOT TESTED HERE: {what}: only root can make that").unwrap();
    false
}

/// Lets a command run as the servers' owner. To be called before its input and output are set.
pub fn as_owner(command: &mut Command) -> &mut Command {
    match owner() {
        Some(_) if is_nested() => {
            let mut inner = Command::new(INNER[0]);
            inner.args(&INNER[1..]).arg(command.get_program()).args(command.get_args());
            inner.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
            *command = inner;
            command
        }
        Some((uid, gid)) => command.uid(uid).gid(gid),
        None => command,
    }
}

/// A shell that enters a network namespace as root and goes on as the servers' owner.
pub fn entering(namespace: &str) -> Command {
    let (uid, gid) = owner().expect("only root enters a namespace");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}"));
    if is_nested() {
        command.args(INNER);
    } else {
        command.args(["-S", &uid.to_string(), "-G", &gid.to_string()]);
    }
    command.arg("sh");
    command
}

/// Gives a file or folder to the servers' owner.
pub fn give(path: &Path) {
    if let Some((uid, gid)) = owner() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// Makes a folder of the servers' owner.
pub fn own_dir(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    give(dir);
}
