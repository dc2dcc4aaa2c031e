//! A guard as a process of ours, and all that is below it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::owner::as_owner;
use super::postgres::{eventually, run};
use super::programs::binaries;

/// Ends the guard that has this pid and all that is below it, when the pipe closes that only the test process holds. Whoever
/// is killed leaves segments of shared memory behind, of which a machine has room for 4096.
const KEEPER: &str = r#"
cat >/dev/null
[ "$(readlink "/proc/$1/exe")" = "$2/waltree" ] || exit 0
below() { for pid; do echo "$pid"; below $(cat /proc/$pid/task/*/children 2>/dev/null); done; }
segment=$(sed -n '7s/.* //p' "$3/postmaster.pid" 2>/dev/null)
kill -STOP "$1"
all=$(below $(cat /proc/$1/task/*/children))
shared=$(for pid in $all; do grep -ho '/dev/shm/PostgreSQL\.[0-9]*' "/proc/$pid/maps" 2>/dev/null; done | sort -u)
kill -KILL "$1" $all 2>/dev/null
for pid in $all; do
  tries=250
  while kill -0 "$pid" 2>/dev/null && [ $tries -gt 0 ]; do sleep 0.02; tries=$((tries - 1)); done
done
[ -z "$segment" ] || ipcrm -m "$segment"
[ -z "$shared" ] || rm -f $shared
"#;

/// A guard over the data of one server. Whatever becomes of the test process, nothing of it is left behind.
pub struct Guarded {
    guard: Child,
    keeper: Child,
    data: PathBuf,
}

impl Guarded {
    /// Starts a copy of waltree in `folder`, where the servers' owner can read it, with `arguments` before those of PostgreSQL.
    pub fn start(
        folder: &Path,
        data: &Path,
        arguments: &[&str],
        version: Option<u32>,
        environment: &[(&str, &str)],
    ) -> Self {
        let (program, bin) = (folder.join("waltree"), binaries(version).unwrap());
        // A file that this process had written could still be open in a child of another thread, and not be run.
        run(Command::new("cp").arg(env!("CARGO_BIN_EXE_waltree")).arg(&program));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut guard = Command::new(&program);
        guard.arg("guard").args(arguments).args(["--", "postgres", "-D"]).arg(data);
        guard.env("PATH", path).envs(environment.iter().copied()).env_remove("PGPASSFILE");
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let guard =
            as_owner(&mut guard).current_dir(folder).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh", &guard.id().to_string()]).arg(folder).arg(data);
        let keeper = keeper.process_group(0).stdin(Stdio::piped()).spawn().unwrap();
        Self { guard, keeper, data: data.to_owned() }
    }

    /// The guard's own pid.
    pub fn pid(&self) -> u32 {
        self.guard.id()
    }

    /// Every process below the guard.
    pub fn below(&self) -> Vec<u32> {
        let (mut found, mut next) = (Vec::new(), vec![self.guard.id()]);
        while let Some(pid) = next.pop() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let children: Vec<u32> = children.split_whitespace().map(|child| child.parse().unwrap()).collect();
            next.extend(&children);
            found.extend(children);
        }
        found
    }

    /// Sends a signal to the guard or to one that is below it.
    pub fn signal(&self, signal: &str, pid: u32) {
        assert!(self.guard.id() == pid || self.below().contains(&pid), "{pid} is not of the guard");
        run(Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]));
    }

    /// Waits until the guard has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let guard = &mut self.guard;
        eventually("the guard ends", async || {
            status = guard.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// What the data say of themselves.
    pub fn says(&self, what: &str) -> String {
        let controldata = binaries(None).unwrap().join("pg_controldata");
        let said = run(Command::new(controldata).arg(&self.data));
        said.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim_start_matches(':').trim().to_owned()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = self.guard.wait();
    }
}
