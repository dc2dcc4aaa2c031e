//! The first process of a node's container, over a real PostgreSQL and an agent that the test leads by the hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::guarded::Guarded;
use support::owner::{give, own_dir};
use support::postgres::{Tree, eventually, run};
use waltree::guard::since_boot;

const NODE: &str = "core-1";

/// A guard whose agent the test leads.
struct Led {
    guarded: Guarded,
    folder: PathBuf,
    orders: File,
}

impl Led {
    /// `stop_after` is in seconds.
    fn start(tree: &Tree, stop_after: u32) -> Self {
        let data = tree.data(NODE).to_owned();
        let folder = data.with_file_name("guarded");
        own_dir(&folder);
        let (agent, orders) = (folder.join("agent.py"), folder.join("orders"));
        fs::write(&agent, include_str!("guard/agent.py")).unwrap();
        run(Command::new("mkfifo").arg(&orders));
        give(&agent);
        give(&orders);
        let (agent, stop_after) = (agent.to_str().unwrap(), stop_after.to_string());
        let agent = ["--agent", "python3", "--agent", agent, "--agent", folder.to_str().unwrap()];
        let arguments = [&["--stop-after-seconds", stop_after.as_str()], &agent[..]].concat();
        let guarded = Guarded::start(&folder, &data, &arguments, None, &[]);
        let orders = OpenOptions::new().read(true).write(true).open(orders).unwrap();
        Self { guarded, folder, orders }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// What agents heard so far: the pid of each and the report.
    fn reports(&self) -> Vec<(u32, String)> {
        let text = fs::read_to_string(self.folder.join("reports")).unwrap_or_default();
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let split = |line: &str| line.split_once(' ').map(|(pid, report)| (pid.parse().unwrap(), report.to_owned()));
        whole.lines().filter_map(split).collect()
    }

    /// Waits for the report of this number, from 0 on, and gives the pid of the agent that heard it and its words.
    async fn report(&self, number: usize) -> (u32, String) {
        eventually(&format!("report {number} of the guard"), async || self.reports().len() > number).await;
        self.reports().swap_remove(number)
    }
}

/// A server's data, and a guard over it whose agent has heard that nothing runs, and has started PostgreSQL.
async fn running(stop_after: u32) -> (Tree, Led, u32) {
    let mut tree = Tree::start(None);
    tree.primary(NODE).await;
    tree.stop(NODE);
    let mut led = Led::start(&tree, stop_after);
    assert_eq!(led.report(0).await.1, "stopped");
    led.order("start");
    let (_, report) = led.report(1).await;
    let postmaster = report.strip_prefix("running ").unwrap().parse().unwrap();
    eventually("the server lets us in", async || tree.connect(NODE).await.is_ok()).await;
    (tree, led, postmaster)
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn an_agent_that_is_killed_is_followed_by_another_and_postgresql_does_not_notice() {
    let (tree, mut led, postmaster) = running(20).await;
    let session = tree.connect(NODE).await.unwrap();
    let (first, _) = led.report(0).await;

    led.guarded.signal("KILL", first);

    let (second, report) = led.report(2).await;
    assert_ne!(first, second);
    assert_eq!(report, format!("running {postmaster}"), "the next agent is told what runs");
    session.simple_query("SELECT 1").await.expect("the session of before goes on");
    led.order("start");
    assert_eq!(led.report(3).await, (second, format!("running {postmaster}")), "what runs is not started again");
    eventually("nobody is left unburied", async || {
        let stat = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        led.guarded.below().iter().all(|pid| !stat(pid).contains(") Z "))
    })
    .await;
}

#[tokio::test]
async fn told_to_end_it_lets_the_agent_stop_postgresql_and_ends_when_both_have() {
    let (_tree, mut led, postmaster) = running(600).await;

    led.guarded.signal("TERM", led.guarded.pid());

    assert!(led.guarded.ended().await.success());
    assert_eq!(led.report(2).await.1, "ended code 0");
    assert_eq!(led.guarded.says("Database cluster state"), "shut down");
    assert!(!is_there(postmaster));
}

#[tokio::test]
async fn postgresql_is_stopped_cleanly_where_the_agent_does_not_see_to_it() {
    let (_tree, mut led, _) = running(1).await;
    let (agent, _) = led.report(0).await;
    fs::write(led.folder.join("careless"), "").unwrap();

    led.guarded.signal("TERM", led.guarded.pid());

    assert!(led.guarded.ended().await.success());
    assert_eq!(led.guarded.says("Database cluster state"), "shut down");
    assert!(!is_there(agent), "it would have gone on for ever");
}

#[tokio::test]
async fn postgresql_that_ends_by_itself_is_reported_and_started_again_when_it_is_ordered() {
    let (tree, mut led, postmaster) = running(20).await;

    led.guarded.signal("KILL", postmaster);

    assert_eq!(led.report(2).await.1, "ended signal 9");
    led.order("start");
    let (_, report) = led.report(3).await;
    assert!(report.starts_with("running "), "{report}");
    eventually("the server lets us in", async || tree.connect(NODE).await.is_ok()).await;
}

/// A backend that computes does not see that its postmaster has gone, and commits what it has begun.
async fn computing(tree: &Tree) -> u32 {
    let session = tree.connect(NODE).await.unwrap();
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    tokio::spawn(async move { session.batch_execute("DO 'BEGIN LOOP END LOOP; END'").await });
    let computes = format!("SELECT state FROM pg_stat_activity WHERE pid = {pid} AND query LIKE 'DO %'");
    tree.until(NODE, &computes, "active").await;
    pid.cast_unsigned()
}

#[tokio::test]
async fn a_backend_does_not_outlive_its_postmaster() {
    let (tree, led, postmaster) = running(20).await;
    let backend = computing(&tree).await;

    led.guarded.signal("KILL", postmaster);

    assert_eq!(led.report(2).await.1, "ended signal 9");
    assert!(!is_there(backend), "it went on when the end of PostgreSQL was told");
    assert_eq!(led.guarded.below().len(), 1, "the agent is left alone");
}

#[tokio::test]
async fn a_deadline_that_passes_ends_everything_and_an_agent_begins_anew() {
    let (tree, mut led, postmaster) = running(20).await;
    let backend = computing(&tree).await;
    let (first, _) = led.report(0).await;

    led.order(&format!("deadline {}", since_boot().unwrap().as_millis()));

    eventually("another agent is told that nothing runs", async || {
        led.reports().last().is_some_and(|(agent, report)| *agent != first && report == "stopped")
    })
    .await;
    assert!([first, postmaster, backend].iter().all(|pid| !is_there(*pid)));
}

#[tokio::test]
async fn a_deadline_that_is_moved_on_ends_nothing() {
    let (tree, mut led, postmaster) = running(20).await;
    let session = tree.connect(NODE).await.unwrap();
    let first = since_boot().unwrap() + Duration::from_secs(4);
    let [first, second] = [first, first + Duration::from_secs(600)].map(|at| format!("deadline {}", at.as_millis()));

    led.order(&format!("{first}\n{second}"));

    assert_eq!(led.report(2).await.1, first, "it is told that the deadline is set");
    assert_eq!(led.report(3).await.1, second);
    let passed = since_boot().unwrap() + Duration::from_secs(4);
    eventually("the first deadline has passed", async || since_boot().unwrap() > passed).await;
    led.order("start");
    assert_eq!(led.report(4).await.1, format!("running {postmaster}"), "it runs on");
    session.simple_query("SELECT 1").await.expect("the session of before goes on");
}

#[tokio::test]
async fn an_agent_that_says_what_is_no_order_makes_way_for_another() {
    let (_tree, mut led, postmaster) = running(20).await;
    let (first, _) = led.report(0).await;

    led.order("promote yourself");

    let (second, report) = led.report(2).await;
    assert_ne!(first, second);
    assert_eq!(report, format!("running {postmaster}"));
}
