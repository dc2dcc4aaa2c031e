//! What is applied for a node that is a pod, whole: whoever changes it sees what changes. `WALTREE_BLESS=1` takes it over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use serde_json::{Value, json};
use waltree::api::ReplicaTopology;
use waltree::model::NodeName;
use waltree::model::orders::Role;
use waltree::render::clients::{self, secret};
use waltree::render::pods::{service, stateful_set};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pods/rendered.yaml");

fn topology() -> ReplicaTopology {
    serde_json::from_value(json!({
        "apiVersion": "waltree.dev/v1alpha1",
        "kind": "ReplicaTopology",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "00000000-0000-0000-0000-000000000001"},
        "spec": {
            "storage": {"size": "100Gi", "className": "fast"},
            "groups": [{"name": "core", "replicas": 3}],
        },
    }))
    .unwrap()
}

#[test]
fn the_objects_of_a_node_and_those_that_clients_use_are_as_they_were_reviewed() {
    let (topology, node) = (topology(), NodeName::new("core-1").unwrap());
    let objects = [service(&topology, &node), stateful_set(&topology, &node, Role::Primary, "waltree:0.1.0")];
    let objects = objects.into_iter().chain(clients::objects(&topology, &node));
    let text = objects.map(|object| serde_yaml::to_string(&object).unwrap()).collect::<Vec<_>>().join("---\n");
    if std::env::var_os("WALTREE_BLESS").is_some() {
        std::fs::write(FILE, &text).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(FILE).unwrap_or_default(),
        text,
        "set WALTREE_BLESS=1 and look at the difference"
    );
}

#[test]
fn every_container_gives_up_every_right_that_it_does_not_need() {
    let (topology, node) = (topology(), NodeName::new("core-1").unwrap());
    let set = stateful_set(&topology, &node, Role::Primary, "waltree:0.1.0");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    let containers = ["initContainers", "containers"].map(|kind| pod[kind].as_array().unwrap().clone()).concat();
    assert_eq!(containers.len(), 2);
    for container in containers {
        let security = &container["securityContext"];
        let wanted = [
            ("allowPrivilegeEscalation", json!(false)),
            ("readOnlyRootFilesystem", json!(true)),
            ("capabilities", json!({"drop": ["ALL"]})),
        ];
        for (field, value) in wanted {
            assert_eq!(security[field], value, "{}: {field}", container["name"]);
        }
    }
    let text = set.to_string();
    assert!(!text.contains("password") && pod["securityContext"]["runAsNonRoot"] == Value::Bool(true), "{text}");
}

#[test]
fn the_secret_of_the_application_goes_with_the_password_that_is_in_it() {
    let mut topology = topology();
    let content = secret(&topology, "a/b c@d", "PEM");
    let uri = "postgresql://app:a%2Fb%20c%40d@orders-rw.shop.svc:5432/app?sslmode=require";
    assert_eq!(
        (content["uri"].as_str(), content["password"].as_str(), content["ca.crt"].as_str()),
        (uri, "a/b c@d", "PEM")
    );
    let postgres = serde_yaml::from_str("{bootstrap: {database: shop, owner: clerk}}").unwrap();
    topology.spec.postgres = Some(postgres);
    let content = secret(&topology, "x", "PEM");
    assert_eq!(content["uri"], "postgresql://clerk:x@orders-rw.shop.svc:5432/shop?sslmode=require");
    assert_eq!((content["user"].as_str(), content["dbname"].as_str()), ("clerk", "shop"));
}
