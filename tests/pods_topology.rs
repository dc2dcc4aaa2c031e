//! Topologies of pods, as a person applies them: on real nodes, with the operator as it is deployed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::Value;
use support::nodes::{Namespace, cluster, runs_pods};
use support::pods::{converged, installed, sql};
use support::postgres::eventually;

const IMAGE: &str = "waltree.test/postgres:15";
const UID: &str = ".metadata.uid";

fn three(namespace: &Namespace, image: &str) {
    namespace.apply(&format!(
        "{{apiVersion: waltree.dev/v1alpha1, kind: ReplicaTopology, metadata: {{name: orders}}, spec: {{
           postgres: {{image: '{image}'}}}}}}"
    ));
}

/// The same pods made from another image: the standbys before the primary, and nobody is cloned again.
fn an_image_is_rolled_out(namespace: &Namespace) {
    let of_pods = |field: &str| {
        ["core-2", "core-3", "core-1"].map(|node| namespace.field(&format!("pod/orders-{node}-0"), field))
    };
    let (before, other) = (of_pods(UID), "waltree.test/postgres:other");
    cluster().name_image(IMAGE, other);
    three(namespace, other);
    converged(namespace, "orders");
    assert_eq!(of_pods(".spec.containers[0].image"), [other; 3]);
    let made = of_pods(".metadata.creationTimestamp");
    assert!(made.is_sorted() && of_pods(UID).iter().all(|uid| !before.contains(uid)), "{made:?}");
    let sources = ["core-1", "core-2", "core-3"].map(|node| source(namespace, &format!("orders-{node}-0")));
    assert_eq!(sources, [const { None }; 3]);
    assert_eq!(sql(namespace, "orders-core-1-0", "SELECT row FROM kept"), "42");
}

/// The pods behind a Service that are ready.
fn behind(namespace: &Namespace, service: &str) -> Vec<String> {
    let slices = format!("--selector=kubernetes.io/service-name={service}");
    let ready = "-o=jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}{.targetRef.name} {end}";
    let said = namespace.kubectl(&["get", "endpointslices", &slices, ready], "").stdout;
    let mut pods: Vec<String> = String::from_utf8(said).unwrap().split_whitespace().map(str::to_owned).collect();
    pods.sort();
    pods
}

/// What the URI of the Secret answers, checked by its certificate, to somebody in a pod. Services are found by DNS, which is
/// not there.
fn application(namespace: &Namespace, service: &str, sql: &str) -> String {
    let uri = namespace.kubectl(&["get", "secret", "orders-app", "-o=go-template={{.data.uri | base64decode}}"], "");
    let uri = String::from_utf8(uri.stdout).unwrap();
    let address = namespace.field(&format!("service/{service}"), ".spec.clusterIP");
    let checked = format!("sslmode=verify-full&sslrootcert=/etc/waltree/certificates/ca.crt&hostaddr={address}");
    let uri = uri.replace("sslmode=require", &checked).replace("orders-rw", service);
    let psql = ["exec", "orders-core-3-0", "--", "psql", "-XAtq", "-d", &uri, "-c", sql];
    let done = namespace.kubectl(&psql, "");
    let said = [done.stdout, done.stderr].concat();
    String::from_utf8_lossy(&said).trim().to_owned()
}

async fn clients_find_it(namespace: &Namespace) {
    assert_eq!(application(namespace, "orders-rw", "CREATE TABLE sold AS SELECT 7 AS row"), "");
    let standby = "SELECT row, pg_is_in_recovery(), current_user FROM sold";
    eventually("its row is read on a standby", async || application(namespace, "orders-ro", standby) == "7|t|app")
        .await;
    assert_eq!(behind(namespace, "orders-rw"), ["orders-core-1-0"]);
    let standbys = ["orders-core-2-0", "orders-core-3-0"];
    for service in ["orders-ro", "orders-ro-core"] {
        eventually("readers are led to standbys", async || behind(namespace, service) == standbys).await;
    }
    assert_eq!(behind(namespace, "orders-r").len(), 3);
    // One that says nothing any more is left, though its port is open.
    let all = "$p $(cat /proc/$p/task/$p/children)";
    let stop = format!("p=$(head -n 1 /var/lib/waltree/pg/postmaster.pid); kill -STOP {all}");
    assert!(namespace.kubectl(&["exec", "orders-core-2-0", "--", "sh", "-c", &stop], "").status.success());
    eventually("it is left", async || behind(namespace, "orders-ro") == ["orders-core-3-0"]).await;
    let go_on = stop.replace("STOP", "CONT");
    assert!(namespace.kubectl(&["exec", "orders-core-2-0", "--", "sh", "-c", &go_on], "").status.success());
    eventually("it is back", async || behind(namespace, "orders-ro") == standbys).await;
}

#[tokio::test]
async fn three_pods_begin_from_nothing_and_come_back_with_their_data() {
    if !runs_pods() {
        return;
    }
    installed().await;
    let namespace = cluster().namespace("three");
    three(&namespace, IMAGE);
    converged(&namespace, "orders");

    let ready = ".status.conditions[?(@.type==\"Ready\")].status";
    assert_eq!(namespace.field("rtopo/orders", ready), "True");
    assert_eq!(namespace.field("rtopo/orders", ".status.primary.name"), "core-1");
    assert_eq!(namespace.field("rtopo/orders", ".status.summary.nodes"), "3/3");
    sql(&namespace, "orders-core-1-0", "CREATE TABLE kept AS SELECT 42 AS row");
    for pod in ["orders-core-2-0", "orders-core-3-0"] {
        eventually("the row is there", async || sql(&namespace, pod, "SELECT row FROM kept") == "42").await;
    }

    clients_find_it(&namespace).await;

    let uid = namespace.field("pod/orders-core-2-0", ".metadata.uid");
    assert!(
        namespace.kubectl(&["delete", "pod", "orders-core-2-0", "--force", "--grace-period=0"], "").status.success()
    );
    eventually("another pod takes its place", async || {
        let now = namespace.field("pod/orders-core-2-0", ".metadata.uid");
        !now.is_empty() && now != uid
    })
    .await;
    namespace.ready("orders-core-2-0").await;
    converged(&namespace, "orders");
    eventually("it has its row", async || sql(&namespace, "orders-core-2-0", "SELECT row FROM kept") == "42").await;
    let log = namespace.kubectl(&["logs", "orders-core-2-0"], "");
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    assert!(log.contains("PostgreSQL is started") && !log.contains("cloning"), "{log}");

    an_image_is_rolled_out(&namespace);
}

/// Whom a server was cloned from, by the log of its pod; nobody where its volume was there.
fn source(namespace: &Namespace, pod: &str) -> Option<String> {
    let log = namespace.kubectl(&["logs", pod], "").stdout;
    let lines = String::from_utf8_lossy(&log).into_owned();
    let told = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut cloned = told.filter(|line| line["message"] == "cloned");
    cloned.next().map(|line| line["source"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_region_grows_from_its_relay_and_its_leaves_are_fed_while_that_is_made_anew() {
    if !runs_pods() {
        return;
    }
    installed().await;
    let namespace = cluster().namespace("region");
    namespace.apply(
        "{apiVersion: waltree.dev/v1alpha1, kind: ReplicaTopology, metadata: {name: orders}, spec: {
           postgres: {image: 'waltree.test/postgres:15'}, groups: [
             {name: core, replicas: 2}, {name: eu, replicas: 3, relays: 1, region: eu, upstreams: [core]}]}}",
    );
    converged(&namespace, "orders");
    assert_eq!(namespace.field("rtopo/orders", ".status.summary.nodes"), "5/5");
    assert_eq!(source(&namespace, "orders-core-1-0"), None);
    // The one stream into the region is from whoever was there first, and all others are of its own.
    let sources = ["eu-1", "eu-2", "eu-3"].map(|pod| source(&namespace, &format!("orders-{pod}-0")).unwrap());
    assert!(sources[0].starts_with("core-") && sources[1..].iter().all(|from| from.starts_with("eu-")), "{sources:?}");
    let upstream =
        |node: &str| namespace.field("rtopo/orders", &format!(".status.nodes[?(@.name==\"{node}\")].upstream"));
    eventually("the relay feeds its region", async || upstream("eu-2") == "eu-1" && upstream("eu-3") == "eu-1").await;

    let deleted = namespace.kubectl(&["delete", "pod", "orders-eu-1-0", "--force", "--grace-period=0"], "");
    assert!(deleted.status.success());

    sql(&namespace, "orders-core-1-0", "CREATE TABLE written AS SELECT 42 AS row");
    for pod in ["orders-eu-2-0", "orders-eu-3-0", "orders-eu-1-0"] {
        eventually(pod, async || sql(&namespace, pod, "SELECT row FROM written") == "42").await;
    }
    assert_eq!(source(&namespace, "orders-eu-1-0"), None, "its volume was there");
}

/// A relay and its two leaves below a primary.
fn tree(namespace: &Namespace, image: &str, parameters: &str, replicas: u32) {
    namespace.apply(&format!(
        "{{apiVersion: waltree.dev/v1alpha1, kind: ReplicaTopology, metadata: {{name: orders}}, spec: {{
           postgres: {{image: '{image}', parameters: {{{parameters}}}}}, groups: [
             {{name: core, replicas: 1}}, {{name: eu, replicas: {replicas}, relays: 1, upstreams: [core]}}]}}}}"
    ));
}

/// Of each pod of that tree, in the order in which they are to be started anew: what a field of it is.
fn of_pods(namespace: &Namespace, field: &str) -> [String; 4] {
    ["eu-2", "eu-3", "eu-1", "core-1"].map(|node| namespace.field(&format!("pod/orders-{node}-0"), field))
}

/// A parameter that is taken at a start only: all have it, and were started in their order, in the pods that they had.
fn parameters_are_rolled_out(namespace: &Namespace) {
    let pods = of_pods(namespace, UID);
    tree(namespace, IMAGE, "max_connections: '150'", 3);
    converged(namespace, "orders");
    let started = ["eu-2", "eu-3", "eu-1", "core-1"].map(|node| {
        let said = sql(namespace, &format!("orders-{node}-0"), "SELECT pg_postmaster_start_time() AT TIME ZONE 'UTC'");
        let has = sql(namespace, &format!("orders-{node}-0"), "SHOW max_connections");
        assert_eq!(has, "150", "{node}");
        said
    });
    assert!(started.is_sorted(), "{started:?}");
    assert_eq!(of_pods(namespace, UID), pods);
}

/// An image that does not exist costs one leaf, until another is named.
async fn a_wrong_image_stops_at_the_first(namespace: &Namespace) {
    let pods = of_pods(namespace, UID);
    tree(namespace, "waltree.test/postgres:none", "max_connections: '150'", 3);
    let message = ".status.conditions[?(@.type==\"Converged\")].message";
    let pull = ".status.containerStatuses[0].state.waiting.reason";
    eventually("the first has no image", async || of_pods(namespace, pull)[0].contains("Image")).await;
    eventually("it is told", async || namespace.field("rtopo/orders", message).contains("Image")).await;
    assert_eq!(of_pods(namespace, UID)[1..], pods[1..]);
    sql(namespace, "orders-core-1-0", "CREATE TABLE meanwhile AS SELECT 42 AS row");
    eventually("the others go on", async || sql(namespace, "orders-eu-3-0", "SELECT row FROM meanwhile") == "42").await;
    tree(namespace, IMAGE, "max_connections: '150'", 3);
    eventually("its row is there", async || sql(namespace, "orders-eu-2-0", "SELECT row FROM meanwhile") == "42").await;
    converged(namespace, "orders");
    assert_eq!(of_pods(namespace, UID)[1..], pods[1..]);
}

#[tokio::test]
async fn what_needs_a_start_is_rolled_out_from_the_leaves_up_and_what_is_taken_out_goes() {
    if !runs_pods() {
        return;
    }
    installed().await;
    let namespace = cluster().namespace("rollout");
    tree(&namespace, IMAGE, "", 3);
    converged(&namespace, "orders");
    parameters_are_rolled_out(&namespace);
    a_wrong_image_stops_at_the_first(&namespace).await;

    tree(&namespace, IMAGE, "max_connections: '150'", 2);
    let gone = ["wait", "--for=delete", "pod/orders-eu-3-0", "service/orders-eu-3", "secret/orders-eu-3-tls"];
    assert!(namespace.kubectl(&[&gone[..], &["--timeout=60s"]].concat(), "").status.success());
    converged(&namespace, "orders");
    assert_eq!(namespace.field("rtopo/orders", ".status.summary.nodes"), "3/3");
    assert_eq!(namespace.field("pvc/data-orders-eu-3-0", ".status.phase"), "Bound", "a volume is a person's to delete");
    for pod in ["orders-core-1-0", "orders-eu-1-0"] {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '%eu%3'";
        eventually("its slots are dropped", async || sql(&namespace, pod, slots) == "0").await;
    }
}
