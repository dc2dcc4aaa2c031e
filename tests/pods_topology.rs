//! Topologies of pods, as a person applies them: on real nodes, with the operator as it is deployed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::Value;
use support::nodes::{Namespace, cluster, runs_pods};
use support::pods::{converged, installed, sql};
use support::postgres::eventually;

fn three(namespace: &Namespace) {
    namespace.apply(
        "{apiVersion: waltree.dev/v1alpha1, kind: ReplicaTopology, metadata: {name: orders}, spec: {
           postgres: {image: 'waltree.test/postgres:15'}}}",
    );
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
async fn three_pods_begin_from_nothing_and_one_that_is_deleted_comes_back_with_its_data() {
    if !runs_pods() {
        return;
    }
    installed().await;
    let namespace = cluster().namespace("three");
    three(&namespace);
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
