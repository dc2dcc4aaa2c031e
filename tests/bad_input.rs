//! What a person gets who writes a topology that cannot be, or whose operator cannot get in: a condition that names the
//! culprit and the cure, and a tree that goes on as it was. All parts are real.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::ground::{Connected, Ground, PRIMARY, apply, group, refused, star, validate};
use support::postgres::WALTREE_PASSWORD;

const STANDBYS: [&str; 2] = ["eu-1", "eu-2"];

/// Fails unless a message has every one of these parts.
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// The API server refuses this, `waltree validate` names the culprit, and nothing is touched.
async fn never_stored(ground: &Ground, before: &Connected, groups: &[String], refusal: &[&str], named: &[&str]) {
    let manifest = ground.manifest(groups);
    let generation = ground.topology().await.metadata.generation;
    says(&refused(&manifest), refusal);
    let (code, said) = validate(&manifest);
    assert_eq!(code, Some(3), "{said}");
    says(&said, named);
    assert_eq!(ground.topology().await.metadata.generation, generation);
    ground.until("Accepted", "True", "Valid").await;
    ground.untouched(before).await;
}

/// The API server takes this and the operator refuses it in these words; nothing is touched, and the right spec is
/// accepted again.
async fn not_accepted(ground: &Ground, before: &Connected, groups: &[String], named: &[&str]) {
    let manifest = ground.manifest(groups);
    apply(&manifest);
    let message = ground.until("Accepted", "False", "Invalid").await;
    says(&message, named);
    says(&message, &["Correct the spec: until then no server is touched."]);
    ground.until("Ready", "False", "Invalid").await;
    assert_eq!(validate(&manifest).0, Some(3));
    ground.untouched(before).await;

    apply(&ground.manifest(&ground.groups()));
    ground.until("Accepted", "True", "Valid").await;
    ground.as_declared().await;
    ground.untouched(before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_upstream_is_refused_by_name() {
    let ground = Ground::formed("unknown-upstream").await;
    let before = ground.connected(&STANDBYS).await;
    let [core, _] = ground.groups();
    let eu = ground.group("eu", "upstreams: [cor], relays: 1", &STANDBYS);
    let refusal = ["spec.groups", "groups that are written above it", "correct the name"];
    let named = ["spec.groups[1].upstreams[0]", "eu names cor, and there is no such group", "correct the name"];
    never_stored(&ground, &before, &[core, eu], &refusal, &named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cycle_of_groups_is_refused_by_name() {
    let ground = Ground::formed("cycle").await;
    let before = ground.connected(&STANDBYS).await;
    let [core, _] = ground.groups();
    let eu = ground.group("eu", "upstreams: [ap]", &["eu-1"]);
    let ap = ground.group("ap", "upstreams: [eu]", &["eu-2"]);
    let refusal = ["spec.groups", "groups that are written above it", "Move the group below its upstreams"];
    let named = ["eu and ap feed each other in a cycle", "let one of them name a group outside it"];
    never_stored(&ground, &before, &[core, eu, ap], &refusal, &named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_in_two_groups_is_not_accepted() {
    let ground = Ground::formed("duplicate-name").await;
    let before = ground.connected(&STANDBYS).await;
    let [core, eu] = ground.groups();
    let ap = group("ap", "orders-sql", "upstreams: [eu]", &[("eu-1", 5999)]);
    let named = ["spec.groups[2].hosts[0].name", "eu-1 is a host of eu already, and of ap", "rename one"];
    not_accepted(&ground, &before, &[core, eu, ap], &named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_for_two_hosts_is_not_accepted() {
    let ground = Ground::formed("duplicate-address").await;
    let before = ground.connected(&STANDBYS).await;
    let [core, eu] = ground.groups();
    let port = ground.tree.port("eu-1");
    let ap = group("ap", "orders-sql", "upstreams: [eu]", &[("ap-1", port)]);
    let listener = format!("ap-1 has the address 127.0.0.1:{port} of eu-1");
    not_accepted(&ground, &before, &[core, eu, ap], &["spec.groups[2].hosts[0].address", &listener, "correct it"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_cannot_hold_the_fleet_are_not_accepted() {
    let ground = Ground::formed("limits").await;
    let before = ground.connected(&STANDBYS).await;
    let core = ground.group("core", "fanOut: 1", &[PRIMARY]);
    let eu = ground.group("eu", "upstreams: [core]", &STANDBYS);
    let named = [
        "spec.groups[0].fanOut",
        "2 nodes (2 of eu) want a place directly below core, which has 1 (core: 1 primary x 1 = 1)",
        "raise the fanOut of core to 2, or give eu relays",
    ];
    not_accepted(&ground, &before, &[core, eu], &named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_found_when_it_is_created() {
    let ground = Ground::formed("missing-secret").await;
    let before = ground.connected(&STANDBYS).await;
    let [core, _] = ground.groups();
    let hosts = STANDBYS.map(|node| (node, ground.tree.port(node)));
    apply(&ground.manifest(&[core, group("eu", "eu-sql", "upstreams: [core], relays: 1", &hosts)]));
    for kind in ["Ready", "Serving", "Rooted"] {
        let message = ground.until(kind, "Unknown", "CredentialsMissing").await;
        says(&message, &["eu-1", "Secret \"eu-sql\" does not exist", "create it with the keys username and password"]);
    }
    ground.until("Writable", "True", "PrimarySeen").await;
    ground.status_rests().await;
    ground.untouched(&before).await;

    ground.secret("eu-sql", WALTREE_PASSWORD);
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_and_shown_nowhere() {
    const WRONG: &str = "Xq-not-the-right-one";
    let ground = Ground::formed("wrong-password").await;
    let before = ground.connected(&STANDBYS).await;
    ground.secret("eu-sql", WRONG);
    let [core, _] = ground.groups();
    let hosts = STANDBYS.map(|node| (node, ground.tree.port(node)));
    apply(&ground.manifest(&[core, group("eu", "eu-sql", "upstreams: [core], relays: 1", &hosts)]));
    for kind in ["Ready", "Serving", "Rooted"] {
        let message = ground.until(kind, "Unknown", "CredentialsRejected").await;
        let advice = "with Secret \"eu-sql\". Correct username and password in the Secret";
        says(&message, &["eu-1", "password authentication failed for user \"waltree\"", advice]);
    }
    ground.status_rests().await;
    ground.untouched(&before).await;
    ground.told("Unseen", "eu-1").await;
    ground.keeps_secret(WRONG, &[PRIMARY, "eu-1", "eu-2"]).await;
    ground.keeps_secret(WALTREE_PASSWORD, &[PRIMARY, "eu-1", "eu-2"]).await;

    ground.secret("eu-sql", WALTREE_PASSWORD);
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_port_is_named_with_the_host_it_was_written_for() {
    let ground = Ground::formed("wrong-port").await;
    let before = ground.connected(&STANDBYS).await;
    let [core, _] = ground.groups();
    // Nobody listens there: a port that the kernel gave out and got back.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hosts = [("eu-1", ground.tree.port("eu-1")), ("eu-2", nobody)];
    apply(&ground.manifest(&[core, group("eu", "orders-sql", "upstreams: [core], relays: 1", &hosts)]));
    let listener = format!("127.0.0.1:{nobody}");
    for kind in ["Rooted", "Converged"] {
        let status = if kind == "Rooted" { "Unknown" } else { "False" };
        let message = ground.until(kind, status, "DeadLeaf").await;
        says(&message, &["eu-2 refuses connections", &listener, "correct its address and port"]);
    }
    ground.until("Serving", "True", "EveryGroupServes").await;
    ground.told("DeadLeaf", "eu-2").await;
    ground.status_rests().await;
    ground.untouched(&before).await;

    apply(&ground.manifest(&ground.groups()));
    ground.as_declared().await;
    ground.untouched(&before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_cluster_is_named_and_never_touched() {
    let mut tree = star(&STANDBYS).await;
    tree.stranger("eu-3").await;
    let mut ground = Ground::of(tree, "stranger").await;
    apply(&ground.manifest(&ground.groups()));
    ground.as_declared().await;
    let before = ground.connected(&STANDBYS).await;
    let [core, _] = ground.groups();
    let eu = ground.group("eu", "upstreams: [core], relays: 1", &["eu-1", "eu-2", "eu-3"]);
    apply(&ground.manifest(&[core, eu]));
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    let (ours, theirs) = (ground.tree.value(PRIMARY, identifier).await, ground.tree.value("eu-3", identifier).await);
    assert_ne!(ours, theirs);
    let what = format!("eu-3 has system identifier {theirs}, the topology {ours}");
    for kind in ["Rooted", "Converged"] {
        let message = ground.until(kind, "False", "ForeignServer").await;
        says(&message, &[&what, "Correct the host's address, or clone it anew", "it is not touched"]);
    }
    ground.until("Writable", "True", "PrimarySeen").await;
    ground.told("ForeignServer", "eu-3").await;
    ground.status_rests().await;
    ground.untouched(&before).await;
    let written = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_file_settings \
                   WHERE name LIKE 'primary%')";
    assert_eq!(ground.tree.value("eu-3", written).await, "0");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'eu_3'";
    for node in [PRIMARY, "eu-1", "eu-2"] {
        assert_eq!(ground.tree.value(node, slots).await, "0", "{node} keeps WAL for a stranger");
    }
    ground.tree.begin_anew("eu-3", "eu-1").await;
    ground.as_declared().await;
    ground.flows(&["eu-3"]).await;
}

#[path = "bad_input/settings.rs"]
mod settings;
#[path = "bad_input/twice.rs"]
mod twice;
