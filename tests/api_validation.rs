//! What the API server takes and refuses, asked of a real one, and what the operator says about the same objects.

#![allow(clippy::unwrap_used, clippy::panic, reason = "functions beside the tests fail as the tests do: by panic")]

mod support;

use std::process::Command;
use std::sync::OnceLock;

use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use support::kube::ApiServer;
use tokio::sync::OnceCell;
use waltree::api::{self, ReplicaTopology, ReplicaTopologyStatus};
use waltree::model::{Desired, Memory, NodeView, Observed, Unseen, WhyUnseen};
use waltree::operator::report;
use waltree::plan::{Outcome, Plan};

/// One server for this binary, or the one that was given. It is a static, so its keeper ends it when this process does.
fn server() -> &'static ApiServer {
    static SERVER: OnceLock<ApiServer> = OnceLock::new();
    SERVER.get_or_init(ApiServer::given_or_started)
}

/// The topologies of the default namespace, with the definition installed.
async fn topologies() -> Api<DynamicObject> {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let server = tokio::task::spawn_blocking(server).await.unwrap();
    let client = server.client().await;
    INSTALLED.get_or_init(|| install(client.clone())).await;
    Api::default_namespaced_with(client, &kube::api::ApiResource::erase::<ReplicaTopology>(&()))
}

async fn install(client: Client) {
    let definitions = Api::all(client.clone());
    let (definition, mine) = (api::crd(), PatchParams::apply("waltree-test").force());
    let name = definition.metadata.name.clone().unwrap();
    definitions.patch(&name, &mine, &Patch::Apply(&definition)).await.unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    kube::runtime::wait::await_condition(definitions, &name, established).await.unwrap();
    let kind = kube::api::ApiResource::erase::<ReplicaTopology>(&());
    let objects: Api<DynamicObject> = Api::default_namespaced_with(client, &kind);
    for _ in 0..200 {
        if objects.list(&ListParams::default()).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the new kind is not served");
}

fn object(name: &str, spec: &Value) -> DynamicObject {
    let object = json!({
        "apiVersion": "waltree.dev/v1alpha1", "kind": "ReplicaTopology", "metadata": {"name": name}, "spec": spec
    });
    serde_json::from_value(object).unwrap()
}

/// What the API server says to a new object; nothing is stored.
async fn ask(spec: &Value) -> Result<(), String> {
    let topologies = topologies().await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    topologies.create(&dry, &object("asked", spec)).await.map(|_| ()).map_err(|error| error.to_string())
}

/// What the operator says to the same spec.
fn operator(spec: &Value) -> Result<(), String> {
    let spec = serde_json::from_value(spec.clone()).map_err(|error| error.to_string())?;
    match Desired::try_from(&spec) {
        Ok(_) => Ok(()),
        Err(rejections) => Err(rejections.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

fn host(name: &str) -> Value {
    let octet: u32 = name.bytes().fold(0, |sum, byte| (sum * 31 + u32::from(byte)) % 250);
    json!({"name": name, "address": format!("192.0.2.{octet}")})
}

/// A primary with a standby, two relays, and two leaves below them.
fn good() -> Value {
    json!({"groups": [
        {"name": "core", "hosts": [host("core-1"), host("core-2")]},
        {"name": "eu", "relays": 2, "upstreams": ["core"], "hosts": [host("eu-1"), host("eu-2"), host("eu-3"), host("eu-4")]},
    ]})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut spec = good();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    match spec.pointer_mut(parent).unwrap() {
        Value::Object(fields) => {
            fields.insert(field.to_owned(), value);
        }
        Value::Array(items) if field == "-" => items.push(value),
        Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
        _ => panic!("{parent} holds nothing"),
    }
    spec
}

/// A spec with one value in the place in question.
type SpecWith<'a> = &'a dyn Fn(i64) -> Value;

/// Of each rule that does not look at the old object: the beginning of its message, what passes, what does not.
fn rules() -> Vec<(&'static str, Value, Value)> {
    let third =
        |upstreams: Value| with("/groups/-", json!({"name": "us", "upstreams": upstreams, "hosts": [host("us-1")]}));
    vec![
        ("A group names as upstreams only groups that are written above", third(json!(["eu"])), third(json!(["asia"]))),
        ("Exactly one group, the root group, has no upstreams", third(json!(["core"])), third(json!([]))),
        (
            "A group has either replicas, which waltree runs in pods, or hosts",
            json!({"groups": [{"name": "core", "replicas": 3}]}),
            json!({"groups": [{"name": "core"}]}),
        ),
        (
            "relays must be smaller than the number of replicas or hosts",
            with("/groups/1/relays", json!(3)),
            with("/groups/1/relays", json!(4)),
        ),
        ("The root group has no relays", with("/groups/0/relays", json!(0)), with("/groups/0/relays", json!(1))),
        (
            "retainedWal is a quantity from 64Mi to 100Ti",
            with("/limits", json!({"retainedWal": "64Mi"})),
            with("/limits", json!({"retainedWal": "63.9Mi"})),
        ),
        (
            "address is an IP or a host name without a port",
            with("/groups/1/hosts/0/address", json!("2001:db8::1")),
            with("/groups/1/hosts/0/address", json!("192.0.2.1:5433")),
        ),
        (
            "Every PostgreSQL has a database of this name already",
            with("/postgres", json!({"bootstrap": {"database": "shop"}})),
            with("/postgres", json!({"bootstrap": {"database": "template1"}})),
        ),
        (
            "This role is PostgreSQL's own, or waltree's",
            with("/postgres", json!({"bootstrap": {"owner": "clerk"}})),
            with("/postgres", json!({"bootstrap": {"owner": "pg_clerk"}})),
        ),
        ("A group names each upstream once", third(json!(["eu", "core"])), third(json!(["core", "core"]))),
    ]
}

fn written_rules(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(rules)) = fields.get("x-kubernetes-validations") {
                found.extend(rules.iter().map(|rule| rule["message"].as_str().unwrap().to_owned()));
            }
            fields.values().for_each(|field| written_rules(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| written_rules(item, found)),
        _ => {}
    }
}

#[test]
fn every_rule_of_the_definition_is_asked_about_here() {
    let mut written = Vec::new();
    written_rules(&serde_json::to_value(api::crd()).unwrap(), &mut written);
    let asked = rules();
    for message in &written {
        let changes = [
            "The first group is the root group",
            "The volumes are made, and storage cannot be changed yet",
            "The database is made, and postgres.bootstrap cannot be changed",
        ];
        let transition = changes.iter().any(|rule| message.starts_with(rule));
        assert!(
            transition || asked.iter().any(|(rule, ..)| message.starts_with(rule)),
            "nobody asks about {message:?}"
        );
    }
    assert_eq!(written.len(), asked.len() + 3);
}

/// Calls `field` with path, schema and whether it must be given, for every property below `schema`.
fn properties(schema: &Value, path: &str, field: &mut impl FnMut(&str, &Value, bool)) {
    let Some(Value::Object(known)) = schema.get("properties") else {
        return schema.get("items").map_or((), |items| properties(items, &format!("{path}[]"), field));
    };
    let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
    for (name, schema) in known {
        let path = format!("{path}.{name}");
        field(&path, schema, required(name));
        properties(schema, &path, field);
    }
}

#[test]
fn every_field_is_described_and_every_optional_value_says_its_default() {
    let definition = serde_json::to_value(api::crd()).unwrap();
    let root = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    properties(root, "", &mut |path, schema, required| {
        let text = schema["description"].as_str().unwrap_or_default();
        assert!(text.len() > 8, "{path} has no description");
        let value = path.starts_with(".spec.") && schema["type"] != "object" && !path.ends_with("upstreams");
        assert!(!value || required || text.contains("Default: "), "{path} does not say its default: {text}");
        let nothing = path == ".spec" && schema["default"] == json!({});
        assert!(nothing || schema["default"].is_null(), "{path} has a default that would be stored");
        assert!(path == ".status" || schema["nullable"].is_null(), "{path} may be null");
    });
}

#[tokio::test]
async fn every_rule_passes_what_is_right_and_refuses_what_is_wrong_and_the_operator_agrees() {
    assert_eq!(ask(&good()).await, Ok(()));
    for (rule, right, wrong) in rules() {
        assert_eq!(ask(&right).await, Ok(()), "{rule}");
        assert_eq!(operator(&right), Ok(()), "{rule}");
        let refusal = ask(&wrong).await.unwrap_err();
        assert!(refusal.contains(rule), "{rule}: {refusal}");
        operator(&wrong).unwrap_err();
    }
}

#[tokio::test]
async fn a_group_that_names_one_below_it_and_a_cycle_are_refused() {
    let below = with("/groups/0/upstreams", json!(["eu"]));
    let refusal = ask(&below).await.unwrap_err();
    assert!(refusal.contains("only groups that are written above"), "{refusal}");
    let said = operator(&below).unwrap_err();
    assert!(said.contains("core and eu feed each other in a cycle"), "{said}");
}

#[tokio::test]
async fn the_root_group_cannot_be_renamed_or_removed_and_others_can_be_changed() {
    let topologies = topologies().await;
    let made = topologies.create(&PostParams::default(), &object("kept", &good())).await.unwrap();
    let change = async |spec: &Value| {
        let mut changed = object("kept", spec);
        changed.metadata.resource_version.clone_from(&made.metadata.resource_version);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        topologies.replace("kept", &dry, &changed).await.map(|_| ()).map_err(|error| error.to_string())
    };
    let renamed = json!({"groups": [{"name": "heart", "hosts": [host("core-1"), host("core-2")]}]});
    let removed = json!({"groups": [{"name": "eu", "hosts": [host("eu-1")]}]});
    let mut stored = good();
    stored["storage"] = json!({"size": "2Gi"});
    let refusal = change(&stored).await.unwrap_err();
    assert!(refusal.contains("storage cannot be changed yet"), "{refusal}");
    stored = good();
    stored["postgres"] = json!({"image": "postgres:18", "bootstrap": {"owner": "clerk"}});
    let refusal = change(&stored).await.unwrap_err();
    assert!(refusal.contains("postgres.bootstrap cannot be changed"), "{refusal}");
    for wrong in [renamed, removed] {
        let refusal = change(&wrong).await.unwrap_err();
        assert!(refusal.contains("The first group is the root group; it cannot be removed or renamed"), "{refusal}");
    }
    let only_core = json!({"groups": [{"name": "core", "hosts": [host("core-1"), host("core-9")]}]});
    assert_eq!(change(&only_core).await, Ok(()));
    topologies.delete("kept", &kube::api::DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn every_bound_holds_at_its_edge_and_the_operator_has_the_same_bounds() {
    let healing = |field: &str, value: i64| with("/healing", json!({ field: value }));
    let limits = |field: &str, value: i64| with("/limits", json!({ field: value }));
    let port = |value: i64| with("/groups/0/hosts/0/port", json!(value));
    let fan_out = |value: i64| with("/groups/1/fanOut", json!(value));
    let bounds: [(SpecWith<'_>, i64, i64); 8] = [
        (&|v| healing("suspectAfterMilliseconds", v), 500, 600_000),
        (&|v| healing("lagSeconds", v), 1, 86_400),
        (&|v| healing("settleSeconds", v), 0, 86_400),
        (&|v| limits("fanOut", v), 1, 100),
        (&|v| limits("depth", v), 1, 16),
        (&|v| limits("crossRegionStreams", v), 1, 512),
        (&port, 1, 65_535),
        (&fan_out, 1, 100),
    ];
    for (spec, low, high) in bounds {
        for within in [low, high] {
            assert_eq!(ask(&spec(within)).await, Ok(()), "{}", spec(within));
            assert!(!operator(&spec(within)).is_err_and(|said| said.contains("not within")), "{}", spec(within));
        }
        for beyond in [low - 1, high + 1] {
            let refusal = ask(&spec(beyond)).await.unwrap_err();
            assert!(refusal.contains("should be "), "{refusal}");
            operator(&spec(beyond)).unwrap_err();
        }
    }
}

#[tokio::test]
async fn texts_that_mean_something_else_elsewhere_are_refused_by_both() {
    let wrong = [
        with("/groups/1/name", json!("Eu")),
        with("/groups/1/name", json!("a".repeat(54))),
        with("/groups/1/hosts/0/name", json!("eu_1")),
        with("/groups/1/hosts/0/address", json!("10.0.0.1,10.0.0.2")),
        with("/groups/1/hosts/0/address", json!("/var/run/postgresql")),
        with("/groups/1/hosts/0/zone", json!("a b")),
        with("/groups/1/region", json!("")),
        with("/automation", json!("Full")),
        with("/groups/1/sslMode", json!("Prefer")),
        with("/groups/1/credentialsSecretRef", json!({"name": "Orders_SQL"})),
        with("/groups/1/hosts", json!([])),
        with("/postgres", json!({"bootstrap": {"owner": "My Shop"}})),
        with("/postgres", json!({"hba": ["h".repeat(1025)]})),
        with(
            "/postgres",
            json!({"parameters": (0..401).map(|n| (format!("a.p{n}"), json!("1"))).collect::<serde_json::Map<_, _>>()}),
        ),
        json!({"groups": []}),
    ];
    for spec in wrong {
        ask(&spec).await.unwrap_err();
        operator(&spec).unwrap_err();
    }
    let twice = with("/groups/1/hosts/1", host("eu-1"));
    assert!(ask(&twice).await.unwrap_err().contains("Duplicate value"));
    assert!(operator(&twice).unwrap_err().contains("eu-1 is there twice in eu"));
}

#[tokio::test]
async fn the_largest_topology_that_the_definition_allows_is_within_the_cost_of_the_rules() {
    let mut groups = vec![json!({"name": "g0", "hosts": [host("root")]})];
    for group in 1..64 {
        let upstreams: Vec<String> = (group.max(4) - 4..group).map(|upstream| format!("g{upstream}")).collect();
        let hosts: Vec<Value> =
            (0..64).map(|n| json!({"name": format!("h{group}-{n}"), "address": "h.example"})).collect();
        groups.push(json!({"name": format!("g{group}"), "upstreams": upstreams, "relays": 2, "hosts": hosts}));
    }
    assert_eq!(ask(&json!({ "groups": groups })).await, Ok(()));
}

#[tokio::test]
async fn a_default_is_not_written_into_the_stored_object() {
    let topologies = topologies().await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let mut spec = good();
    spec["automation"] = Value::Null;
    let stored = topologies.create(&dry, &object("plain", &spec)).await.unwrap();
    assert_eq!(stored.data["spec"], good());
}

#[tokio::test]
async fn a_topology_without_a_spec_is_three_pods() {
    let topologies = topologies().await;
    let nothing =
        json!({"apiVersion": "waltree.dev/v1alpha1", "kind": "ReplicaTopology", "metadata": {"name": "plain"}});
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let stored = topologies.create(&dry, &serde_json::from_value(nothing).unwrap()).await.unwrap();
    assert_eq!(stored.data["spec"], json!({}));
    let stored: ReplicaTopology = serde_json::from_value(serde_json::to_value(stored).unwrap()).unwrap();
    let desired = Desired::try_from(&stored.spec).unwrap();
    assert!(desired.runs_pods());
    let nodes: Vec<&str> = desired.nodes.keys().map(waltree::model::NodeName::as_str).collect();
    assert_eq!(nodes, ["core-1", "core-2", "core-3"]);
}

#[tokio::test]
async fn every_sample_is_taken_by_the_api_server_and_by_the_operator() {
    topologies().await;
    let samples = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/samples")).unwrap();
    let mut count = 0;
    for sample in samples.map(|entry| entry.unwrap().path()) {
        let done = server().kubectl(&["apply", "--dry-run=server", "-f", sample.to_str().unwrap()], "");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let validate =
            Command::new(env!("CARGO_BIN_EXE_waltree")).arg("validate").arg("-f").arg(&sample).output().unwrap();
        assert!(validate.status.success(), "{}", String::from_utf8_lossy(&validate.stdout));
        count += 1;
    }
    assert!(count > 0);
}

#[tokio::test]
async fn kubectl_refuses_an_unknown_field_by_name() {
    topologies().await;
    let manifest = json!({
        "apiVersion": "waltree.dev/v1alpha1", "kind": "ReplicaTopology", "metadata": {"name": "odd"},
        "spec": with("/groups/1/fanout", json!(3)),
    });
    let said = server().kubectl(&["apply", "--dry-run=server", "-f", "-"], &manifest.to_string());
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains(r#"unknown field "spec.groups[1].fanout""#), "{text}");
}

#[tokio::test]
async fn kubectl_explains_every_field() {
    topologies().await;
    let explain = async |path: &str, recursive: &str| {
        let mut text = String::new();
        // The API server publishes the fields of a new kind a moment after it serves it.
        for _ in 0..100 {
            let said = server().kubectl(&["explain", path, recursive], "");
            text = String::from_utf8_lossy(&said.stdout).into_owned();
            if said.status.success() && text.contains("FIELDS") {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("kubectl explain {path}: {text}");
    };
    let tree = explain("rtopo.spec", "--recursive").await;
    for field in
        ["suspectAfterMilliseconds", "crossRegionStreams", "credentialsSecretRef", "sslMode", "upstreams", "zone"]
    {
        assert!(tree.contains(field), "{field} is not in {tree}");
    }
    let group = explain("rtopo.spec.groups", "--recursive=false").await;
    for text in ["Default: VerifyFull.", "`tls.crt`", "Default: limits.fanOut."] {
        assert!(group.contains(text), "{text} is not in {group}");
    }
    // The root and list types alone have no text of their own.
    assert!(!group.contains("<no description>"), "{group}");
}

#[tokio::test]
async fn a_status_is_read_back_as_it_was_written_and_the_columns_show_it() {
    let topologies = topologies().await;
    topologies.create(&PostParams::default(), &object("told", &good())).await.unwrap();
    let spec = serde_json::from_value(good()).unwrap();
    let desired = Desired::try_from(&spec).unwrap();
    let unseen = Unseen { why: WhyUnseen::Refused, detail: "connection refused".to_owned() };
    let view = NodeView { last: None, unseen: Some(unseen) };
    let nodes = desired.nodes.keys().cloned().map(|node| (node, view.clone())).collect();
    let observed = Observed { nodes, memory: Memory::default().into() };
    let (plan, outcome) = (Plan::default(), Outcome::default());
    let now = jiff::Timestamp::from_millisecond(1_700_000_000_123).unwrap();
    let written = report::status(&desired, &observed, &plan, &outcome, None, 1, now);
    let patch = json!({"apiVersion": "waltree.dev/v1alpha1", "kind": "ReplicaTopology", "status": written});
    let apply = PatchParams::apply("waltree");
    let stored = topologies.patch_status("told", &apply, &Patch::Apply(&patch)).await.unwrap();
    let read: ReplicaTopologyStatus = serde_json::from_value(stored.data["status"].clone()).unwrap();
    assert_eq!(read, written);
    let again = report::status(&desired, &observed, &plan, &outcome, Some(&read), 1, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(again, read);
    let said = server().kubectl(&["get", "rtopo", "told"], "");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "READY", "PRIMARY", "NODES", "FALLBACKS", "LAG", "REASON", "AGE"]);
    assert_eq!(words[1][..6], ["told", "Unknown", "0/6", "0/0", "?", "Refused"]);
    topologies.delete("told", &kube::api::DeleteParams::default()).await.unwrap();
}

#[test]
fn a_test_server_keeps_its_data_over_an_outage_and_leaves_nothing_behind() {
    let mut server = ApiServer::start();
    let directory = server.directory().to_owned();
    let pids: Vec<String> = ["etcd", "kube-apiserver"]
        .map(|name| std::fs::read_to_string(directory.join(format!("{name}.pid"))).unwrap())
        .into();
    let made = server.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"], "");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(server.kubectl(&["create", "serviceaccount", "nobody"], "").status.success());
    server.stop();
    assert!(!server.kubectl(&["get", "configmap", "kept"], "").status.success());
    server.resume();
    assert!(server.kubectl(&["get", "configmap", "kept"], "").status.success());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listed = runtime.block_on(async {
        let client = server.client_as("default", "nobody").await;
        Api::<k8s_openapi::api::core::v1::ConfigMap>::default_namespaced(client).list(&ListParams::default()).await
    });
    let refusal = listed.unwrap_err().to_string();
    assert!(refusal.contains("system:serviceaccount:default:nobody"), "{refusal}");
    drop(server);
    assert!(!directory.exists());
    for pid in pids {
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists(), "{pid} is still there");
    }
}

#[path = "api_validation/documents.rs"]
mod documents;
