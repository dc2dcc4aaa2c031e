//! Bad days of a tree of nine, on real servers: relays die, the operator dies, the API server dies, and what is left is
//! the declared tree, with the rows of the primary on every server. Nothing here is asserted on a time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "the seed, and what it made happen, are told when the test fails")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use kube::Api;
use kube::api::DeleteParams;
use support::kube::ApiServer;
use support::operator::{Operator, install};
use support::postgres::{Tree, eventually};
use support::process::Process;
use support::readers::Writer;
use support::topology::{self, CORE, EU, nine};
use support::witness::{Scene, Witness, events, rows_arrive, same_rows};
use tokio::time::Instant;
use waltree::api::ReplicaTopology;

const ALL: [&str; 9] = [CORE[0], CORE[1], CORE[2], EU[0], EU[1], EU[2], EU[3], EU[4], EU[5]];
const PRIMARY: &str = CORE[0];
const RELAYS: [&str; 2] = [EU[0], EU[1]];
const LEAVES: [&str; 4] = [EU[2], EU[3], EU[4], EU[5]];
/// As quick as may be declared.
const QUICK: &str = "healing: {suspectAfterMilliseconds: 500, settleSeconds: 1}";

type Shape = BTreeMap<String, String>;

/// An API server, nine servers with a writer, and the tree that was declared: it has formed once.
struct Ground {
    server: ApiServer,
    tree: Tree,
    writer: Option<Writer>,
    declared: Shape,
}

impl Ground {
    /// All of it, and the operator that formed the tree.
    async fn new() -> (Self, Operator) {
        let tree = nine().await;
        let writer = Some(Writer::start(&tree, PRIMARY).await);
        let server = ApiServer::start();
        install(&server);
        topology::apply(&server, &tree, QUICK);
        let operator = Operator::start(&server, "first").await;
        topology::converged(&server).await;
        let declared = Scene::of(&tree, &ALL).await.shape;
        let this = Self { server, tree, writer, declared };
        for relay in RELAYS {
            assert_eq!(this.fed_by(relay).len(), 2, "{:?}", this.declared);
        }
        (this, operator)
    }

    /// The leaves that are declared below a relay.
    fn fed_by(&self, relay: &str) -> Vec<&'static str> {
        LEAVES.into_iter().filter(|leaf| self.declared.get(*leaf).is_some_and(|up| up == relay)).collect()
    }

    /// Waits until the tree is as declared again, says so, and no slot is missing or left over.
    async fn is_as_declared(&self) {
        eventually("the tree is as declared", async || {
            let last = Scene::of(&self.tree, &ALL).await;
            last.shape == self.declared
                && last.slots == last.needed_slots()
                && topology::condition(&self.server, "Converged").await.0 == "True"
        })
        .await;
    }

    /// Ends the writer; every server has the rows of the primary.
    async fn nothing_is_lost(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.stop().await;
        }
        same_rows(&self.tree, &ALL, PRIMARY).await;
    }

    async fn told(&self, what: &str) {
        eventually(&format!("the event {what}"), async || {
            events(&self.server).await.iter().any(|event| event.starts_with(what))
        })
        .await;
    }
}

/// Every leaf of a dead relay receives rows from the first fallback that its route had.
async fn go_on(ground: &Ground, routes: &BTreeMap<&str, Vec<String>>) {
    for (leaf, route) in routes {
        let upstream = format!(
            "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {}",
            ground.tree.port(&route[1])
        );
        ground.tree.until(leaf, &upstream, "1").await;
        rows_arrive(&ground.tree, leaf, PRIMARY).await;
    }
}

async fn routes_below(ground: &Ground, relay: &str) -> BTreeMap<&'static str, Vec<String>> {
    let mut routes = Scene::of(&ground.tree, &ALL).await.routes;
    let below = ground.fed_by(relay).into_iter().map(|leaf| (leaf, routes.remove(leaf).unwrap()));
    let below: BTreeMap<_, _> = below.collect();
    assert!(below.values().all(|route| route[0] == relay && route.len() == 3), "{below:?}");
    below
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_of_a_killed_relay_go_on_from_their_first_fallback_and_get_it_back_when_it_is_well() {
    let (mut ground, operator) = Ground::new().await;
    let routes = routes_below(&ground, RELAYS[0]).await;
    let witness = Witness::of(&ground.tree, &ALL).await;
    ground.tree.kill(RELAYS[0]);
    go_on(&ground, &routes).await;
    for told in ["Diagnose DeadRelay eu-1", "SetRoute Rearm"] {
        ground.told(told).await;
    }
    ground.tree.start_node(RELAYS[0]).await;
    ground.is_as_declared().await;
    for told in ["SetRoute GiveBack", "Diagnose Recovered eu-1"] {
        ground.told(told).await;
    }
    let seen = witness.tell().await;
    assert_eq!(seen.rings, Vec::<Vec<String>>::new());
    for (leaf, route) in &routes {
        assert_eq!(seen.upstreams[*leaf], [&*route[0], &*route[1], &*route[0]], "{leaf} took another way");
    }
    for other in ground.fed_by(RELAYS[1]).into_iter().chain([CORE[1], CORE[2], RELAYS[1]]) {
        assert_eq!(seen.upstreams[other].len(), 1, "{other} was moved for nothing: {:?}", seen.upstreams[other]);
    }
    ground.nothing_is_lost().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_of_a_killed_relay_go_on_while_no_operator_runs_and_the_next_one_gives_them_back() {
    let (mut ground, operator) = Ground::new().await;
    operator.stop().await;
    let routes = routes_below(&ground, RELAYS[1]).await;
    let witness = Witness::of(&ground.tree, &ALL).await;
    ground.tree.kill(RELAYS[1]);
    go_on(&ground, &routes).await;
    ground.tree.start_node(RELAYS[1]).await;
    ground.tree.caught_up(RELAYS[1], PRIMARY).await;
    go_on(&ground, &routes).await;
    let operator = Operator::start(&ground.server, "second").await;
    ground.is_as_declared().await;
    let seen = witness.tell().await;
    assert_eq!(seen.rings, Vec::<Vec<String>>::new());
    for (leaf, route) in &routes {
        assert_eq!(seen.upstreams[*leaf], [&*route[0], &*route[1], &*route[0]], "{leaf} took another way");
    }
    ground.nothing_is_lost().await;
    operator.stop().await;
}

/// Chooses by a seed: splitmix64, so that a seed says the same for ever.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((x ^ (x >> 31)) % sides as u64).unwrap()
    }
}

/// One bad thing, which leaves something to heal; what it was, or nothing where it could not be done.
async fn damage(tree: &mut Tree, down: &mut Vec<&'static str>, dice: &mut Dice) -> Option<String> {
    let leaf = LEAVES[dice.below(LEAVES.len())];
    let feeders = [CORE[0], CORE[1], CORE[2], RELAYS[0], RELAYS[1]];
    let feeder = feeders[dice.below(feeders.len())];
    Some(match dice.below(4) {
        0 | 1 => {
            let relay = RELAYS[dice.below(2)];
            if let Some(place) = down.iter().position(|node| *node == relay) {
                down.remove(place);
                tree.start_node(relay).await;
                format!("{relay} comes back")
            } else {
                down.push(relay);
                tree.kill(relay);
                format!("{relay} is killed")
            }
        }
        2 => {
            let conninfo = tree.conninfo(leaf, feeder).replace('\'', "''");
            tree.sql(leaf, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
            tree.sql(leaf, "SELECT pg_reload_conf()").await;
            format!("{leaf} is pointed to {feeder} by hand")
        }
        _ => {
            let on = if down.contains(&feeder) { PRIMARY } else { feeder };
            // One that is taken up in this moment stays.
            let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active LIMIT 1";
            let dropped = tree.connect(on).await.unwrap().query(drop, &[]).await;
            return dropped.is_ok_and(|slots| !slots.is_empty()).then(|| format!("a slot of {on} is dropped"));
        }
    })
}

/// How often the servers were told to reload, by their own logs.
fn written(tree: &Tree) -> usize {
    ALL.iter().map(|node| tree.log(node).matches("received SIGHUP").count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_at_fifty_random_points_leaves_no_ring_no_slot_and_no_loss() {
    let given = std::env::var("WALTREE_SEED").ok();
    let seed = given.map_or_else(|| u64::from(std::process::id()), |text| text.parse().unwrap());
    println!("WALTREE_SEED={seed}");
    let mut dice = Dice(seed);
    let (mut ground, operator) = Ground::new().await;
    let witness = Witness::of(&ground.tree, &ALL).await;
    drop(operator);
    let mut down = Vec::new();
    let mut amid_writes = 0;
    for round in 0..50 {
        // A new life of the same name takes its own Lease over at once. Every other one finds the damage done.
        let lives = if round % 2 == 0 { Some(Process::start(&ground.server, "first").await) } else { None };
        let what = loop {
            if let Some(what) = damage(&mut ground.tree, &mut down, &mut dice).await {
                break what;
            }
        };
        let before = written(&ground.tree);
        let operator = match lives {
            Some(operator) => operator,
            None => Process::start(&ground.server, "first").await,
        };
        let killed = if round % 4 < 2 {
            // In the midst of its writes, as far as this damage makes it write.
            let patience = Instant::now() + Duration::from_millis(1_500);
            while written(&ground.tree) == before && Instant::now() < patience {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            dice.below(40)
        } else {
            dice.below(1_200)
        };
        tokio::time::sleep(Duration::from_millis(killed as u64)).await;
        drop(operator);
        let writes = written(&ground.tree) - before;
        amid_writes += usize::from(writes > 0);
        println!("round {round}: {what}; {killed} ms later the operator is killed, which had reloaded {writes} times");
    }
    println!("{amid_writes} of 50 were killed after they had begun to write");
    assert!(amid_writes >= 20, "only {amid_writes}");
    for relay in down {
        ground.tree.start_node(relay).await;
    }
    let operator = Operator::start(&ground.server, "first").await;
    ground.is_as_declared().await;
    let told = witness.tell().await;
    println!("{} samples, {} reconnects", told.samples, told.reconnects());
    assert_eq!(told.rings, Vec::<Vec<String>>::new());
    ground.nothing_is_lost().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_for_a_minute_of_a_heal_stops_no_stream_and_the_tree_ends_as_declared() {
    let (mut ground, operator) = Ground::new().await;
    let witness = Witness::of(&ground.tree, &ALL).await;
    let routes = routes_below(&ground, RELAYS[0]).await;
    ground.tree.kill(RELAYS[0]);
    go_on(&ground, &routes).await;
    ground.server.stop();
    let back = Instant::now() + Duration::from_secs(60);
    eventually("it leads no more", async || operator.shows("waltree_leading 0").await).await;
    // Nobody acts now, and the other relay dies as well.
    ground.tree.kill(RELAYS[1]);
    for leaf in LEAVES {
        rows_arrive(&ground.tree, leaf, PRIMARY).await;
    }
    for relay in RELAYS {
        ground.tree.start_node(relay).await;
    }
    tokio::time::sleep_until(back).await;
    for leaf in LEAVES {
        rows_arrive(&ground.tree, leaf, PRIMARY).await;
    }
    tokio::task::block_in_place(|| ground.server.resume());
    ground.is_as_declared().await;
    assert_eq!(witness.tell().await.rings, Vec::<Vec<String>>::new());
    ground.nothing_is_lost().await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_and_healthy_topology_is_left_alone() {
    let (mut ground, operator) = Ground::new().await;
    ground.nothing_is_lost().await;
    let passes = async || operator.figure("waltree_reconcile_duration_seconds_count").await.unwrap_or(0.0);
    // Until it has come to rest; then half a minute in which nothing may be done.
    let begun = passes().await;
    eventually("it comes to rest", async || passes().await >= begun + 5.0).await;
    let version = async || topology::get(&ground.server).await.metadata.resource_version;
    let writes = async || operator.figure("waltree_status_writes_total").await;
    let before = (version().await, writes().await, events(&ground.server).await);
    let witness = Witness::of(&ground.tree, &ALL).await;
    let begun = passes().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((version().await, writes().await, events(&ground.server).await), before);
    assert!(passes().await > begun, "it was not looked at");
    let seen = witness.tell().await;
    assert_eq!((seen.receivers.len(), seen.reconnects()), (8, 0), "{:?}", seen.upstreams);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topology_leaves_no_slot_of_a_server_that_stays_away_and_tells_of_those_on_it() {
    const ITS_OWN: &str = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'core_3'";
    let (mut ground, operator) = Ground::new().await;
    ground.tree.kill(CORE[2]);
    ground.told("Diagnose DeadRelay core-3").await;
    let topologies: Api<ReplicaTopology> = Api::namespaced(ground.server.client().await, topology::NAMESPACE);
    topologies.delete(topology::NAME, &DeleteParams::default()).await.unwrap();
    // Most of the minute that it is waited for.
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(ground.tree.value(CORE[0], ITS_OWN).await, "1", "it may still come back");
    ground.told("DropSlot SlotsLeft core-3").await;
    eventually("it is gone", async || topologies.get_opt(topology::NAME).await.unwrap().is_none()).await;
    for node in ALL.into_iter().filter(|node| *node != CORE[2]) {
        assert_eq!(ground.tree.value(node, ITS_OWN).await, "0", "a slot is left on {node}");
    }
    for leaf in LEAVES {
        rows_arrive(&ground.tree, leaf, PRIMARY).await;
    }
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topology_waits_for_a_server_that_is_away_drops_idle_slots_and_leaves_every_stream() {
    const IDLE: &str = "SELECT count(*) FROM pg_replication_slots WHERE NOT active";
    let (mut ground, operator) = Ground::new().await;
    let away = CORE[2];
    ground.tree.kill(away);
    ground.told("Diagnose DeadRelay core-3").await;
    let witness = Witness::of(&ground.tree, &ALL).await;
    let topologies: Api<ReplicaTopology> = Api::namespaced(ground.server.client().await, topology::NAMESPACE);
    topologies.delete(topology::NAME, &DeleteParams::default()).await.unwrap();
    // Nobody may come to receive from who is away, so the slots of its own, on its upstreams, are all that stays.
    for node in EU {
        ground.tree.until(node, IDLE, "0").await;
    }
    let present = topologies.get(topology::NAME).await.unwrap().metadata;
    assert!(present.deletion_timestamp.is_some() && present.finalizers.is_some_and(|names| names.len() == 1));
    ground.tree.start_node(away).await;
    eventually("it is gone", async || topologies.get_opt(topology::NAME).await.unwrap().is_none()).await;
    for node in ALL {
        assert_eq!(ground.tree.value(node, IDLE).await, "0", "an idle slot is left on {node}");
    }
    let seen = witness.tell().await;
    for (node, receivers) in &seen.receivers {
        assert_eq!(receivers.len(), 1, "{node} was moved: {:?}", seen.upstreams);
    }
    assert_eq!(Scene::of(&ground.tree, &ALL).await.shape, ground.declared);
    ground.nothing_is_lost().await;
    operator.stop().await;
}
