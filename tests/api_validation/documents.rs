//! Whole documents and addresses: what the API server refuses, `waltree validate` refuses too, in words that help more.

use super::support::ground::validate;
use super::*;

const GOOD: &str = "apiVersion: waltree.dev/v1alpha1
kind: ReplicaTopology
metadata: {name: orders, namespace: default}
spec:
  groups:
  - {name: core, hosts: [{name: core-1, address: 192.0.2.1, zone: a}]}
";

/// Whether the API server takes a document, and what it says if not.
fn stored(manifest: &str) -> (bool, String) {
    let said = server().kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", "-"], manifest);
    (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned())
}

#[tokio::test]
async fn a_document_that_the_api_server_refuses_is_refused_by_validate_with_the_cure() {
    topologies().await;
    let (taken, said) = stored(GOOD);
    assert!(taken, "{said}");
    assert_eq!(validate(GOOD).0, Some(0));
    let metadata = "{name: orders, namespace: default}";
    for (part, wrong, told) in [
        (metadata, "{name: Orders_X}", "metadata.name: \"Orders_X\" is no name: use 1 to 253 "),
        (metadata, "{name: Orders_X}", ", such as orders-x"),
        (metadata, "{name: orders, namespace: Shop_1}", "metadata.namespace: \"Shop_1\" is no name of a namespace"),
        (metadata, "{name: orders, lables: {a: b}}", "metadata.lables: there is no such field"),
        (metadata, "{name: orders, labels: {a: 1}}", "write \"1\" with quotes"),
        (metadata, "{name: orders, labels: {a: b c}}", "\"b c\" is no value of a label"),
        (metadata, "{name: orders, labels: {a/b/c: d}}", "metadata.labels.a/b/c: it is no key"),
        (metadata, "{name: orders, annotations: {\"a b\": d}}", "metadata.annotations.a b: it is no key"),
        (metadata, "{}", "metadata.name: it is missing"),
        ("zone: a", "zone: 1", "zone: 1 is a number, and a text is wanted: write \"1\" with quotes"),
        ("zone: a", "port: \"5432\"", "write 5432 without quotes"),
        ("zone: a", "zone: [a]", "zone: [\"a\"] is a list, and a text is wanted"),
        ("name: core,", "name: core, upstreams: core,", "write [core]"),
        ("name: core,", "name: core, credentialsSecretRef: orders-sql,", "write {name: orders-sql}"),
        ("name: core,", "name: core, credentialsSecretRef: {name: A_B},", "\"A_B\" is no name of a Secret"),
        ("name: core,", "name: core, sslMode: verify-full,", "write VerifyFull"),
        ("spec:", "spec:\n  healing: {settleSeconds: 60s}", "settleSeconds: \"60s\" is a text"),
        ("spec:", "spce:", "spce: there is no such field"),
        ("kind: ReplicaTopology", "kind: ReplicaTopo", "write ReplicaTopology"),
        ("kind: ReplicaTopology\n", "", "kind: it has none"),
    ] {
        let manifest = GOOD.replace(part, wrong);
        let (taken, said) = stored(&manifest);
        assert!(!taken, "the API server takes {wrong}: {said}");
        let (code, said) = validate(&manifest);
        assert_eq!(code, Some(3), "{wrong}: {said}");
        assert!(said.contains(told), "{told:?} is not in {said}");
    }
}

#[tokio::test]
async fn what_the_api_server_takes_of_the_metadata_passes_validate() {
    topologies().await;
    let key = "a.example/Some_key.1";
    let labels = format!("labels: {{{key}: \"\", b: X_1.y}}, annotations: {{{key}: \"b c\"}}, creationTimestamp: null");
    let manifest = GOOD
        .replace("{name: orders, ", &format!("{{name: 1-orders.example, {labels}, "))
        .replace("zone: a", "zone: null, port: null");
    let (taken, said) = stored(&manifest);
    assert!(taken, "{said}");
    let (code, said) = validate(&manifest);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn an_address_is_an_ip_or_a_host_name_for_the_api_server_and_for_the_operator() {
    let address = |text: &str| with("/groups/1/hosts/0/address", json!(text));
    let right = [
        "192.0.2.1",
        "255.255.255.255",
        "2001:db8::1",
        "::1",
        "::ffff:192.0.2.1",
        "db",
        "db-1.example",
        "DB.example",
        "10-0-0-1.pods.example",
        "3com",
        "1.example",
        "a_b",
        "1-a",
    ];
    for text in right {
        assert_eq!(ask(&address(text)).await, Ok(()), "{text}");
        assert_eq!(operator(&address(text)), Ok(()), "{text}");
    }
    let wrong = [
        "192.0.2.1:5433",
        "db.example:5433",
        "[2001:db8::1]",
        "[2001:db8::1]:5433",
        "192.0.2.312",
        "192.0.2",
        "192.0.2.01",
        "192.0.2.1.5",
        "5432",
        ":5432",
        "db:",
        "core:1:2",
        "",
        "-a",
        "a-",
        "192.0.2.1/24",
    ];
    for text in wrong {
        let refusal = ask(&address(text)).await.unwrap_err();
        assert!(refusal.contains("spec.groups[1].hosts[0].address"), "{text}: {refusal}");
        let said = operator(&address(text)).unwrap_err();
        assert!(said.starts_with("spec.groups[1].hosts[0].address: ") && said.contains(&format!("{text:?}")), "{said}");
    }
}
