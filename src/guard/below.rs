//! The processes below this one, and their end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::words::Ended;

/// Ends every process below this one, but for `spared` and what is below that, and returns when the kernel says that there is
/// none left: with nobody spared the proof that nothing here writes any more (safety.md 1.9 a). Orphans come to this process,
/// so none is missed; those that are made meanwhile are found in the next round. The spared one may end by itself meanwhile.
///
/// # Errors
/// When the kernel does not let it wait.
pub(super) fn end(spared: Option<Pid>) -> nix::Result<()> {
    loop {
        let doomed = all(spared);
        if doomed.is_empty() && spared.is_some() {
            return Ok(());
        }
        for pid in doomed {
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        }
        match reap(None) {
            Ok(_) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Of whom leave was taken.
pub(super) enum Reaped {
    /// Of this one, who ended so.
    One(Pid, Ended),
    /// Of somebody: the kernel's answer has no name, which is so of a signal that has none.
    Somebody,
    /// Of nobody: none has ended.
    Nobody,
}

/// Takes leave of one that has ended; with `WNOHANG` only where one has. Nobody else waits for them: a pid is not given to
/// another before this.
///
/// # Errors
/// ECHILD when there are no children, and whatever else the kernel says.
pub(super) fn reap(flag: Option<WaitPidFlag>) -> nix::Result<Reaped> {
    match waitpid(None, flag) {
        Ok(WaitStatus::Exited(pid, code)) => Ok(Reaped::One(pid, Ended::Code(code))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Ok(Reaped::One(pid, Ended::Signal(signal as i32))),
        Ok(_) | Err(Errno::EINTR) => Ok(Reaped::Nobody),
        Err(Errno::EINVAL) => Ok(Reaped::Somebody),
        Err(errno) => Err(errno),
    }
}

/// The processes below this one as the kernel tells who is whose child, without `spared` and what is below that.
fn all(spared: Option<Pid>) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in pids {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let spared = spared.map(Pid::as_raw);
    let (mut seen, mut next) = (BTreeSet::new(), vec![Pid::this().as_raw()]);
    while let Some(pid) = next.pop() {
        let below = children.get(&pid).into_iter().flatten().copied().filter(|child| Some(*child) != spared);
        next.extend(below.filter(|child| seen.insert(*child)));
    }
    seen.into_iter().map(Pid::from_raw).collect()
}

/// Whether a process that was not yet taken leave of has been by now.
pub(super) fn is_gone(pid: Pid) -> bool {
    kill(pid, None) == Err(Errno::ESRCH)
}

/// The name stands in parentheses and may hold any character, a parenthesis too.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}
