//! What runs beside one PostgreSQL and sees to it (design.md section 8): makes its data, writes its configuration, has it
//! started and stopped by the guard, and opens it where it is to be the primary. It decides nothing about the tree.
//!
//! PostgreSQL outlives it: an agent that begins anew is told by the guard what runs, and goes on from there.

mod configure;
mod data;
mod line;
pub mod orders;
mod programs;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::guard::words::{Order, Report, Stop};
pub use configure::NotConfigured;
pub use data::NoData;
use line::Reports;
use orders::{BadOrders, Orders};
pub use programs::Failed;
pub use server::NotOpen;

/// Between two looks at the orders and at PostgreSQL.
const LOOK: Duration = Duration::from_secs(1);
/// Between two attempts to start PostgreSQL, at first; doubled each time up to [`AGAIN_MAX`].
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two attempts; who has run for longer than this is started at once.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Why PostgreSQL does not run, or not as it was ordered. All of it is tried again.
#[derive(Debug, thiserror::Error)]
enum NotAsOrdered {
    #[error(transparent)]
    Data(#[from] NoData),
    #[error(transparent)]
    Program(#[from] Failed),
    #[error(transparent)]
    Configuration(#[from] NotConfigured),
    #[error(transparent)]
    Open(#[from] NotOpen),
}

/// Runs until it is told to stop, and until PostgreSQL has stopped then; or until the guard is gone.
///
/// # Errors
/// When the orders cannot be read at the start: without them nothing is known of this node.
pub async fn run(file: &Path, stop: CancellationToken) -> Result<(), BadOrders> {
    let orders = Orders::read(file)?;
    let (tell, news) = watch::channel(orders.clone());
    let following = tokio::spawn(follow(file.to_owned(), tell));
    let (reports, guard) = line::open();
    let mut agent = Agent {
        orders,
        guard,
        postgres: Postgres::Unknown,
        version: None,
        again: AGAIN_MIN,
        told: String::new(),
        open: false,
        reload_owed: false,
    };
    agent.live(reports, news, stop).await;
    following.abort();
    Ok(())
}

/// Reads the orders again and again. Those that cannot be understood change nothing: the last that could be stay in force.
async fn follow(file: PathBuf, tell: watch::Sender<Orders>) {
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        match Orders::read(&file) {
            Ok(orders) => {
                told.clear();
                tell.send_if_modified(|known| {
                    let differ = *known != orders;
                    *known = orders;
                    differ
                });
            }
            Err(why) => say_once(&mut told, &why),
        }
    }
}

/// What is known of PostgreSQL, and since when.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Postgres {
    /// The guard has not said yet.
    Unknown,
    /// Its start was ordered.
    Ordered,
    Runs(Pid, Instant),
    /// It does not run, and is not started before then.
    Stopped(Instant),
}

struct Agent {
    orders: Orders,
    guard: line::Orders,
    postgres: Postgres,
    /// The major version of the PostgreSQL of this image, once it was asked for.
    version: Option<u32>,
    /// The pause before the next start.
    again: Duration,
    /// What was said last of why something is not as ordered.
    told: String,
    /// Whether it was seen to be what it is to be.
    open: bool,
    /// Whether files were written that it has not read: by this agent, or perhaps by the one before.
    reload_owed: bool,
}

impl Agent {
    async fn live(&mut self, mut reports: Reports, mut news: watch::Receiver<Orders>, stop: CancellationToken) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What takes long, a clone most of all, is given up for whatever is heard meanwhile.
            let heard = tokio::select! {
                done = self.tend() => {
                    self.tell(done);
                    tokio::select! {
                        heard = hear(&mut reports, &mut news, &stop) => heard,
                        _ = look.tick() => continue,
                    }
                }
                heard = hear(&mut reports, &mut news, &stop) => heard,
            };
            match heard {
                Heard::Report(report) => self.reported(report),
                Heard::Orders(orders) => self.ordered(orders),
                Heard::Stop => return self.leave(reports).await,
                Heard::Nobody => return,
            }
        }
    }

    fn reported(&mut self, report: Report) {
        let now = Instant::now();
        self.postgres = match report {
            Report::Running(pid) => {
                self.reload_owed |= self.postgres == Postgres::Unknown;
                Postgres::Runs(Pid::from_raw(pid), now)
            }
            Report::Stopped => Postgres::Stopped(now),
            Report::Ended(how) => {
                let lived = matches!(self.postgres, Postgres::Runs(_, since) if now - since > AGAIN_MAX);
                self.again = if lived { AGAIN_MIN } else { self.again };
                let pause = if lived { Duration::ZERO } else { self.next_pause() };
                warn!(?pause, "PostgreSQL has ended, {how}");
                Postgres::Stopped(now + pause)
            }
            Report::Deadline(_) => return,
        };
        self.open = false;
    }

    fn ordered(&mut self, orders: Orders) {
        info!("there are new orders");
        (self.orders, self.open, self.again) = (orders, false, AGAIN_MIN);
        if let Postgres::Stopped(until) = &mut self.postgres {
            *until = Instant::now();
        }
    }

    async fn tend(&mut self) -> Result<(), NotAsOrdered> {
        match self.postgres {
            Postgres::Unknown | Postgres::Ordered => Ok(()),
            Postgres::Stopped(until) if until > Instant::now() => Ok(()),
            Postgres::Stopped(_) => self.start().await,
            Postgres::Runs(pid, _) => self.keep(pid).await,
        }
    }

    async fn start(&mut self) -> Result<(), NotAsOrdered> {
        data::ensure(&self.orders).await?;
        self.configure().await?;
        configure::as_standby(&self.orders.data_directory)?;
        info!(node = self.orders.node, "PostgreSQL is started");
        self.guard.give(Order::Start);
        (self.postgres, self.reload_owed) = (Postgres::Ordered, false);
        Ok(())
    }

    async fn keep(&mut self, postmaster: Pid) -> Result<(), NotAsOrdered> {
        self.reload_owed |= self.configure().await?;
        let open = if self.open { Ok(()) } else { server::open(&self.orders).await };
        // One that lets nobody in yet has no handler for the signal yet either, and would die of it.
        if self.reload_owed && !matches!(open, Err(NotOpen::NoAnswer(_))) {
            info!("the configuration is read anew");
            // The guard says when it has ended; until then the pid is its own.
            let _ = kill(postmaster, Signal::SIGHUP);
            self.reload_owed = false;
        }
        open?;
        self.open = true;
        Ok(())
    }

    async fn configure(&mut self) -> Result<bool, NotAsOrdered> {
        let version = match self.version {
            Some(version) => version,
            None => *self.version.insert(programs::version().await?),
        };
        Ok(configure::write(&self.orders, version)?)
    }

    fn tell(&mut self, done: Result<(), NotAsOrdered>) {
        match done {
            Ok(()) if self.open => self.told.clear(),
            // It waits, or is starting.
            Ok(()) | Err(NotAsOrdered::Open(NotOpen::NoAnswer(_))) => {}
            Err(why) => say_once(&mut self.told, &why),
        }
        let now = Instant::now();
        if matches!(self.postgres, Postgres::Stopped(until) if until <= now) {
            self.postgres = Postgres::Stopped(now + self.next_pause());
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.again;
        self.again = (pause * 2).min(AGAIN_MAX);
        pause
    }

    /// PostgreSQL is stopped first: whoever is left behind without an agent is nobody's.
    async fn leave(&mut self, mut reports: Reports) {
        info!("told to stop: PostgreSQL is stopped");
        while self.postgres == Postgres::Unknown {
            match reports.hear().await {
                Some(report) => self.reported(report),
                None => return,
            }
        }
        if matches!(self.postgres, Postgres::Stopped(_)) {
            return;
        }
        self.guard.give(Order::Stop(Stop::Fast));
        while let Some(report) = reports.hear().await {
            match report {
                // The order to start was on its way.
                Report::Running(_) => self.guard.give(Order::Stop(Stop::Fast)),
                Report::Stopped | Report::Ended(_) => return,
                Report::Deadline(_) => {}
            }
        }
    }
}

/// What an agent waits for.
enum Heard {
    Report(Report),
    Orders(Orders),
    Stop,
    /// The guard is gone.
    Nobody,
}

/// Nothing is lost when this is not waited for to its end.
async fn hear(reports: &mut Reports, news: &mut watch::Receiver<Orders>, stop: &CancellationToken) -> Heard {
    tokio::select! {
        report = reports.hear() => report.map_or(Heard::Nobody, Heard::Report),
        Ok(()) = news.changed() => Heard::Orders(news.borrow_and_update().clone()),
        () = stop.cancelled() => Heard::Stop,
    }
}

fn say_once(told: &mut String, why: &dyn std::error::Error) {
    let chain = std::iter::successors(Some(why), |why| why.source()).map(ToString::to_string);
    let text = chain.collect::<Vec<_>>().join(": ");
    if *told != text {
        error!("{text}");
        *told = text;
    }
}
