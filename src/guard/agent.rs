//! The agent, as its parent sees it.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::say;
use super::words::{Order, Report};

/// Longest order, in bytes; the longest there is has 30.
const LINE_BYTES_MAX: usize = 256;

/// An agent that was started and has not been waited for.
pub(super) struct Agent {
    pid: Pid,
    /// When it was started.
    pub(super) since: Duration,
    orders: ChildStdout,
    reports: ChildStdin,
    /// What it has said of a line that is not at its end yet.
    begun: Vec<u8>,
    /// It has said what is no order.
    is_mad: bool,
    is_buried: bool,
}

impl Agent {
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(command: &[OsString], now: Duration) -> io::Result<Self> {
        let [program, arguments @ ..] = command else { return Err(ErrorKind::NotFound.into()) };
        let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(reports), Some(orders)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        for pipe in [orders.as_fd(), reports.as_fd()] {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            pid: Pid::from_raw(child.id().cast_signed()),
            since: now,
            orders,
            reports,
            begun: Vec::new(),
            is_mad: false,
            is_buried: false,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// What is ready when it has given an order.
    pub(super) fn orders(&self) -> BorrowedFd<'_> {
        self.orders.as_fd()
    }

    /// Whether or not it heeds it.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.is_buried {
            let _ = kill(self.pid, signal);
        }
    }

    /// Leave was taken of it: its pid may be another's from now on. What it has said is still to be read.
    pub(super) fn bury(&mut self) {
        self.is_buried = true;
    }

    /// The orders of what is to be read now, of which more may follow; `None` when nothing is. One that says what is no order,
    /// or closes its side, is ended: another begins with a clear head.
    pub(super) fn read(&mut self) -> Option<Vec<Order>> {
        let mut chunk = [0; 4096];
        if self.is_mad {
            return None;
        }
        let bytes = match self.orders.read(&mut chunk) {
            Ok(0) => {
                self.signal(Signal::SIGKILL);
                return None;
            }
            Ok(bytes) => bytes,
            Err(_) => return None,
        };
        self.begun.extend_from_slice(&chunk[..bytes]);
        let mut orders = Vec::new();
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            match String::from_utf8_lossy(&line).trim_end().parse() {
                Ok(order) => orders.push(order),
                Err(unknown) => {
                    say(&format!("the agent is ended: {unknown}"));
                    self.deafen();
                }
            }
        }
        if self.begun.len() > LINE_BYTES_MAX {
            self.deafen();
        }
        Some(orders)
    }

    /// Nothing that it says any more counts.
    fn deafen(&mut self) {
        self.begun.clear();
        self.is_mad = true;
        self.signal(Signal::SIGKILL);
    }

    /// One that does not listen for thousands of reports is ended.
    pub(super) fn tell(&mut self, report: Report) {
        if self.reports.write_all(format!("{report}\n").as_bytes()).is_err() {
            self.signal(Signal::SIGKILL);
        }
    }
}
