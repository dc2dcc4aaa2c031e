//! What runs beside one PostgreSQL and sees to it (design.md section 8): makes its data, writes its configuration, has it
//! started and stopped by the guard, and opens it where it is to be the primary. It decides nothing about the tree.
//!
//! PostgreSQL outlives it: an agent that begins anew is told by the guard what runs, and goes on from there.

mod application;
mod configure;
mod data;
mod files;
mod line;
mod orders;
mod port;
mod programs;
mod pulse;
mod refused;
mod roles;
mod server;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::guard::words::{Order, Report, Stop};
use crate::model::orders::{Account, Data, Orders};
pub use configure::NotConfigured;
pub use data::NoData;
use files::Files;
use line::Reports;
pub use orders::NoOrders;
pub use programs::Failed;
pub use server::NotOpen;

/// Between two looks at the orders and at PostgreSQL.
const LOOK: Duration = Duration::from_secs(1);
/// Between two attempts to start PostgreSQL, at first; doubled each time up to [`AGAIN_MAX`].
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Longest pause between two attempts; who has run for longer than this is started at once.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Where a node is on its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where its data are; made by the agent when it is not there. The folder that holds it is on the same volume.
    pub data: PathBuf,
    /// The folder of the socket, by which the agent speaks with its PostgreSQL.
    pub socket: PathBuf,
    /// The port of PostgreSQL.
    pub port: u16,
    /// The folder of its certificate (`tls.crt`, `tls.key`) and of the authority's (`ca.crt`); without one there is no TLS.
    pub certificates: Option<PathBuf>,
}

/// What an agent has to know before its first orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file of its orders: what was ordered last.
    pub orders: PathBuf,
    /// Where its node is.
    pub place: Place,
    /// Where orders are taken from the network, which needs certificates; nowhere, where whoever writes the file gives them.
    pub listen: Option<SocketAddr>,
    /// Where anybody is told whether PostgreSQL answers; nowhere, where nobody asks.
    pub health: Option<SocketAddr>,
}

/// Why an agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum NotBegun {
    /// Its orders.
    #[error(transparent)]
    Orders(#[from] NoOrders),
    /// There are none, and none can come.
    #[error("there are no orders in {0}, and nobody can give any: write them, or let it listen")]
    Nothing(PathBuf),
    /// The address.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// Certificates.
    #[error("to listen on {0} needs certificates")]
    NoCertificates(SocketAddr),
}

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
/// [`NotBegun`] when it cannot begin.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), NotBegun> {
    let Settings { orders: file, place, listen, health } = settings;
    let orders = match orders::read(&file) {
        // Whoever can be given others waits for them.
        Err(why) if listen.is_some() => {
            error!("{}", chain(&why));
            None
        }
        read => read?,
    };
    if orders.is_none() && listen.is_none() {
        return Err(NotBegun::Nothing(file));
    }
    // What is there is told before the first orders, as they depend on it.
    let data = data::look(&place.data).await.unwrap_or_else(|why| {
        error!("{}", chain(&why));
        Data::Unknown
    });
    let (account, told) = watch::channel(Account { data, ..Account::default() });
    let (tell, news) = watch::channel(orders.clone());
    let hurry = Arc::new(Notify::new());
    if let Some(address) = listen {
        let certificates = place.certificates.clone().ok_or(NotBegun::NoCertificates(address))?;
        let listener = TcpListener::bind(address).await.map_err(|error| NotBegun::Listen(address, error))?;
        let desk = port::Desk { orders: file.clone(), news: Arc::clone(&hurry), account: told };
        tokio::spawn(port::answer(listener, certificates, desk));
    }
    if let Some(address) = health {
        let listener = TcpListener::bind(address).await.map_err(|error| NotBegun::Listen(address, error))?;
        tokio::spawn(pulse::answer(listener, place.clone()));
    }
    tokio::spawn(follow(file, hurry, tell));
    let (reports, guard) = line::open();
    let mut agent = Agent {
        place,
        orders,
        account,
        guard,
        postgres: Postgres::Unknown,
        files: Files::default(),
        again: AGAIN_MIN,
        told: String::new(),
        said: String::new(),
        open: false,
        looks_for_restart: 0,
        restarts: false,
    };
    agent.live(reports, news, stop).await;
    Ok(())
}

/// Reads the orders again and again. Those that cannot be understood change nothing: the last that could be stay in force.
async fn follow(file: PathBuf, hurry: Arc<Notify>, tell: watch::Sender<Option<Orders>>) {
    let mut told = String::new();
    loop {
        let _ = timeout(LOOK, hurry.notified()).await;
        match orders::read(&file) {
            // A file that is gone changes nothing either.
            Ok(None) => {}
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
    place: Place,
    /// None before the first have come.
    orders: Option<Orders>,
    account: watch::Sender<Account>,
    guard: line::Orders,
    postgres: Postgres,
    files: Files,
    /// The pause before the next start.
    again: Duration,
    /// What was said last of why something is not as ordered.
    told: String,
    /// What is not as it is to be though it is open.
    said: String,
    /// Whether it was seen to be what it is to be.
    open: bool,
    /// At how many looks to come it is asked what it takes at its next start only: it takes a moment to know.
    looks_for_restart: u8,
    /// Whether PostgreSQL was told to stop, to be started anew.
    restarts: bool,
}

impl Agent {
    async fn live(&mut self, mut reports: Reports, mut news: watch::Receiver<Option<Orders>>, stop: CancellationToken) {
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
                Heard::Orders(orders) => self.ordered(*orders),
                Heard::Stop => return self.leave(reports).await,
                Heard::Nobody => return,
            }
        }
    }

    fn reported(&mut self, report: Report) {
        let now = Instant::now();
        self.postgres = match report {
            Report::Running(pid) => {
                // Perhaps the agent before wrote what it has not read.
                if self.postgres == Postgres::Unknown {
                    self.files.may_be_unread();
                }
                Postgres::Runs(Pid::from_raw(pid), now)
            }
            Report::Stopped => Postgres::Stopped(now),
            Report::Ended(how) => {
                let lived = matches!(self.postgres, Postgres::Runs(_, since) if now - since > AGAIN_MAX);
                let came_up = self.open || lived || self.restarts;
                self.files.ended(came_up);
                if !came_up {
                    self.told = format!("PostgreSQL has ended, {how}, before it answered. Read the log of its pod");
                }
                self.again = if lived { AGAIN_MIN } else { self.again };
                let pause = if lived || self.restarts { Duration::ZERO } else { self.next_pause() };
                if self.restarts {
                    info!("PostgreSQL has ended, {how}, and is started anew");
                } else {
                    warn!(?pause, "PostgreSQL has ended, {how}");
                }
                Postgres::Stopped(now + pause)
            }
            Report::Deadline(_) => return,
        };
        (self.open, self.restarts) = (false, false);
        let starts_in_vain = self.files.starts_in_vain();
        self.account.send_modify(|account| {
            // Whatever starts next has read all.
            account.restart_for.clear();
            (account.as_ordered, account.postmaster, account.starts_in_vain) = (false, None, starts_in_vain);
        });
    }

    fn ordered(&mut self, orders: Orders) {
        info!("there are new orders");
        // At once: what they ask for may take hours, and whoever gave them asks whether they are followed.
        self.account.send_modify(|account| {
            (account.orders, account.as_ordered) = (Some(orders.clone()), false);
        });
        let others = self.orders.as_ref().is_none_or(|known| known.parameters != orders.parameters);
        (self.orders, self.open, self.again) = (Some(orders), false, AGAIN_MIN);
        self.files.forget(others);
        if let Postgres::Stopped(until) = &mut self.postgres {
            *until = Instant::now();
        }
    }

    async fn tend(&mut self) -> Result<(), NotAsOrdered> {
        if self.account.borrow().data == Data::Unknown {
            let data = data::look(&self.place.data).await?;
            self.account.send_modify(|account| account.data = data);
        }
        let Some(orders) = self.orders.clone() else { return Ok(()) };
        match self.postgres {
            Postgres::Unknown | Postgres::Ordered => Ok(()),
            Postgres::Stopped(until) if until > Instant::now() => Ok(()),
            Postgres::Stopped(_) => self.start(&orders).await,
            Postgres::Runs(pid, _) => self.keep(&orders, pid).await,
        }
    }

    async fn start(&mut self, orders: &Orders) -> Result<(), NotAsOrdered> {
        let data = data::ensure(&self.place.data, orders).await?;
        self.account.send_modify(|account| account.data = data);
        self.files.of_other_data();
        self.files.write(&self.place, orders, false).await?;
        configure::as_standby(&self.place.data)?;
        // What it reads at its start is what it has.
        self.files.look_at_certificates(&self.place);
        info!(node = orders.node, "PostgreSQL is started");
        self.guard.give(Order::Start);
        self.postgres = Postgres::Ordered;
        self.files.were_read();
        self.account.send_modify(|account| account.restart_for.clear());
        Ok(())
    }

    async fn keep(&mut self, orders: &Orders, postmaster: Pid) -> Result<(), NotAsOrdered> {
        let open = if self.open { Ok(None) } else { server::open(&self.place, orders).await };
        let answers = !matches!(open, Err(NotOpen::NoAnswer(_)));
        self.files.write(&self.place, orders, answers).await?;
        self.files.look_at_certificates(&self.place);
        // One that lets nobody in yet has no handler for the signal yet either, and would die of it.
        if self.files.are_unread() && answers {
            self.files.judge(&self.place, orders, server::refused_lines(&self.place).await?).await?;
            info!("the configuration is read anew");
            // The guard says when it has ended; until then the pid is its own.
            let _ = kill(postmaster, Signal::SIGHUP);
            self.files.were_read();
            self.looks_for_restart = 3;
        } else if answers && self.looks_for_restart > 0 {
            self.looks_for_restart -= 1;
            let names = server::restart_for(&self.place).await?;
            self.account.send_modify(|account| account.restart_for = names);
        }
        let said = open?;
        if !self.open {
            self.said = said.unwrap_or_default();
        }
        if !self.open {
            let which = postmaster_of(&self.place, postmaster);
            self.account.send_modify(|account| (account.postmaster, account.starts_in_vain) = (which, 0));
        }
        self.open = true;
        self.restart(orders).await;
        Ok(())
    }

    /// Stops PostgreSQL where this start of it is to be followed by another.
    async fn restart(&mut self, orders: &Orders) {
        let is_this = orders.restart.is_some() && orders.restart == self.account.borrow().postmaster;
        if !is_this || self.restarts {
            return;
        }
        // The less there is to write at its end, the shorter it is away.
        if let Err(why) = server::checkpoint(&self.place).await {
            warn!("{}", chain(&why));
        }
        info!("PostgreSQL is stopped, to be started anew as ordered");
        self.restarts = true;
        self.guard.give(Order::Stop(Stop::Fast));
    }

    fn tell(&mut self, done: Result<(), NotAsOrdered>) {
        match done {
            Ok(()) if self.open || self.orders.is_none() => self.told.clear(),
            // It waits, or is starting.
            Ok(()) | Err(NotAsOrdered::Open(NotOpen::NoAnswer(_))) => {}
            Err(why) => say_once(&mut self.told, &why),
        }
        let trouble = [self.told.clone(), self.files.told(), self.said.clone()];
        let trouble = trouble.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        // Before it was asked what it has to be started anew for, nobody knows what it lacks.
        let (orders, as_ordered) = (&self.orders, self.open && self.looks_for_restart == 0 && !self.restarts);
        self.account.send_modify(|account| {
            (account.orders, account.as_ordered, account.trouble) = (orders.clone(), as_ordered, trouble);
        });
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
    Orders(Box<Orders>),
    Stop,
    /// The guard is gone.
    Nobody,
}

/// Nothing is lost when this is not waited for to its end.
async fn hear(reports: &mut Reports, news: &mut watch::Receiver<Option<Orders>>, stop: &CancellationToken) -> Heard {
    tokio::select! {
        report = reports.hear() => report.map_or(Heard::Nobody, Heard::Report),
        Some(orders) = changed(news) => Heard::Orders(Box::new(orders)),
        () = stop.cancelled() => Heard::Stop,
    }
}

async fn changed(news: &mut watch::Receiver<Option<Orders>>) -> Option<Orders> {
    news.changed().await.ok()?;
    news.borrow_and_update().clone()
}

/// Which start of PostgreSQL it is whose first process has this pid: when it began beside it, as pids come again.
fn postmaster_of(place: &Place, pid: Pid) -> Option<String> {
    let text = std::fs::read_to_string(place.data.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let is_it = lines.next()?.trim() == pid.to_string();
    lines.nth(1).filter(|_| is_it).map(|began| format!("{pid}-{}", began.trim()))
}

/// An error with all that it comes from.
fn chain(why: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(why), |why| why.source()).map(ToString::to_string);
    chain.collect::<Vec<_>>().join(": ")
}

fn say_once(told: &mut String, why: &dyn std::error::Error) {
    let text = chain(why);
    if *told != text {
        error!("{text}");
        *told = text;
    }
}
