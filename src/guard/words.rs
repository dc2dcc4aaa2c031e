//! What guard and agent say to each other, a line each.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;

/// From the agent to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Start PostgreSQL, unless it runs.
    Start,
    /// Stop PostgreSQL.
    Stop(Stop),
    /// End everything once the clock of [`super::since_boot`] passes this; `None`: never.
    Deadline(Option<Duration>),
}

/// How PostgreSQL is stopped, in PostgreSQL's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// When the last session has ended.
    Smart,
    /// Sessions are ended, and what is in memory is written.
    Fast,
    /// At once; the next start recovers.
    Immediate,
}

impl Stop {
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::SIGTERM,
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}

/// From the guard to the agent. The first that an agent hears is how things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// PostgreSQL runs; the pid of its postmaster.
    Running(i32),
    /// PostgreSQL does not run, and was not seen to end by this agent.
    Stopped,
    /// The postmaster has ended, and whatever it has left behind.
    Ended(Ended),
    /// This deadline is set: the answer to the order.
    Deadline(Option<Duration>),
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Code(i32),
    /// By a signal; 0 for one without a name.
    Signal(i32),
}

/// A line that is none of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a word of guard and agent: {0:?}")]
pub struct Unknown(String);

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::Stop(Stop::Smart) => f.write_str("stop smart"),
            Self::Stop(Stop::Fast) => f.write_str("stop fast"),
            Self::Stop(Stop::Immediate) => f.write_str("stop immediate"),
            Self::Deadline(deadline) => write_deadline(f, *deadline),
        }
    }
}

fn write_deadline(f: &mut fmt::Formatter<'_>, deadline: Option<Duration>) -> fmt::Result {
    match deadline {
        None => f.write_str("deadline never"),
        Some(at) => write!(f, "deadline {}", at.as_millis()),
    }
}

fn deadline(text: &str) -> Result<Option<Duration>, ParseIntError> {
    if text == "never" { Ok(None) } else { text.parse().map(|at| Some(Duration::from_millis(at))) }
}

impl FromStr for Order {
    type Err = Unknown;

    fn from_str(line: &str) -> Result<Self, Unknown> {
        let unknown = || Unknown(line.to_owned());
        Ok(match line.split(' ').collect::<Vec<_>>()[..] {
            ["start"] => Self::Start,
            ["stop", "smart"] => Self::Stop(Stop::Smart),
            ["stop", "fast"] => Self::Stop(Stop::Fast),
            ["stop", "immediate"] => Self::Stop(Stop::Immediate),
            ["deadline", at] => Self::Deadline(deadline(at).map_err(|_| unknown())?),
            _ => return Err(unknown()),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(pid) => write!(f, "running {pid}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Ended(how) => write!(f, "ended {how}"),
            Self::Deadline(deadline) => write_deadline(f, *deadline),
        }
    }
}

impl FromStr for Report {
    type Err = Unknown;

    fn from_str(line: &str) -> Result<Self, Unknown> {
        let number = |text: &str| text.parse().map_err(|_| Unknown(line.to_owned()));
        Ok(match line.split(' ').collect::<Vec<_>>()[..] {
            ["running", pid] => Self::Running(number(pid)?),
            ["stopped"] => Self::Stopped,
            ["deadline", at] => Self::Deadline(deadline(at).map_err(|_| Unknown(line.to_owned()))?),
            ["ended", "code", code] => Self::Ended(Ended::Code(number(code)?)),
            ["ended", "signal", signal] => Self::Ended(Ended::Signal(number(signal)?)),
            _ => return Err(Unknown(line.to_owned())),
        })
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
