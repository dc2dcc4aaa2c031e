//! Minutes of all that a busy fleet does to itself: bursts of writers at full speed, VACUUM and now and then VACUUM FULL,
//! indexes made and dropped, and on the leaves long queries that are in conflict with replay. Nothing fails, so nobody is
//! to be moved, and whatever is told has to be true.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;
use waltree::api::ReplicaTopologyStatus;

use super::support::kube::ApiServer;
use super::support::operator::install;
use super::support::postgres::Tree;
use super::support::process::Process;
use super::support::topology::{self, CORE, EU, NAMESPACE, nine_with};
use super::support::witness::Witness;
use super::{SET_ROUTES, build};

/// Nine servers that are overwritten again and again on one disk.
const SETTINGS: &str = "max_wal_size = 256MB\nmin_wal_size = 80MB\nwal_keep_size = 64MB";
/// Writers, each with rows of its own.
const WRITERS: usize = 3;
/// A burst, and what is between two.
const BURST: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(10);
/// Rows that a writer keeps.
const ROWS: usize = 100_000;
/// Between two of the kind.
const VACUUM_EVERY: Duration = Duration::from_secs(15);
const VACUUM_FULL_EVERY: Duration = Duration::from_secs(75);
const INDEX_EVERY: Duration = Duration::from_secs(40);
/// How long a query on a leaf lasts; PostgreSQL cancels it when it has held up replay for 30 s.
const QUERY_SECONDS: u32 = 45;
/// Between two looks at the status.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs it for so many minutes.
pub(super) async fn run(minutes: u32) {
    let tree = nine_with(SETTINGS).await;
    tree.sql(CORE[0], "CREATE TABLE heavy (writer int, a bigserial, b text); CREATE INDEX ON heavy (writer, a)").await;
    let server = ApiServer::start();
    install(&server);
    topology::apply(&server, &tree, "automation: Heal");
    let operator = Process::start(&server, "first").await;
    topology::converged(&server).await;
    operator.comes_to_rest().await;
    let moves = operator.figure(SET_ROUTES).await;
    let written = tree.value(CORE[0], "SELECT pg_current_wal_flush_lsn()").await;
    let witness = Witness::of(&tree, &[&CORE[..], &EU[..]].concat()).await;
    let load = load(&tree).await;
    let told = looks(&server, Duration::from_secs(60) * minutes).await;
    drop(load);
    let seen = witness.tell().await;
    let megabytes = format!("SELECT ((pg_current_wal_flush_lsn() - '{written}') / 1e6)::int");
    println!(
        "{minutes} min of heavy writes, vacuums, indexes and long queries on nine servers, nothing fails; {}",
        build()
    );
    println!("WAL written, MB       {}", tree.value(CORE[0], &megabytes).await);
    println!("routes set            {}", operator.figure(SET_ROUTES).await - moves);
    println!("walreceivers changed  {} (in {} looks)", seen.reconnects(), seen.samples);
    for (node, upstreams) in seen.upstreams.iter().filter(|(_, upstreams)| upstreams.len() > 1) {
        println!("  {node} received from {}", upstreams.join(", "));
    }
    told.print();
    for (reason, note) in events(&server).await {
        println!("  event {reason}: {note}");
    }
}

/// What the status told, and in how many looks.
#[derive(Default)]
struct Told {
    looks: u32,
    nodes: BTreeMap<(String, String), Spell>,
    conditions: BTreeMap<(String, String), Spell>,
}

/// How often something was told, its longest time without a break, and what was said.
#[derive(Default)]
struct Spell {
    looks: u32,
    longest: u32,
    now: u32,
    last: u32,
    message: String,
}

impl Told {
    fn look(&mut self, status: &ReplicaTopologyStatus) {
        self.looks += 1;
        for node in &status.nodes {
            if let Some(reason) = &node.reason {
                let spell = self.nodes.entry((reason.clone(), node.name.clone())).or_default();
                spell.add(self.looks, node.message.as_deref().unwrap_or_default());
            }
        }
        let expected = |kind: &str| if kind == "Progressing" { "False" } else { "True" };
        for condition in status.conditions.iter().filter(|c| c.status != expected(&c.type_)) {
            let key = (format!("{}={}", condition.type_, condition.status), condition.reason.clone());
            self.conditions.entry(key).or_default().add(self.looks, &condition.message);
        }
    }

    fn print(&self) {
        println!("what the status told, in {} looks, one a second:", self.looks);
        for ((kind, what), spell) in self.nodes.iter().chain(&self.conditions) {
            println!("  {kind} {what}: {} looks, {} in a row; {}", spell.looks, spell.longest, spell.message);
        }
    }
}

impl Spell {
    fn add(&mut self, look: u32, message: &str) {
        self.now = if self.last + 1 == look { self.now + 1 } else { 1 };
        (self.last, self.looks) = (look, self.looks + 1);
        self.longest = self.longest.max(self.now);
        message.clone_into(&mut self.message);
    }
}

async fn looks(server: &ApiServer, time: Duration) -> Told {
    let (mut told, end) = (Told::default(), Instant::now() + time);
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    while ticks.tick().await < end {
        told.look(&topology::get(server).await.status.unwrap_or_default());
    }
    told
}

async fn events(server: &ApiServer) -> Vec<(String, String)> {
    let events: Api<Event> = Api::namespaced(server.client().await, NAMESPACE);
    let events = events.list(&ListParams::default()).await.unwrap();
    events.items.into_iter().filter_map(|event| Some((event.reason?, event.note?))).collect()
}

/// All of the load; it ends when dropped.
async fn load(tree: &Tree) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(write(tree.connect(CORE[0]).await.unwrap(), writer));
    }
    let now_and_then = [
        (VACUUM_EVERY, "VACUUM heavy"),
        (VACUUM_FULL_EVERY, "VACUUM FULL heavy"),
        (INDEX_EVERY, "DROP INDEX IF EXISTS heavy_b; CREATE INDEX heavy_b ON heavy (md5(b))"),
    ];
    for (every, sql) in now_and_then {
        tasks.spawn(again(tree.connect(CORE[0]).await.unwrap(), every, sql));
    }
    for leaf in &EU[2..] {
        tasks.spawn(read(tree.connect(leaf).await.unwrap()));
    }
    tasks
}

/// Writes at full speed in bursts, and removes what is old.
async fn write(client: Client, writer: usize) {
    let insert = format!(
        "INSERT INTO heavy (writer, b) SELECT {writer}, repeat(md5(i::text), 6) FROM generate_series(1, 1000) i"
    );
    let remove = format!(
        "DELETE FROM heavy WHERE writer = {writer} AND a < (SELECT max(a) FROM heavy WHERE writer = {writer}) - {}",
        ROWS * WRITERS
    );
    loop {
        let end = Instant::now() + BURST;
        while Instant::now() < end {
            // VACUUM FULL and an index may be in the way, and then it waits.
            client.batch_execute(&insert).await.unwrap();
            client.batch_execute(&remove).await.unwrap();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn again(client: Client, every: Duration, sql: &'static str) {
    loop {
        tokio::time::sleep(every).await;
        for statement in sql.split("; ") {
            client.batch_execute(statement).await.unwrap();
        }
    }
}

/// A query on a leaf that sees for long what was there when it began. That it is cancelled is everyday.
async fn read(client: Client) {
    let query = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM heavy; SELECT pg_sleep({QUERY_SECONDS}); \
         SELECT count(*) FROM heavy; COMMIT"
    );
    while !client.is_closed() {
        let _ = client.batch_execute(&query).await;
        let _ = client.batch_execute("ROLLBACK").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
