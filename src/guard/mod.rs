//! The first process of a node's container: the parent of the agent and of PostgreSQL (design.md section 8).
//!
//! It decides nothing. It starts PostgreSQL and stops it when the agent says so, starts the agent anew when that ends, which
//! PostgreSQL does not notice, reaps whatever is left to it, and holds the deadline of the right to write: when that passes it
//! ends everything below it. So that nothing keeps it from this it has one thread, waits for nobody, and uses nothing but
//! the standard library and the kernel (safety.md 1.7). The one wait that is left is that for the first breath of a program
//! that it starts.
//!
//! The agent speaks on its standard output and listens on its standard input, a line each: see [`words`].

mod agent;
mod below;
pub mod words;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::WaitPidFlag;
use nix::time::clock_gettime;
use nix::unistd::Pid;

use agent::Agent;
use below::Reaped;
use words::{Ended, Order, Report, Stop};

/// Between the end of an agent and the start of the next, at first; doubled each time up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two agents, and how long one has to live for the pause to be short again.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Longest line that the guard says.
const LINE_CHARS_MAX: usize = 400;

/// What the guard runs.
#[derive(Debug)]
pub struct Programs {
    /// The agent and its arguments.
    pub agent: Vec<OsString>,
    /// PostgreSQL and its arguments.
    pub postgres: Vec<OsString>,
    /// How long after it was told to end the guard stops PostgreSQL by itself, where the agent has not.
    pub stop_after: Duration,
}

/// What keeps the guard from its work: all of it is refused by the kernel, and none of it has a cure here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the kernel.
    #[error("the guard cannot {0}")]
    Kernel(&'static str, #[source] Errno),
}

/// Runs until SIGTERM or SIGINT, and until PostgreSQL and the agent have ended then.
///
/// # Errors
/// When the kernel refuses what cannot be done without.
pub fn run(programs: &Programs) -> Result<(), Error> {
    let done = Guard::new(programs)?.live();
    // Whatever has happened: nobody holds a deadline for what is left below.
    let ended = below::end(None).kernel("end what is below it");
    done.and(ended)
}

/// The time since the machine started, sleep included. The agent reads the same clock.
///
/// # Errors
/// Never, on Linux.
pub fn since_boot() -> Result<Duration, Error> {
    clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from).kernel("read the clock")
}

struct Guard<'a> {
    programs: &'a Programs,
    signals: SignalFd,
    timer: TimerFd,
    agent: Option<Agent>,
    /// When the next agent starts, and the pause before the one after it.
    next_agent: (Duration, Duration),
    postgres: Option<Pid>,
    /// Until when PostgreSQL may run; `None` where nobody has set a deadline.
    deadline: Option<Duration>,
    ending: Ending,
}

/// Whether the guard was told to end, and who sees to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// The agent, until then.
    ByAgent(Duration),
    /// The agent was not there or not fast enough.
    ByGuard,
}

impl<'a> Guard<'a> {
    fn new(programs: &'a Programs) -> Result<Self, Error> {
        // The children of children that end are left to this process, whether or not it is the first of its namespace.
        prctl::set_child_subreaper(true).kernel("take in orphans")?;
        let mask = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
        // Children inherit this: the postmaster sets its own mask, and the agent does so at its start.
        mask.thread_block().kernel("block signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC);
        Ok(Self {
            programs,
            signals: signals.kernel("wait for signals")?,
            timer: timer.kernel("make a timer")?,
            agent: None,
            next_agent: (Duration::ZERO, PAUSE_MIN),
            postgres: None,
            deadline: None,
            ending: Ending::No,
        })
    }

    fn live(&mut self) -> Result<(), Error> {
        loop {
            let now = since_boot()?;
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                self.end_all()?;
            }
            self.hear_signals(now)?;
            self.obey();
            self.reap(now)?;
            self.begin_agent(now);
            if self.has_ended(now) {
                return Ok(());
            }
            self.sleep()?;
        }
    }

    /// Whether everything has ended, once it is to. The agent stops PostgreSQL, as it knows what has to be done before.
    fn has_ended(&mut self, now: Duration) -> bool {
        match self.ending {
            Ending::ByAgent(until) if until <= now || self.agent.is_none() => {
                self.ending = Ending::ByGuard;
                self.stop(Stop::Fast);
            }
            _ => {}
        }
        if self.ending == Ending::ByGuard && self.postgres.is_none() {
            self.signal_agent(Signal::SIGKILL);
        }
        self.ending != Ending::No && self.postgres.is_none() && self.agent.is_none()
    }

    /// Until a signal, an order, or the next time at which something is due.
    fn sleep(&self) -> Result<(), Error> {
        let (agent, end) = match self.ending {
            Ending::No => (self.agent.is_none().then_some(self.next_agent.0), None),
            Ending::ByAgent(until) => (None, Some(until)),
            Ending::ByGuard => (None, None),
        };
        let due = [agent, end, self.deadline].into_iter().flatten().min();
        match due {
            // A time of zero would unset it.
            Some(at) => {
                let at = TimeSpec::from_duration(at.max(Duration::from_nanos(1)));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
            None => self.timer.unset(),
        }
        .kernel("set its timer")?;
        let mut awaited = vec![self.signals.as_fd(), self.timer.as_fd()];
        awaited.extend(self.agent.as_ref().map(Agent::orders));
        let mut awaited: Vec<_> = awaited.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut awaited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::Kernel("wait", errno)),
        }
    }

    fn hear_signals(&mut self, now: Duration) -> Result<(), Error> {
        while let Some(signal) = self.signals.read_signal().kernel("read a signal")? {
            let told = [Signal::SIGTERM, Signal::SIGINT].iter().any(|end| signal.ssi_signo == *end as u32);
            if told && self.ending == Ending::No {
                self.ending = Ending::ByAgent(now + self.programs.stop_after);
                self.signal_agent(Signal::SIGTERM);
            }
        }
        Ok(())
    }

    /// Takes leave of all that have ended, and ends what the agent or the postmaster has left behind: a backend would go on
    /// committing without its postmaster and keep the next from starting, a clone that is half made would get in the way of
    /// the next agent's.
    fn reap(&mut self, now: Duration) -> Result<(), Error> {
        loop {
            match below::reap(Some(WaitPidFlag::WNOHANG)) {
                Ok(Reaped::Nobody) | Err(Errno::ECHILD) => break,
                Ok(Reaped::One(pid, how)) if self.postgres == Some(pid) => self.postgres_ended(how)?,
                Ok(Reaped::One(pid, how)) if self.agent_is(pid) => self.agent_ended(how, now)?,
                Ok(_) => {}
                Err(errno) => return Err(Error::Kernel("wait for its children", errno)),
            }
        }
        // Of whom leave was taken elsewhere, or without a name.
        if self.postgres.is_some_and(below::is_gone) {
            self.postgres_ended(Ended::Signal(0))?;
        }
        if self.agent.as_ref().is_some_and(|agent| below::is_gone(agent.pid())) {
            self.agent_ended(Ended::Signal(0), now)?;
        }
        Ok(())
    }

    fn agent_is(&self, pid: Pid) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.pid() == pid)
    }

    fn postgres_ended(&mut self, how: Ended) -> Result<(), Error> {
        self.postgres = None;
        below::end(self.agent.as_ref().map(Agent::pid)).kernel("end what PostgreSQL has left")?;
        self.report(Report::Ended(how));
        Ok(())
    }

    fn agent_ended(&mut self, how: Ended, now: Duration) -> Result<(), Error> {
        below::end(self.postgres).kernel("end what the agent has left")?;
        self.agent.iter_mut().for_each(Agent::bury);
        // Its last words may be a deadline.
        while let Some(orders) = self.agent.as_mut().and_then(Agent::read) {
            for order in orders {
                self.carry_out(order);
            }
        }
        let Some(agent) = self.agent.take() else { return Ok(()) };
        let lived_long = now.saturating_sub(agent.since) >= PAUSE_MAX;
        self.next_agent.1 = if lived_long { PAUSE_MIN } else { self.next_agent.1 };
        if self.ending == Ending::No {
            say(&format!("the agent has ended, {how}; PostgreSQL is left as it is"));
        }
        self.next_agent_later(now);
        Ok(())
    }

    fn next_agent_later(&mut self, now: Duration) {
        let (_, pause) = self.next_agent;
        self.next_agent = (now + pause, (pause * 2).min(PAUSE_MAX));
    }

    /// The kernel may have no room for another process now, and the binary may be about to be replaced.
    fn begin_agent(&mut self, now: Duration) {
        if self.agent.is_some() || self.ending != Ending::No || self.next_agent.0 > now {
            return;
        }
        match Agent::start(&self.programs.agent, now) {
            Ok(agent) => {
                self.agent = Some(agent);
                self.report(self.state());
            }
            Err(error) => {
                say(&format!("the agent cannot be started, which is tried again: {error}"));
                self.next_agent_later(now);
            }
        }
    }

    fn state(&self) -> Report {
        self.postgres.map_or(Report::Stopped, |pid| Report::Running(pid.as_raw()))
    }

    fn obey(&mut self) {
        let orders = self.agent.as_mut().and_then(Agent::read).unwrap_or_default();
        for order in orders {
            self.carry_out(order);
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Start if self.postgres.is_none() && self.ending == Ending::No => self.start(),
            Order::Start => self.report(self.state()),
            Order::Stop(how) => self.stop(how),
            Order::Deadline(deadline) => {
                self.deadline = deadline;
                self.report(Report::Deadline(deadline));
            }
        }
    }

    fn start(&mut self) {
        let [program, arguments @ ..] = &self.programs.postgres[..] else { return };
        match Command::new(program).args(arguments).stdin(Stdio::null()).spawn() {
            Ok(child) => {
                self.postgres = Some(Pid::from_raw(child.id().cast_signed()));
                self.report(self.state());
            }
            Err(error) => {
                say(&format!("PostgreSQL cannot be started: {error}"));
                self.report(Report::Ended(Ended::Code(127)));
            }
        }
    }

    fn stop(&self, how: Stop) {
        if let Some(postgres) = self.postgres {
            // It has not been waited for, so the pid is still its own.
            let _ = kill(postgres, how.signal());
        }
    }

    /// The right to write is over: nothing below may go on, not even a backend whose postmaster has died (it would go on
    /// committing). Nothing is told before all of it has ended.
    fn end_all(&mut self) -> Result<(), Error> {
        below::end(None).kernel("end what is below it")?;
        (self.agent, self.postgres, self.deadline) = (None, None, None);
        self.next_agent = (Duration::ZERO, PAUSE_MIN);
        say("the deadline of the right to write has passed: everything was ended, and the agent starts anew");
        Ok(())
    }

    fn signal_agent(&self, signal: Signal) {
        if let Some(agent) = &self.agent {
            agent.signal(signal);
        }
    }

    fn report(&mut self, report: Report) {
        if let Some(agent) = &mut self.agent {
            agent.tell(report);
        }
    }
}

/// A line on the standard error, unless nobody reads there: the guard waits for no reader. Opened anew, so that it does not
/// wait and the others who write there do.
fn say(line: &str) {
    let own = File::options().append(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/proc/self/fd/2");
    let line: String = line.chars().take(LINE_CHARS_MAX).collect();
    let _ = own.and_then(|mut error| writeln!(error, "guard: {line}"));
}

/// Names what was asked of the kernel.
trait OfKernel<T> {
    fn kernel(self, what: &'static str) -> Result<T, Error>;
}

impl<T> OfKernel<T> for nix::Result<T> {
    fn kernel(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|errno| Error::Kernel(what, errno))
    }
}
