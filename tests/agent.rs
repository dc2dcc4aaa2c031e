//! The agent of a node, below its guard: from nothing to a running server, and whatever happens to either.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use support::guarded::Guarded;
use support::owner::{give, own_dir};
use support::postgres::{connect, eventually, free_port};
use tokio_postgres::Client;

/// Nodes of one tree, each with a folder for its data and its orders.
struct Nodes {
    folder: PathBuf,
}

struct Node {
    guarded: Guarded,
    name: String,
    folder: PathBuf,
    port: u16,
}

impl Nodes {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("waltree-agent-{}-{count}", std::process::id()));
        own_dir(&folder);
        Self { folder }
    }

    /// Starts a node with these orders beside those of its places.
    fn start(&self, name: &str, orders: &str) -> Node {
        let (folder, port) = (self.folder.join(name), free_port());
        own_dir(&folder);
        write_orders(&folder, name, orders);
        let guarded = guard(&folder, port);
        Node { guarded, name: name.to_owned(), folder, port }
    }

    async fn primary(&self) -> Node {
        let primary = self.start("core-1", "role: Primary");
        primary.until("pg_is_in_recovery()", "false").await;
        primary
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn guard(folder: &Path, port: u16) -> Guarded {
    let port = port.to_string();
    let [orders, data] = ["orders.yaml", "pg"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    let places = [("ORDERS", orders.as_str()), ("DATA", &data), ("SOCKET", folder.to_str().unwrap()), ("PORT", &port)];
    let places = places.map(|(name, place)| (format!("WALTREE_{name}"), place));
    Guarded::start(folder, Path::new(&data), &[], None, &places.each_ref().map(|(name, place)| (name.as_str(), *place)))
}

fn write_orders(folder: &Path, name: &str, orders: &str) {
    let text = format!(
        "node: {name}\nchildrenMax: 8\n\
         hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']\n{orders}\n"
    );
    let file = folder.join("orders.yaml");
    // In one step: the agent looks every second.
    let new = folder.join("orders.new");
    fs::write(&new, text).unwrap();
    give(&new);
    fs::rename(new, file).unwrap();
}

impl Node {
    fn source(&self) -> String {
        format!("{{node: {}, conninfo: 'host=127.0.0.1 port={} user=postgres'}}", self.name, self.port)
    }

    /// The orders of a standby that streams from this one.
    fn child(&self) -> String {
        let route = format!("host=127.0.0.1 port={} user=postgres", self.port);
        format!("role: Standby\nsources: [{}]\nroute: '{route}'", self.source())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn reordered(&self, orders: &str) {
        write_orders(&self.folder, &self.name, orders);
    }

    async fn session(&self) -> Client {
        eventually(&format!("{} lets us in", self.name), async || connect(self.port).await.is_ok()).await;
        connect(self.port).await.unwrap()
    }

    /// Waits until an expression is this.
    async fn until(&self, expression: &str, expected: &str) {
        let what = format!("{}: {expression} is {expected}", self.name);
        eventually(&what, async || {
            let Ok(session) = connect(self.port).await else { return false };
            let row = session.query_one(&format!("SELECT ({expression})::text"), &[]).await;
            row.is_ok_and(|row| row.get::<_, Option<&str>>(0) == Some(expected))
        })
        .await;
    }

    async fn does(&self, sql: &str) {
        self.session().await.batch_execute(sql).await.unwrap();
    }
}

#[tokio::test]
async fn from_nothing_a_primary_begins_and_a_relay_and_a_leaf_are_cloned_each_from_the_one_above() {
    let nodes = Nodes::new();
    let primary = nodes.primary().await;
    primary.does("CREATE TABLE kept AS SELECT 42 AS row").await;

    let relay = nodes.start("eu-1", &primary.child());
    relay.until("SELECT row FROM kept", "42").await;
    // The primary is the second of those it may be cloned from, and is not asked.
    let sources = format!("sources: [{}, {}]", relay.source(), primary.source());
    let leaf = nodes.start("eu-2", &relay.child().replace(&format!("sources: [{}]", relay.source()), &sources));

    leaf.until("SELECT row FROM kept", "42").await;
    relay.until("SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE active", "eu_2").await;
    primary.until("SELECT string_agg(slot_name, ' ') FROM pg_replication_slots", "eu_1").await;
    leaf.until("pg_is_in_recovery()", "true").await;
    leaf.until("current_setting('primary_slot_name')", "eu_2").await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_started_again_with_its_data_and_its_role() {
    let nodes = Nodes::new();
    let primary = nodes.primary().await;
    primary.does("CREATE TABLE kept AS SELECT 42 AS row").await;
    let before = fs::read_to_string(primary.folder.join("pg/postmaster.pid")).unwrap();
    let postmaster: u32 = before.lines().next().unwrap().parse().unwrap();

    primary.guarded.signal("KILL", postmaster);

    eventually("another postmaster", async || {
        let now = fs::read_to_string(primary.folder.join("pg/postmaster.pid"));
        now.is_ok_and(|now| now.lines().next() != before.lines().next())
    })
    .await;
    primary.until("pg_is_in_recovery()", "false").await;
    primary.until("SELECT row FROM kept", "42").await;
}

#[tokio::test]
async fn an_empty_volume_of_a_tree_that_has_rows_somewhere_is_not_made_a_new_cluster() {
    let nodes = Nodes::new();

    let node = nodes.start("core-1", "role: Primary\nsystemIdentifier: '7000000000000000001'");

    // It looks again and again; with a source to clone from it goes on.
    let other = nodes.start("core-2", "role: Primary");
    other.until("pg_is_in_recovery()", "false").await;
    assert!(node.log().contains("no new cluster is made in their place"));
    assert!(!node.folder.join("pg").exists() && !node.folder.join("pg.part").exists());
    node.reordered(&other.child());
    node.until("pg_is_in_recovery()", "true").await;
}

#[tokio::test]
async fn data_of_another_tree_are_neither_started_nor_removed() {
    let nodes = Nodes::new();
    let mut node = nodes.primary().await;
    node.does("CREATE TABLE theirs AS SELECT 1 AS row").await;
    let identifier = node.guarded.says("Database system identifier");
    node.guarded.signal("TERM", node.guarded.pid());
    assert!(node.guarded.ended().await.success());

    node.reordered("role: Primary\nsystemIdentifier: '7000000000000000001'");
    node.guarded = guard(&node.folder, node.port);

    let stands = nodes.start("core-2", "role: Primary");
    stands.until("pg_is_in_recovery()", "false").await;
    assert!(connect(node.port).await.is_err(), "it was not started");
    assert_eq!(node.guarded.says("Database system identifier"), identifier, "and it is there");
    node.reordered(&format!("role: Primary\nsystemIdentifier: '{identifier}'"));
    node.until("SELECT row FROM theirs", "1").await;
}

#[tokio::test]
async fn a_clone_that_was_cut_short_is_begun_anew_by_the_next_agent_alone() {
    let nodes = Nodes::new();
    let primary = nodes.primary().await;
    primary.does("CREATE TABLE wide AS SELECT repeat('x', 1000) FROM generate_series(1, 200000)").await;
    let node = nodes.start("eu-1", &primary.child());
    let session = primary.session().await;
    // In the midst of it, when the WAL comes by a child of its own.
    let cloning = "SELECT EXISTS (SELECT FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%')
                      AND EXISTS (SELECT FROM pg_replication_slots WHERE active)";
    eventually("it is being cloned", async || session.query_one(cloning, &[]).await.unwrap().get(0)).await;
    assert!(!node.folder.join("pg").exists());
    let agent = *node.guarded.below().first().unwrap();

    node.guarded.signal("KILL", agent);

    node.until("SELECT count(*) FROM wide", "200000").await;
    assert!(!node.folder.join("pg.part").exists());
}

#[tokio::test]
async fn a_server_of_somebody_else_is_not_cloned_from_and_nothing_is_left_on_it() {
    let nodes = Nodes::new();
    let (ours, theirs) = (nodes.primary().await, nodes.start("core-9", "role: Primary"));
    theirs.until("pg_is_in_recovery()", "false").await;
    let identifier = ours.guarded.says("Database system identifier");
    let sources = format!("sources: [{}, {}]\nsystemIdentifier: '{identifier}'", theirs.source(), ours.source());

    let node = nodes.start("eu-1", &ours.child().replace(&format!("sources: [{}]", ours.source()), &sources));

    node.until("pg_is_in_recovery()", "true").await;
    assert_eq!(node.guarded.says("Database system identifier"), identifier);
    theirs.until("SELECT count(*) FROM pg_replication_slots", "0").await;
}

#[tokio::test]
async fn a_parameter_that_is_ordered_is_taken_in_and_one_that_is_not_ours_to_give_changes_nothing() {
    let nodes = Nodes::new();
    let primary = nodes.primary().await;

    primary.reordered("role: Primary\nparameters: {work_mem: 7MB}");
    primary.until("current_setting('work_mem')", "7MB").await;
    primary.reordered("role: Primary\nparameters: {work_mem: 9MB, port: '1'}");
    eventually("it is said why not", async || primary.log().contains("\\\"port\\\" is set by waltree")).await;
    primary.reordered("role: Primary\nparameters: {work_mem: 7MB, maintenance_work_mem: 70MB}");

    primary.until("current_setting('maintenance_work_mem')", "70MB").await;
    primary.until("current_setting('work_mem')", "7MB").await;
    primary.until("current_setting('port')", &primary.port.to_string()).await;
}

#[tokio::test]
async fn told_to_stop_it_stops_postgresql_cleanly() {
    let nodes = Nodes::new();
    let mut primary = nodes.primary().await;

    primary.guarded.signal("TERM", primary.guarded.pid());

    assert!(primary.guarded.ended().await.success());
    assert_eq!(primary.guarded.says("Database cluster state"), "shut down");
}
