//! Defaults, and values that no type takes.

use serde_json::{Value, json};

use super::*;

fn convert(spec: Value) -> Result<Desired, Vec<String>> {
    let spec: ReplicaTopologySpec = serde_json::from_value(spec).unwrap();
    Desired::try_from(&spec).map_err(|rejections| rejections.iter().map(ToString::to_string).collect())
}

#[test]
fn what_is_left_out_has_the_default_that_its_description_names() {
    let spec = json!({"groups": [{"name": "core", "hosts": [{"name": "core-1", "address": "192.0.2.1"}]}]});
    let desired = convert(spec.clone()).unwrap();
    assert_eq!(desired.automation, Automation::Heal);
    assert!(!desired.deleting);
    assert_eq!(desired.limits, Limits { fan_out: 8, depth: 4, cross_region_streams: 2, retained_wal_bytes: 10 << 30 });
    assert_eq!(desired.healing, Healing { suspect_after_milliseconds: 2000, lag_seconds: 30, settle_seconds: 60 });
    let root = desired.root().unwrap();
    assert_eq!((root.relays, root.fan_out, root.management), (0, 8, Management::Routes));
    let node = NodeName::new("core-1").unwrap();
    assert_eq!((desired.nodes[&node].port, &desired.nodes[&node].zone), (5432, &None));
    let spec = serde_json::from_value(spec).unwrap();
    assert_eq!(access(&spec, &node), Some(Access { secret: None, ssl_mode: SslMode::VerifyFull }));
    assert_eq!(access(&spec, &NodeName::new("core-2").unwrap()), None);
}

#[test]
fn what_is_written_is_taken() {
    let spec = json!({
        "automation": "Observe", "limits": {"fanOut": 3, "retainedWal": "1.5Gi"},
        "groups": [
            {"name": "core", "management": "Observe", "hosts": [{"name": "core-1", "address": "::1", "port": 5433, "zone": "a"}]},
            {"name": "eu", "upstreams": ["core"], "fanOut": 5, "region": "eu", "sslMode": "Disable",
             "credentialsSecretRef": {"name": "sql"}, "hosts": [{"name": "eu-1", "address": "db.example"}]},
        ]
    });
    let desired = convert(spec.clone()).unwrap();
    assert_eq!(desired.automation, Automation::Observe);
    assert_eq!((desired.groups[0].fan_out, desired.groups[1].fan_out), (3, 5));
    assert_eq!((desired.groups[0].management, desired.groups[1].region.as_deref()), (Management::Observe, Some("eu")));
    assert_eq!(desired.limits.retained_wal_bytes, 3 << 29);
    let eu = NodeName::new("eu-1").unwrap();
    assert_eq!(desired.nodes[&eu].group, 1);
    let spec = serde_json::from_value(spec).unwrap();
    let expected = Access { secret: Some("sql".to_owned()), ssl_mode: SslMode::Disable };
    assert_eq!(access(&spec, &eu), Some(expected));
}

#[test]
fn a_value_out_of_bounds_is_named_with_its_bounds_and_nothing_else_is_said() {
    let said = convert(json!({
        "limits": {"retainedWal": "25GB"},
        "healing": {"suspectAfterMilliseconds": 10},
        "groups": [
            {"name": "core", "hosts": [{"name": "core-1", "address": "a,b", "port": 0}]},
            {"name": "Eu", "upstreams": ["nowhere"], "relays": -1, "region": "a b", "hosts": []},
        ]
    }));
    let expected = [
        "spec.limits.retainedWal: \"25GB\" is no quantity from 64Mi to 100Ti: write a number and a unit, such as 25Gi",
        "spec.healing.suspectAfterMilliseconds: 10 is not within 500 to 600000: choose a value in between",
        "spec.groups[0].hosts[0].address: \"a,b\" of core-1 is no IP and no host name: write one, without a port",
        "spec.groups[0].hosts[0].port: 0 of core-1 is no TCP port: choose one within 1 to 65535",
        "spec.groups[1].name: \"Eu\" is not a name: use 1 to 53 lower-case letters, digits and '-', beginning with a \
         letter and ending with a letter or digit",
        "spec.groups[1].relays: -1 is not within 0 to 511: choose a value in between",
        "spec.groups[1].region: \"a b\" is no region or zone: use 1 to 63 letters, digits, '.', '_' and '-', with a \
         letter or digit at both ends",
    ];
    assert_eq!(said.unwrap_err(), expected);
}

#[test]
fn a_host_named_twice_in_one_group_is_named() {
    let host = |octet: u8| json!({"name": "core-1", "address": format!("192.0.2.{octet}")});
    let said = convert(json!({"groups": [{"name": "core", "hosts": [host(1), host(2)]}]}));
    assert_eq!(
        said.unwrap_err(),
        ["spec.groups[0].hosts[1].name: core-1 is there twice in core: rename one, or take it out"]
    );
}
