//! The whole operator on a real API server and real PostgreSQL servers, with the rights of `deploy/rbac.yaml` only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::events::Reporter;
use kube::{Api, Client};
use serde::Deserialize;
use support::kube::ApiServer;
use support::operator::{Operator, install, leader};
use support::postgres::{Tree, WALTREE_PASSWORD, eventually};
use waltree::api::conditions::ConditionType;
use waltree::api::{ReplicaTopology, conditions};
use waltree::model::NodeName;
use waltree::operator::clerk::Clerk;
use waltree::operator::events::Notice;

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_operators_leads_and_the_other_takes_over_when_it_is_told_to_stop() {
    let server = ApiServer::start();
    install(&server);
    let client = server.client().await;
    let first = Operator::start(&server, "first").await;
    eventually("the first leads", async || first.shows("waltree_leading 1").await).await;
    assert_eq!(leader(&client).await, (Some("first".to_owned()), 1));

    let second = Operator::start(&server, "second").await;
    assert!(second.shows("waltree_leading 0").await, "two lead");
    assert_eq!(second.get("/readyz").await.unwrap().0, 200, "a follower is ready");

    first.stop().await;
    assert_eq!(leader(&client).await, (None, 1), "the Lease is given back and its term kept");
    eventually("the second leads", async || second.shows("waltree_leading 1").await).await;
    assert_eq!(leader(&client).await, (Some("second".to_owned()), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_killed_is_followed_by_another_under_a_new_term() {
    let server = ApiServer::start();
    install(&server);
    let client = server.client().await;
    let first = Operator::start(&server, "first").await;
    eventually("the first leads", async || leader(&client).await == (Some("first".to_owned()), 1)).await;
    let second = Operator::start(&server, "second").await;
    drop(first);
    eventually("the second leads", async || leader(&client).await == (Some("second".to_owned()), 2)).await;
    eventually("the second acts", async || second.shows("waltree_leading 1").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_the_api_server_does_not_answer_stops_and_leads_again_under_a_new_term() {
    let mut server = ApiServer::start();
    install(&server);
    let client = server.client().await;
    let operator = Operator::start(&server, "first").await;
    eventually("it leads", async || operator.shows("waltree_leading 1").await).await;
    server.stop();
    eventually("it stops", async || operator.shows("waltree_leading 0").await).await;
    assert_eq!(operator.get("/livez").await.unwrap().0, 200, "it lives");
    server.resume();
    eventually("it leads again", async || operator.shows("waltree_leading 1").await).await;
    assert_eq!(leader(&client).await, (Some("first".to_owned()), 2));
}

#[test]
fn the_deployment_is_taken_without_a_warning_where_pods_are_restricted() {
    let server = ApiServer::start();
    install(&server);
    let said = support::operator::apply(&server, "deploy/operator.yaml", &["--dry-run=server"]);
    assert_eq!(said, "");
}

/// A topology of the four servers of [`star`].
fn manifest(tree: &Tree) -> String {
    let host = |node: &str| format!("{{name: {node}, address: 127.0.0.1, port: {}}}", tree.port(node));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: sql}}\n\
         stringData: {{username: waltree, password: {WALTREE_PASSWORD}}}\n---\n\
         apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: orders}}\n\
         spec:\n  healing: {{settleSeconds: 1}}\n  groups:\n\
         \x20 - {{name: core, sslMode: Disable, credentialsSecretRef: {{name: sql}}, hosts: [{}]}}\n\
         \x20 - {{name: eu, upstreams: [core], relays: 2, sslMode: Disable, credentialsSecretRef: {{name: sql}},\n\
         \x20    hosts: [{}, {}, {}]}}\n",
        host("core-1"),
        host("eu-1"),
        host("eu-2"),
        host("eu-3"),
    )
}

/// A primary that feeds three others.
async fn star() -> Tree {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    for node in ["eu-1", "eu-2", "eu-3"] {
        tree.standby(node, "core-1").await;
    }
    tree
}

fn apply(server: &ApiServer, namespace: &str, manifest: &str) {
    let done = server.kubectl(&["apply", "--server-side", "-n", namespace, "-f", "-"], manifest);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The topology, when it is as declared.
async fn ready(client: &Client, namespace: &str) -> Option<ReplicaTopology> {
    let topologies: Api<ReplicaTopology> = Api::namespaced(client.clone(), namespace);
    let topology = topologies.get("orders").await.unwrap();
    let kinds = [ConditionType::Ready, ConditionType::Rooted, ConditionType::Converged];
    let is_ready = kinds.into_iter().all(|kind| conditions::is_true(topology.conditions(), kind));
    is_ready.then_some(topology)
}

async fn reasons(client: &Client) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let events = events.list(&ListParams::default()).await.unwrap();
    events.items.into_iter().filter_map(|event| Some(format!("{} {}", event.action?, event.reason?))).collect()
}

/// Pods get no further than their objects there.
async fn pods_without_anybody_who_runs_them(server: &ApiServer) {
    let pods = "{apiVersion: waltree.dev/v1alpha1, kind: ReplicaTopology, metadata: {name: pods},
                 spec: {groups: [{name: core, replicas: 2}]}}";
    assert!(server.kubectl(&["apply", "-n", "default", "-f", "-"], pods).status.success());
    eventually("its objects are made", async || server.deeds().contains(&deed("apps", "statefulsets", "patch"))).await;
    // Nobody makes the pod here, and whoever made it has it say what it is not.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: pods-core-1-0, labels: {waltree.dev/topology: pods,
               waltree.dev/node: core-1, waltree.dev/role: standby}, annotations: {waltree.dev/image: none}}, spec: {automountServiceAccountToken: false, containers: [{name: postgres, image: none}]}}";
    apply(server, "default", "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}");
    apply(server, "default", pod);
    eventually("its label is set right", async || server.deeds().contains(&deed("", "pods", "patch"))).await;
    // Nor is it made anew by itself when it does not run, made from an image that is not named any more.
    let status = |kind: &str, name: &str, status: &str| {
        let patch = ["patch", kind, name, "-n", "default", "--subresource=status", "--type=merge", "-p", status];
        assert!(server.kubectl(&patch, "").status.success());
    };
    status("statefulset", "pods-core-1", r#"{"status": {"observedGeneration": 1, "replicas": 1}}"#);
    let waits = r#"{"name": "postgres", "image": "none", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"waiting": {"reason": "ErrImagePull"}}}"#;
    status("pod", "pods-core-1-0", &format!(r#"{{"status": {{"containerStatuses": [{waits}]}}}}"#));
    eventually("it is deleted", async || server.deeds().contains(&deed("", "pods", "delete"))).await;
    // Nobody was ever seen, so nobody needs what is taken out.
    let secret = ["wait", "--for=create", "secret/pods-core-2-tls", "-n", "default", "--timeout=60s"];
    assert!(server.kubectl(&secret, "").status.success());
    assert!(
        server
            .kubectl(&["apply", "-n", "default", "-f", "-"], &pods.replace("replicas: 2", "replicas: 1"))
            .status
            .success()
    );
    for (group, kind) in [("apps", "statefulsets"), ("", "services"), ("", "secrets")] {
        eventually(kind, async || server.deeds().contains(&deed(group, kind, "delete"))).await;
    }
    // A password of somebody's own choice: the rest of the Secret follows.
    let password = r#"{"stringData": {"password": "chosen"}}"#;
    let changed = ["patch", "secret", "pods-app", "-n", "default", "--type=merge", "-p", password];
    let there = ["wait", "--for=create", "secret/pods-app", "-n", "default", "--timeout=60s"];
    for command in [&there[..], &changed] {
        let done = server.kubectl(command, "");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let uri = ["get", "secret", "pods-app", "-n", "default", "-o", "go-template={{.data.uri | base64decode}}"];
    eventually("its URI has the password", async || {
        String::from_utf8_lossy(&server.kubectl(&uri, "").stdout).contains("://app:chosen@pods-rw.default.svc:5432/app")
    })
    .await;
    // Certificates are made anew in time, and whatever of them somebody deletes as well.
    let field = |secret: &str, field: &str| {
        let get = ["get", "secret", secret, "-n", "default", "-o", &format!("jsonpath={field}")];
        String::from_utf8(server.kubectl(&get, "").stdout).unwrap()
    };
    let (before, authority) = (field("pods-core-1-tls", "{.data.tls\\.crt}"), field("pods-ca", "{.data.ca\\.crt}"));
    assert!(!before.is_empty() && !authority.is_empty());
    let old = ["annotate", "secret", "pods-core-1-tls", "-n", "default", "--overwrite"];
    let old = [&old[..], &["waltree.dev/renew-after=2020-01-01T00:00:00Z"]].concat();
    assert!(server.kubectl(&old, "").status.success());
    eventually("it is made anew", async || field("pods-core-1-tls", "{.data.tls\\.crt}") != before).await;
    let before = field("pods-core-1-tls", "{.data.tls\\.crt}");
    let gone = ["delete", "secret", "pods-core-1-tls", "pods-ca", "-n", "default"];
    assert!(server.kubectl(&gone, "").status.success());
    eventually("both are there again", async || {
        let made = field("pods-core-1-tls", "{.data.tls\\.crt}");
        !made.is_empty() && made != before && field("pods-ca", "{.data.ca\\.crt}") == authority
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_is_built_healed_reported_and_taken_down_with_the_operators_own_rights() {
    let (server, mut tree) = (ApiServer::start(), star().await);
    install(&server);
    let client = server.client().await;
    let operator = Operator::start(&server, "first").await;
    apply(&server, "default", &manifest(&tree));

    let feeds = |tree: &Tree, relay: &str| format!("port={}", tree.port(relay));
    let upstream = "SELECT 'port=' || sender_port FROM pg_stat_wal_receiver WHERE status = 'streaming'";
    tree.until("eu-3", upstream, &feeds(&tree, "eu-1")).await;
    eventually("the topology is ready", async || ready(&client, "default").await.is_some()).await;
    assert!(operator.shows("waltree_topologies 1").await);
    assert!(reasons(&client).await.iter().any(|reason| reason.starts_with("SetRoute ")));

    tree.kill("eu-1");
    tree.until("eu-3", upstream, &feeds(&tree, "eu-2")).await;
    eventually("the loss is told", async || reasons(&client).await.contains(&"Diagnose DeadRelay".to_owned())).await;
    tree.spawn("eu-1");
    tree.until("eu-3", upstream, &feeds(&tree, "eu-1")).await;
    eventually("the topology is ready again", async || ready(&client, "default").await.is_some()).await;

    // The same again, so that an event is told as the repetition it is.
    tree.kill("eu-1");
    tree.until("eu-3", upstream, &feeds(&tree, "eu-2")).await;
    eventually("the loss is told", async || server.deeds().contains(&deed("events.k8s.io", "events", "patch"))).await;
    tree.spawn("eu-1");
    tree.until("eu-3", upstream, &feeds(&tree, "eu-1")).await;
    eventually("the topology is ready again", async || ready(&client, "default").await.is_some()).await;

    let topologies: Api<ReplicaTopology> = Api::namespaced(client.clone(), "default");
    topologies.delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("the topology is gone", async || topologies.get_opt("orders").await.unwrap().is_none()).await;
    for node in ["core-1", "eu-1", "eu-2", "eu-3"] {
        let idle = "SELECT count(*)::text FROM pg_replication_slots WHERE NOT active";
        assert_eq!(tree.value(node, idle).await, "0", "an idle slot is left on {node}");
    }
    assert_eq!(tree.value("eu-3", upstream).await, feeds(&tree, "eu-1"), "replication goes on");
    assert!(operator.shows("waltree_topologies 0").await);
    pods_without_anybody_who_runs_them(&server).await;
    // In such a life every right is used, and what is not granted cannot be: each is granted because it is needed. What is
    // applied may have to be created, which is asked about within the patch.
    let mut deeds = server.deeds();
    let applied = [("", "services"), ("apps", "statefulsets"), ("policy", "poddisruptionbudgets")];
    deeds.extend(applied.map(|(group, resource)| deed(group, resource, "create")));
    assert_eq!(deeds, granted("deploy/rbac.yaml"));
    assert_eq!(granted("deploy/rbac-namespaced.yaml"), granted("deploy/rbac.yaml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_slots_that_a_server_does_not_let_go() {
    let (server, tree) = (ApiServer::start(), star().await);
    install(&server);
    let client = server.client().await;
    let operator = Operator::start(&server, "first").await;
    apply(&server, "default", &manifest(&tree));
    eventually("the topology is ready", async || ready(&client, "default").await.is_some()).await;
    let attributes = async |attributes: &str| {
        tree.sql("core-1", &format!("ALTER ROLE waltree {attributes}")).await;
        let flag = "SELECT rolreplication FROM pg_roles WHERE rolname = 'waltree'";
        for node in ["core-1", "eu-1", "eu-2", "eu-3"] {
            tree.until(node, flag, if attributes == "REPLICATION" { "t" } else { "f" }).await;
        }
    };
    attributes("NOREPLICATION").await;
    let topologies: Api<ReplicaTopology> = Api::namespaced(client.clone(), "default");
    topologies.delete("orders", &DeleteParams::default()).await.unwrap();
    // Some try, and the others wait before they are tried again: neither is the end.
    let failed = async || {
        let figure = "waltree_steps_total{kind=\"DropSlot\",outcome=\"failed\"}";
        operator.figure(figure).await.unwrap_or(0.0)
    };
    eventually("it was tried again and again", async || failed().await >= 12.0).await;
    let status = topologies.get("orders").await.unwrap().status.unwrap();
    let converged = status.conditions.iter().find(|condition| condition.type_ == "Converged").unwrap();
    assert_eq!((&*converged.status, &*converged.reason), ("False", "StepFailed"), "{}", converged.message);

    attributes("REPLICATION").await;
    eventually("the topology is gone", async || topologies.get_opt("orders").await.unwrap().is_none()).await;
    for node in ["core-1", "eu-1", "eu-2", "eu-3"] {
        let idle = "SELECT count(*)::text FROM pg_replication_slots WHERE NOT active";
        assert_eq!(tree.value(node, idle).await, "0", "an idle slot is left on {node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_text_is_told_anew_and_the_same_text_is_told_as_a_repetition() {
    let server = ApiServer::start();
    let client = server.client().await;
    let mut topology = ReplicaTopology::new("orders", serde_yaml::from_str("{groups: []}").unwrap());
    topology.metadata.namespace = Some("default".to_owned());
    let reporter = Reporter { controller: "waltree-operator".to_owned(), instance: Some("first".to_owned()) };
    let topologies = Api::namespaced(client.clone(), "default");
    let clerk = Clerk::new(&topology, topologies, (client.clone(), reporter), Arc::default());
    let notes = ["eu-3: eu-1 gives it nothing", "eu-3: eu-1 gives it nothing", "eu-3: eu-2 gives it nothing"];
    for note in notes {
        let node = NodeName::new("eu-3").unwrap();
        clerk.tell(Notice { warning: true, reason: "CutOffLeaf", action: "Diagnose", node, note: note.to_owned() });
    }
    let columns = "-o=custom-columns=NOTE:.note,COUNT:.series.count";
    eventually("both causes are told", async || {
        let told = server.kubectl(&["get", "events.v1.events.k8s.io", "--no-headers", columns], "").stdout;
        let told = String::from_utf8(told).unwrap();
        let mut told: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
        told.sort();
        told.iter().map(|words| words.join(" ")).eq([format!("{} 2", notes[0]), format!("{} <none>", notes[2])])
    })
    .await;
}

fn deed(group: &str, resource: &str, verb: &str) -> [String; 3] {
    [group, resource, verb].map(str::to_owned)
}

/// A Role or a ClusterRole, as far as both are the same.
#[derive(Deserialize)]
struct Grants {
    metadata: ObjectMeta,
    #[serde(default)]
    rules: Vec<PolicyRule>,
}

/// What a file grants the operator: API group, resource and verb.
fn granted(file: &str) -> BTreeSet<[String; 3]> {
    let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut granted = BTreeSet::new();
    for object in serde_yaml::Deserializer::from_str(&text) {
        let grants = Grants::deserialize(object).unwrap();
        let ours = grants.metadata.name.is_some_and(|name| name.starts_with("waltree-operator"));
        for rule in grants.rules.iter().filter(|_| ours) {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    granted.extend(rule.verbs.iter().map(|verb| deed(group, resource, verb)));
                }
            }
        }
    }
    granted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_taken_out_of_the_spec_keeps_its_stream_and_leaves_no_slot_behind() {
    let (server, mut tree) = (ApiServer::start(), star().await);
    install(&server);
    let client = server.client().await;
    let operator = Operator::start(&server, "first").await;
    apply(&server, "default", &manifest(&tree));
    eventually("the topology is ready", async || ready(&client, "default").await.is_some()).await;
    let slot = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'eu_3'";
    for node in ["core-1", "eu-1", "eu-2"] {
        assert_eq!(tree.value(node, slot).await, "1", "its slot is prepared on {node}");
    }
    let receiver = tree.value("eu-3", "SELECT pid FROM pg_stat_wal_receiver").await;

    // Whoever takes the topology over knows of it as well.
    operator.stop().await;
    let without = format!(", {{name: eu-3, address: 127.0.0.1, port: {}}}", tree.port("eu-3"));
    apply(&server, "default", &manifest(&tree).replace(&without, "").replace("relays: 2", "relays: 1"));
    let operator = Operator::start(&server, "second").await;
    for node in ["core-1", "eu-2"] {
        tree.until(node, slot, "0").await;
    }
    assert_eq!(tree.value("eu-3", "SELECT pid FROM pg_stat_wal_receiver").await, receiver, "its stream was cut");
    assert_eq!(tree.value("eu-1", slot).await, "1", "the slot that it uses was dropped");
    let leaving = async || {
        let topologies: Api<ReplicaTopology> = Api::namespaced(client.clone(), "default");
        topologies.get("orders").await.unwrap().status.unwrap().leaving
    };
    assert_eq!(leaving().await, ["eu-3"]);

    tree.kill("eu-3");
    tree.until("eu-1", slot, "0").await;
    eventually("nothing of it is left", async || leaving().await.is_empty()).await;

    // What others have on a server that is not ours any more is told.
    tree.until("eu-1", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'eu_2' AND active", "1").await;
    let relay = format!("{{name: eu-1, address: 127.0.0.1, port: {}}}, ", tree.port("eu-1"));
    let manifest = manifest(&tree).replace(&without, "").replace(&relay, "").replace("relays: 2, ", "");
    apply(&server, "default", &manifest);
    tree.until("core-1", "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'eu_2' AND active", "1").await;
    let told = async || reasons(&client).await.contains(&"DropSlot SlotsLeft".to_owned());
    eventually("its slot on the relay is named", told).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_of_one_namespace_is_tended_with_rights_in_it_only_and_nothing_is_written_while_nothing_happens() {
    let (server, tree) = (ApiServer::start(), star().await);
    support::operator::apply(&server, "crds/waltree.dev_replicatopologies.yaml", &[]);
    assert!(server.kubectl(&["create", "namespace", "shop"], "").status.success());
    support::operator::apply(&server, "deploy/rbac-namespaced.yaml", &["-n", "shop"]);
    let client = server.client().await;
    let operator = Operator::start_in(&server, "first", "shop").await;
    apply(&server, "shop", &manifest(&tree));
    eventually("the topology is ready", async || ready(&client, "shop").await.is_some()).await;

    let passes = async || operator.figure("waltree_reconcile_duration_seconds_count").await.unwrap_or(0.0);
    let rest = async |count: f64| {
        let from = passes().await;
        eventually("more passes", async || passes().await >= from + count).await;
    };
    // Who wrote it last is in its metadata, and what is in its status.
    let stored = async || {
        let topology = ready(&client, "shop").await.unwrap();
        (topology.metadata.resource_version, serde_yaml::to_string(&topology.status).unwrap())
    };
    // Until it has come to rest; then the same again, in which nothing may be written.
    let mut before = stored().await;
    for tries in 1.. {
        rest(5.0).await;
        let now = stored().await;
        if now == before {
            break;
        }
        assert!(tries < 12, "its status changes again and again");
        before = now;
    }
    let writes = operator.figure("waltree_status_writes_total").await;
    rest(10.0).await;
    let (version, status) = stored().await;
    assert_eq!(version, before.0, "it was\n{}\nand is\n{status}", before.1);
    assert_eq!(operator.figure("waltree_status_writes_total").await, writes);
    assert!(writes.is_some_and(|writes| writes >= 1.0));
}
