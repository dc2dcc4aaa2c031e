//! Who leads when the API server answers badly, and what the process itself says and does: on a real API server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use support::kube::ApiServer;
use support::operator::{SYSTEM, install, leader};
use support::postgres::{Tree, WALTREE_PASSWORD, eventually};
use tokio::sync::watch;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;
use waltree::operator::leadership::{self, Term, campaign};

/// A client of the same server on whose way something happens to each write: it is given the request and the way on.
fn on_the_way<F: Future<Output = Response> + Send>(
    client: Client,
    write: impl Fn(Client, Request) -> F + Clone + Send + Sync + 'static,
) -> Client {
    let way = Router::new().fallback(async move |request: Request| {
        if request.method() == Method::GET { pass(client, request).await } else { write(client, request).await }
    });
    Client::new(way, SYSTEM)
}

/// Carries a request to the API server, and its answer back.
async fn pass(client: Client, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let answer = client.send(Request::from_parts(head, body).map(Into::into)).await.unwrap();
    answer.map(axum::body::Body::new)
}

/// A candidate that uses this client, and what it says of its leadership.
fn candidate(client: Client, stop: &CancellationToken) -> watch::Receiver<Option<Term>> {
    let (leading, term) = watch::channel(None);
    let leases = Api::namespaced(client, SYSTEM);
    tokio::spawn(campaign(leases, "first".to_owned(), leading, watch::channel(false).0, stop.clone()));
    term
}

/// Waits until the Lease was renewed a few times more.
async fn is_renewed(client: &Client) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM);
    let renewed = async || leases.get(leadership::LEASE).await.unwrap().spec.unwrap().renew_time;
    for _ in 0..3 {
        let before = renewed().await;
        eventually("the Lease is renewed", async || renewed().await != before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gets_no_answer_to_its_writes_leads_all_the_same_when_they_are_stored() {
    let server = ApiServer::start();
    install(&server);
    let client = server.client().await;
    let unanswered = on_the_way(client.clone(), async |client, request| {
        pass(client, request).await;
        std::future::pending().await
    });
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    let mut term = candidate(unanswered, &stop);
    assert_eq!(*term.wait_for(Option::is_some).await.unwrap(), Some(Term(1)));
    term.mark_unchanged();
    is_renewed(&client).await;
    assert!(!term.has_changed().unwrap(), "it leads without a break");
    assert_eq!(leader(&client).await, (Some("first".to_owned()), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_is_annotated_under_its_hands_leads_on() {
    let server = ApiServer::start();
    install(&server);
    let client = server.client().await;
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let annotated = on_the_way(client.clone(), move |client: Client, request| {
        let annotates = is_armed.swap(false, Ordering::SeqCst);
        async move {
            if annotates {
                let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM);
                let patch = Patch::Merge(json!({"metadata": {"annotations": {"somebody": "was here"}}}));
                leases.patch(leadership::LEASE, &PatchParams::default(), &patch).await.unwrap();
            }
            pass(client, request).await
        }
    });
    let stop = CancellationToken::new();
    let _ends = stop.clone().drop_guard();
    let mut term = candidate(annotated, &stop);
    assert_eq!(*term.wait_for(Option::is_some).await.unwrap(), Some(Term(1)));
    term.mark_unchanged();
    armed.store(true, Ordering::SeqCst);
    eventually("it was annotated", async || !armed.load(Ordering::SeqCst)).await;
    is_renewed(&client).await;
    assert!(!term.has_changed().unwrap(), "it leads without a break");
    assert_eq!(leader(&client).await, (Some("first".to_owned()), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_logs_json_that_says_what_it_is_about_and_gives_the_lease_back_when_it_is_terminated() {
    let (server, mut tree) = (ApiServer::start(), Tree::start(None));
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    install(&server);
    let client = server.client().await;
    let log = server.directory().join("operator.log");
    let mut process = Command::new(env!("CARGO_BIN_EXE_waltree"))
        .env("KUBECONFIG", server.kubeconfig_as(SYSTEM, "waltree-operator").await)
        .args(["operator", "--identity=first", "--listen=127.0.0.1:0", "--lease-namespace", SYSTEM])
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let pid = server.directory().join("operator.pid");
    fs::write(&pid, format!("{}\n", process.id())).unwrap();
    // A session of an earlier leader still has the right to write on one of them.
    let login =
        format!("host=127.0.0.1 port={} user=waltree password={WALTREE_PASSWORD} dbname=postgres", tree.port("eu-1"));
    let (before, connection) =
        tokio_postgres::connect(&format!("{login} application_name=waltree:0:before"), NoTls).await.unwrap();
    tokio::spawn(connection);
    before.batch_execute(&format!("SELECT pg_advisory_lock({KEY}, {SCOPE})")).await.unwrap();
    let applied = server.kubectl(&["apply", "--server-side", "-n", "default", "-f", "-"], &manifest(&tree));
    assert!(applied.status.success(), "{applied:?}");

    let lines = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    let says = |message: &str, fields: &[(&str, &str)]| {
        let about = |line: &Value| fields.iter().all(|(name, value)| line[name] == *value);
        lines().iter().any(|line| line["message"] == message && about(line))
    };
    let set = [("topology", "default/orders"), ("node", "eu-1"), ("step", "SetRoute")];
    eventually("the route is set", async || says("done", &set)).await;
    assert!(says("seen", &set[..2]));
    assert_eq!(leader(&client).await, (Some("first".to_owned()), 1));

    let ended = "an older session is ended to take its right to write";
    assert!(says(ended, &set[..1]));
    let of_node = |line: &Value| line["message"] == ended && line["span"]["node"] == "eu-1";
    assert!(lines().iter().any(of_node));

    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap();
    fs::remove_file(pid).unwrap();
    assert_eq!(ended.code(), Some(0));
    assert_eq!(leader(&client).await, (None, 1), "the Lease is given back and its term kept");
    assert!(says("stopping", &[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_process_logs_text_about_the_same() {
    let server = ApiServer::start();
    install(&server);
    let [log, pid] = ["operator.log", "operator.pid"].map(|name| server.directory().join(name));
    let [written, program] = [pid.to_str().unwrap(), env!("CARGO_BIN_EXE_waltree")];
    let arguments = format!("operator --identity=first --listen=127.0.0.1:0 --lease-namespace {SYSTEM}");
    let mut terminal = Command::new("script")
        .args(["-qec", &format!("echo $$ >'{written}'; exec '{program}' {arguments}"), "/dev/null"])
        .env("SHELL", "/bin/sh")
        .env("KUBECONFIG", server.kubeconfig_as(SYSTEM, "waltree-operator").await)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let nobody = "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {name: orders}\nspec:\n  \
                  groups: [{name: core, sslMode: Disable, hosts: [{name: core-1, address: 127.0.0.1, port: 1}]}]\n";
    let applied = server.kubectl(&["apply", "--server-side", "-n", "default", "-f", "-"], nobody);
    assert!(applied.status.success(), "{applied:?}");
    let lines = || -> Vec<String> {
        let text = fs::read_to_string(&log).unwrap();
        let plain = text.split('\x1b').enumerate().map(|(place, part)| match (place, part.split_once('m')) {
            (1.., Some((_, plain))) => plain,
            _ => part,
        });
        plain.collect::<String>().lines().map(str::to_owned).collect()
    };
    let says = |words: &[&str]| lines().iter().any(|line| words.iter().all(|word| line.contains(word)));
    eventually("it says what it sees", async || says(&["not seen", "default/orders", "node=core-1"])).await;
    assert!(Command::new("kill").arg(fs::read_to_string(&pid).unwrap().trim()).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || terminal.wait().unwrap()).await.unwrap();
    fs::remove_file(pid).unwrap();
    assert_eq!(ended.code(), Some(0), "{:?}", lines());
    assert!(says(&[" INFO ", "stopping"]), "{:?}", lines());
    assert!(!lines().iter().any(|line| line.starts_with('{')), "{:?}", lines());
}

/// The two halves of the lock of `default/orders`.
const KEY: i32 = 0x7761_6C74;
const SCOPE: i32 = 0x5c94_7f42;

fn manifest(tree: &Tree) -> String {
    let group = |name: &str, more: &str, node: &str| {
        let port = tree.port(node);
        let access = "sslMode: Disable, credentialsSecretRef: {name: sql}";
        format!("  - {{name: {name}, {more}{access}, hosts: [{{name: {node}, address: 127.0.0.1, port: {port}}}]}}\n")
    };
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: sql}}\n\
         stringData: {{username: waltree, password: {WALTREE_PASSWORD}}}\n---\n\
         apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: orders}}\nspec:\n  groups:\n{}{}",
        group("core", "", "core-1"),
        group("eu", "upstreams: [core], ", "eu-1"),
    )
}
