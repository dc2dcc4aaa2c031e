//! Servers whose version or settings keep the operator from setting a route, and what it may not do at all.

use std::io::Write as _;

use super::support::ground::{Ground, PRIMARY, apply, star};
use super::support::postgres::{REPL_PASSWORD, Tree, eventually};
use super::support::programs::binaries;
use super::{STANDBYS, says};

/// A tree of another major version, or a word on the terminal why there is none: the test harness shows nothing of a
/// test that passes but what is written past it.
async fn of_version(version: u32, case: &str, others: &[&str]) -> Option<Tree> {
    if let Err(why) = binaries(Some(version)) {
        let word = format!("NOT RUN: {case}: there is no PostgreSQL {version}: {why}\n");
        std::io::stderr().write_all(word.as_bytes()).unwrap();
        return None;
    }
    let mut tree = Tree::start(Some(version));
    tree.primary(PRIMARY).await;
    for node in others {
        tree.standby(node, PRIMARY).await;
    }
    Some(tree)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_14_is_named_and_never_touched() {
    let Some(tree) = of_version(14, "a topology of PostgreSQL 14", &STANDBYS).await else { return };
    let mut ground = Ground::of(tree, "version").await;
    let before = ground.connected(&STANDBYS).await;
    apply(&ground.manifest(&ground.groups()));
    let message = ground.until("Converged", "False", "VersionTooOld").await;
    says(&message, &["is PostgreSQL 14", "upgrade it to 15 or later", "It is not touched"]);
    for node in [PRIMARY, "eu-1", "eu-2"] {
        ground.told("VersionTooOld", node).await;
    }
    ground.status_rests().await;
    ground.untouched(&before).await;
    let written = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication \
                   WHERE usename = 'waltree')";
    for node in [PRIMARY, "eu-1", "eu-2"] {
        assert_eq!(ground.tree.value(node, written).await, "0");
        assert!(!ground.tree.log(node).contains("ERROR"), "{}", ground.tree.log(node));
    }
    // The same names on newer servers with another system identifier, which is what an upgrade of a cluster leaves.
    ground.tree = star(&STANDBYS).await;
    apply(&ground.manifest(&ground.groups()));
    let message = ground.until("Converged", "False", "ForeignServer").await;
    says(&message, &["After an upgrade of the whole cluster delete this topology and apply it again"]);
    ground.delete();
    apply(&ground.manifest(&ground.groups()));
    ground.as_declared().await;
    ground.flows(&STANDBYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_allows_no_alter_system_is_named_and_left_where_it_is() {
    let Some(tree) = of_version(17, "allow_alter_system = off", &STANDBYS).await else { return };
    tree.configure("eu-2", "allow_alter_system = off");
    tree.sql("eu-2", "SELECT pg_reload_conf()").await;
    tree.until("eu-2", "SHOW allow_alter_system", "off").await;
    let ground = Ground::of(tree, "alter-system").await;
    let before = ground.connected(&["eu-2"]).await;
    apply(&ground.manifest(&ground.groups()));
    let message = ground.until("Converged", "False", "AlterSystemOff").await;
    let cure = "Set allow_alter_system = on and reload, or set the group's management to Observe";
    says(&message, &["eu-2 has allow_alter_system = off, so its route cannot be set", cure]);
    ground.told("AlterSystemOff", "eu-2").await;
    ground.until("Serving", "True", "EveryGroupServes").await;
    ground.status_rests().await;
    ground.untouched(&before).await;
    ground.flows(&STANDBYS).await;

    ground.tree.configure("eu-2", "allow_alter_system = on");
    ground.tree.sql("eu-2", "SELECT pg_reload_conf()").await;
    ground.as_declared().await;
    ground.flows(&STANDBYS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_somebody_else_sets_is_put_back_three_times_and_then_left() {
    let ground = Ground::formed("other-writer").await;
    let before = ground.connected(&["eu-1"]).await;
    let ours = "SELECT count(*) FROM pg_stat_wal_receiver WHERE slot_name = 'eu_2' AND sender_port = ";
    let theirs = ground.tree.conninfo("eu-2", PRIMARY);
    let set = format!("ALTER SYSTEM SET primary_conninfo = '{}'", theirs.replace('\'', "''"));
    let installed = format!("SELECT current_setting('primary_conninfo') = '{}'", theirs.replace('\'', "''"));
    for _ in 0..3 {
        let client = ground.tree.connect("eu-2").await.unwrap();
        client.batch_execute(&set).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        ground.tree.until("eu-2", &format!("{ours}{}", ground.tree.port("eu-1")), "1").await;
        ground.tree.until("eu-2", &installed, "f").await;
        // That it is as declared is said after the route was seen to be there again, in the same pass.
        ground.asked("eu-2", 2).await;
        ground.as_declared().await;
    }
    let client = ground.tree.connect("eu-2").await.unwrap();
    client.batch_execute(&set).await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let message = ground.until("Converged", "False", "OtherWriter").await;
    let what = format!("somebody else has set primary_conninfo of eu-2 to 127.0.0.1:{}", ground.tree.port(PRIMARY));
    let cure =
        "Find who writes it (another tool, or configuration management), or set the group's management to Observe";
    says(&message, &[&what, "it was put back 3 times and is left so now", cure]);
    ground.told("OtherWriter", "eu-2").await;
    let left = ground.connected(&["eu-2"]).await;
    ground.status_rests().await;
    ground.untouched(&left).await;
    ground.untouched(&before).await;
    assert_eq!(ground.tree.value("eu-2", &installed).await, "t");
    // Until he was found who does it.
    ground.plugin("acknowledge", &["eu-2"]);
    ground.as_declared().await;
    ground.tree.until("eu-2", &format!("{ours}{}", ground.tree.port("eu-1")), "1").await;
    ground.flows(&["eu-2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_primary_conninfo_is_refused_and_shown_nowhere() {
    let mut tree = star(&["eu-1"]).await;
    let port = tree.port(PRIMARY);
    let keyword = format!("host=127.0.0.1 port={port} application_name=eu-2 user=repl password={REPL_PASSWORD}");
    tree.standby_with("eu-2", &keyword).await;
    tree.standby_with("eu-3", &format!("postgresql://repl:{REPL_PASSWORD}@127.0.0.1:{port}/?application_name=eu-3"))
        .await;
    let ground = Ground::of(tree, "password").await;
    let before = ground.connected(&["eu-2", "eu-3"]).await;
    let eu = ground.group("eu", "upstreams: [core], relays: 1", &["eu-1", "eu-2", "eu-3"]);
    let [core, _] = ground.groups();
    apply(&ground.manifest(&[core, eu]));
    let message = ground.until("Converged", "False", "UnusableConninfo").await;
    let advice = "Move it to a passfile of mode 0600 and set passfile=";
    says(&message, &["primary_conninfo of eu-2 holds a password, and no password is ever written", advice]);
    for node in ["eu-2", "eu-3"] {
        ground.told("UnusableConninfo", node).await;
    }
    let unread = "primary_conninfo of eu-3 cannot be read as keyword=value";
    assert!(ground.events().await.iter().any(|(_, note)| note.contains(unread)));
    ground.status_rests().await;
    ground.untouched(&before).await;
    ground.keeps_secret(REPL_PASSWORD, &[PRIMARY, "eu-1", "eu-2", "eu-3"]).await;
    // What the message says to do: this route names a passfile.
    for node in ["eu-2", "eu-3"] {
        let conninfo = ground.tree.conninfo(node, PRIMARY);
        ground.tree.sql(node, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await;
        ground.tree.sql(node, "SELECT pg_reload_conf()").await;
    }
    ground.as_declared().await;
    ground.flows(&["eu-2", "eu-3"]).await;
    ground.keeps_secret(REPL_PASSWORD, &[PRIMARY, "eu-1", "eu-2", "eu-3"]).await;
}

/// Everything that a write of the operator could change on a server.
async fn settings_and_slots(ground: &Ground, node: &str) -> Vec<String> {
    let mut all =
        ground.tree.sql(node, "SELECT name, setting, source, sourceline, pending_restart FROM pg_settings").await;
    all.extend(ground.tree.sql(node, "SELECT * FROM pg_file_settings").await);
    all.extend(
        ground.tree.sql(node, "SELECT slot_name, active_pid, restart_lsn, xmin FROM pg_replication_slots").await,
    );
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn with_automation_observe_no_server_is_written_to_and_the_plan_is_told() {
    const ALL: [&str; 3] = [PRIMARY, "eu-1", "eu-2"];
    let tree = star(&STANDBYS).await;
    for node in ALL {
        tree.configure(node, "log_statement = all\nlog_line_prefix = '%u|'");
        tree.sql(node, "SELECT pg_reload_conf()").await;
        tree.until(node, "SHOW log_statement", "all").await;
    }
    let ground = Ground::of(tree, "observe").await;
    let connected = ground.connected(&STANDBYS).await;
    let mut before = Vec::new();
    for node in ALL {
        before.push((settings_and_slots(&ground, node).await, ground.tree.log(node).len()));
    }
    apply(&ground.manifest_with("automation: Observe", &ground.groups()));
    let message = ground.until("Converged", "False", "ObserveOnly").await;
    says(&message, &["Not done, as Observe forbids it", "of eu-2 on eu-1", "Set automation: Heal"]);
    ground.status_rests().await;
    for (node, (before, logged)) in ALL.into_iter().zip(before) {
        eventually(&format!("{node} is asked"), async || ground.tree.log(node)[logged..].contains("waltree|")).await;
        assert_eq!(settings_and_slots(&ground, node).await, before, "{node}");
        let log = ground.tree.log(node);
        // Parameters have lines of their own, which are no statements.
        for line in log[logged..].lines().filter(|line| line.starts_with("waltree|") && !line.contains("|DETAIL:")) {
            let said = line.split_once(": SELECT json_build_object(");
            assert!(said.is_some_and(|(kind, _)| kind.starts_with("waltree|LOG:  execute ")), "{node}: {line}");
        }
        assert!(!log[logged..].contains("SIGHUP"), "{node} was reloaded");
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        assert_eq!(ground.tree.value(node, locks).await, "0");
    }
    ground.untouched(&connected).await;

    apply(&ground.manifest_with("automation: Heal", &ground.groups()));
    ground.as_declared().await;
}
