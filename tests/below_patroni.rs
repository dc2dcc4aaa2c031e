//! A tree below a real Patroni: it keeps the primary, waltree keeps what hangs below.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on has failed; figures are shown")]

mod support;

use std::process::Command;

use serde_json::{Value, json};
use support::ground::{Ground, apply, group};
use support::patroni::{MEMBERS, Patroni};
use support::postgres::{Tree, WALTREE_PASSWORD, eventually};
use tokio::sync::Mutex;
use waltree::operator::clock;

/// A relay and its leaves.
const OURS: [&str; 3] = ["eu-1", "eu-2", "eu-3"];
/// Their slots, any of which may come to be on Patroni's servers.
const SLOTS: [&str; 3] = ["eu_1", "eu_2", "eu_3"];

/// Two of Patroni's clusters at a time are too slow on a small machine for its own timeouts.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Patroni's servers, ours below them as somebody may have left them, and no topology yet.
async fn below(ignored: &[&str], namespace: &'static str) -> (Patroni, Ground) {
    let mut tree = Tree::start(None);
    let patroni = Patroni::start(&tree, ignored).await;
    let conninfo = tree.conninfo_to("eu-1", "127.0.0.1", patroni.port("core-1"));
    tree.standby_with("eu-1", &conninfo).await;
    for leaf in &OURS[1..] {
        tree.standby(leaf, "eu-1").await;
    }
    (patroni, Ground::of(tree, namespace).await)
}

fn manifest(ground: &Ground, patroni: &Patroni) -> String {
    let core: Vec<(&str, u16)> = MEMBERS.iter().map(|member| (*member, patroni.port(member))).collect();
    ground.manifest(&[
        group("core", "orders-sql", "management: Observe", &core),
        ground.group("eu", "upstreams: [core], relays: 1", &OURS),
    ])
}

/// A row that is written on the primary now arrives on these nodes.
async fn flows(ground: &Ground, patroni: &Patroni, primary: &str, nodes: &[&str]) {
    let write = "CREATE TABLE IF NOT EXISTS flow (at timestamptz DEFAULT clock_timestamp());
                 INSERT INTO flow DEFAULT VALUES RETURNING at";
    let row = patroni.value(primary, write).await;
    assert!(!row.is_empty(), "{primary} takes a row");
    for node in nodes {
        ground.tree.until(node, "SELECT to_regclass('flow') IS NOT NULL", "t").await;
        ground.tree.until(node, &format!("SELECT count(*) FROM flow WHERE at = '{row}'"), "1").await;
    }
}

/// All of Patroni's servers that nobody but Patroni may change.
async fn settings(patroni: &Patroni) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for member in MEMBERS {
        all.push((patroni.settings(member).await, patroni.config().await));
    }
    all
}

/// Whom ours receive from, by ports.
async fn upstreams(ground: &Ground) -> Vec<String> {
    let mut all = Vec::new();
    for node in OURS {
        all.push(ground.tree.value(node, "SELECT sender_port FROM pg_stat_wal_receiver").await);
    }
    all
}

/// What is changed in it then.
const HEAL: &str = "automation: Heal\n  healing: {suspectAfterMilliseconds: 1000, settleSeconds: 1}";

/// The manifest that adoption makes of all of them, from one of the leaves.
fn adopted(ground: &Ground, patroni: &Patroni) -> String {
    let ours = OURS.iter().map(|node| ground.tree.port(node));
    let ports: Vec<String> =
        MEMBERS.iter().map(|member| patroni.port(member)).chain(ours).map(|p| p.to_string()).collect();
    let begin = format!("127.0.0.1:{}", ground.tree.port("eu-3"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-waltree"));
    command.args(["adopt", &begin, "--port", &ports.join(","), "--name", "orders", "-n", ground.namespace()]);
    command
        .args(["--observe-root", "--sslmode", "disable"])
        .env("PGPASSWORD", WALTREE_PASSWORD)
        .env_remove("KUBECONFIG");
    let output = command.output().unwrap();
    let (manifest, said) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(said.ends_with("5 servers, 0 moves.\n"), "{said}\n{manifest}");
    manifest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_adopted_below_patroni_follows_its_switchover_and_no_setting_of_its_servers_is_touched() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (patroni, ground) = below(&SLOTS, "below-patroni").await;
    let before = settings(&patroni).await;
    flows(&ground, &patroni, "core-1", &OURS).await;
    let fed = upstreams(&ground).await;
    apply(&adopted(&ground, &patroni).replace("automation: Observe", HEAL));
    ground.as_declared().await;
    flows(&ground, &patroni, "core-1", &OURS).await;
    assert_eq!(upstreams(&ground).await, fed, "adoption moves nobody");
    assert_eq!(settings(&patroni).await, before, "a setting of Patroni's servers was touched");
    // Prepared on the one that may become the primary.
    let idle = "SELECT string_agg(slot_name, ',') FROM pg_replication_slots WHERE slot_name = 'eu_1' AND NOT active";
    assert_eq!(patroni.value("core-2", idle).await, "eu_1");

    let ((), milliseconds) =
        tokio::join!(patroni.switchover("core-1", "core-2"), fresh_after_promotion(&ground, &patroni));
    println!("from Patroni's promotion to a row of the new primary on tier 1: {milliseconds} ms");
    flows(&ground, &patroni, "core-2", &OURS).await;
    eventually("core-1 streams again", async || {
        patroni.value("core-1", "SELECT status FROM pg_stat_wal_receiver").await == "streaming"
    })
    .await;
    ground.as_declared().await;
    assert_eq!(settings(&patroni).await, before, "a setting of Patroni's servers was touched");
    let his = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots";
    assert!(patroni.value("core-2", his).await.contains("core_1"), "Patroni's own slots are left alone");

    let mut ground = ground;
    ground.tree.kill("eu-1");
    flows(&ground, &patroni, "core-2", &OURS[1..]).await;
    assert_eq!(settings(&patroni).await, before, "a setting of Patroni's servers was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_below_patroni_follows_its_failover_without_the_operator() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (mut patroni, ground) = below(&SLOTS, "patroni-fails-over").await;
    apply(&manifest(&ground, &patroni));
    ground.as_declared().await;
    flows(&ground, &patroni, "core-1", &OURS).await;
    // Nobody is to have what the next primary has not.
    let end = patroni.value("core-1", "SELECT pg_current_wal_flush_lsn()").await;
    let has_it = format!("SELECT pg_last_wal_receive_lsn() >= '{end}'");
    eventually("core-2 has it all", async || patroni.value("core-2", &has_it).await == "t").await;
    let before = patroni.settings("core-2").await;
    // From here on nothing is written by us.
    apply(&manifest(&ground, &patroni).replace("automation: Heal", "automation: Observe"));
    patroni.kill("core-1");
    let milliseconds = fresh_after_promotion(&ground, &patroni).await;
    println!("from Patroni's failover to a row of the new primary on tier 1: {milliseconds} ms");
    flows(&ground, &patroni, "core-2", &OURS).await;
    ground.until("Writable", "True", "PrimarySeen").await;
    assert_eq!(patroni.settings("core-2").await, before, "a setting of Patroni's server was touched");
}

/// Milliseconds from when the new primary takes writes until a row of its is on tier 1.
async fn fresh_after_promotion(ground: &Ground, patroni: &Patroni) -> u64 {
    eventually("core-2 is promoted", async || patroni.value("core-2", "SELECT pg_is_in_recovery()").await == "f").await;
    let promoted = clock::now();
    flows(ground, patroni, "core-2", &OURS[..1]).await;
    clock::now().since(promoted)
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_patroni_drops_are_named_with_the_cure_and_made_again_without_a_fight() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let (patroni, ground) = below(&[], "drops-slots").await;
    apply(&manifest(&ground, &patroni));
    ground.as_declared().await;
    // Patroni looks for slots that it does not know when a server starts, as the old primary does now.
    patroni.switchover("core-1", "core-2").await;
    // What is gone while one of our own writes there may be under way is not put down to somebody else; the next time it is.
    let mut starts = 1;
    let message = loop {
        go_round(&patroni, 5).await;
        let told = ground.events().await;
        match told.into_iter().find(|(reason, _)| reason == "SlotRemovedByOther") {
            Some((_, message)) => break message,
            None => present(&patroni).await,
        }
        assert!(starts < 5, "it is not told");
        starts += 1;
        patroni.restart().await;
    };
    assert!(message.contains("somebody else drops the slots of "), "{message}");
    assert!(message.contains("With Patroni run: patronictl edit-config -s 'ignore_slots="), "{message}");
    flows(&ground, &patroni, "core-2", &OURS).await;

    // Made again at once three times, and then no fight: it stays away for many of Patroni's rounds of a second each.
    while dropped(&patroni) <= 3 {
        present(&patroni).await;
        let before = dropped(&patroni);
        patroni.restart().await;
        eventually("Patroni drops it", async || dropped(&patroni) > before).await;
        eventually("it is made again", async || dropped(&patroni) > 3 || present_now(&patroni).await).await;
    }
    go_round(&patroni, 5).await;
    assert_eq!(
        patroni.value("core-1", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'eu_1'").await,
        "0"
    );
    flows(&ground, &patroni, "core-2", &OURS).await;

    // The cure, as it is told.
    let (_, told) = message.split_once("ignore_slots=").unwrap();
    let slots: Value = serde_json::from_str(told.split('\'').next().unwrap()).unwrap();
    assert_eq!(slots, json!(SLOTS.map(|slot| json!({"name": slot, "type": "physical"}))));
    patroni.configure(&json!({"ignore_slots": slots})).await;
    // It is made again twice a minute.
    go_round(&patroni, 10).await;
    present(&patroni).await;
    let before = dropped(&patroni);
    patroni.restart().await;
    go_round(&patroni, 5).await;
    present(&patroni).await;
    assert_eq!(dropped(&patroni), before, "Patroni leaves them alone");
    // That it was started so often was us.
    ground.plugin("acknowledge", &["core-1"]);
    ground.as_declared().await;
    flows(&ground, &patroni, "core-2", &OURS).await;
}

/// How often Patroni has dropped the slot of our relay on its first server.
fn dropped(patroni: &Patroni) -> usize {
    patroni.log("core-1").matches("Dropped replication slot 'eu_1'").count()
}

/// Whether all our slots are on the first server.
async fn present_now(patroni: &Patroni) -> bool {
    let ours = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'eu%'";
    patroni.value("core-1", ours).await == "3"
}

async fn present(patroni: &Patroni) {
    eventually("all slots are on core-1", async || present_now(patroni).await).await;
}

/// Waits until Patroni has looked at its first server so many more times.
async fn go_round(patroni: &Patroni, times: usize) {
    let rounds = || patroni.log("core-1").matches("I am (core-1)").count();
    let before = rounds();
    eventually("Patroni goes round", async || rounds() >= before + times).await;
}
