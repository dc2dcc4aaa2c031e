//! What clients find a tree of pods by: Services, the Secret of the application, and what keeps a drain from taking too many
//! servers at once.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::pods::{
    GROUP_LABEL, GROUP_READS_LABEL, NODE_LABEL, POSTGRES_PORT, READS_LABEL, ROLE_LABEL, TOPOLOGY_LABEL, metadata,
    rendered,
};
use crate::api::ReplicaTopology;
use crate::model::NodeName;
use crate::model::orders::Role;
use crate::model::pods::Labels;

/// The Service of whoever writes; the others are of readers: of standbys, and of anybody.
const WRITES: &str = "rw";
const READS: &str = "ro";
const ANY: &str = "r";
/// The database, and its owner, where the spec names none.
const APPLICATION: &str = "app";

const YES: &str = "in";
const NO: &str = "out";

/// What labels say.
pub fn label_texts(labels: Labels) -> [(&'static str, &'static str); 3] {
    let truth = |is_so: bool| if is_so { YES } else { NO };
    let (reads, reads_in_group) = (truth(labels.reads), truth(labels.reads_in_group));
    [(ROLE_LABEL, role_text(labels.role)), (READS_LABEL, reads), (GROUP_READS_LABEL, reads_in_group)]
}

/// The same, read. `label` is what a label says.
pub fn labels_of(label: impl Fn(&str) -> Option<String>) -> Option<Labels> {
    let truth =
        |name: &str| [(YES, true), (NO, false)].into_iter().find(|(text, _)| label(name).as_deref() == Some(text));
    let roles = [Role::Primary, Role::Standby];
    let role = roles.into_iter().find(|role| label(ROLE_LABEL).as_deref() == Some(role_text(*role)))?;
    Some(Labels { role, reads: truth(READS_LABEL)?.1, reads_in_group: truth(GROUP_READS_LABEL)?.1 })
}

fn role_text(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
    }
}

/// The Service of whoever writes.
pub fn writes_name(topology: &ReplicaTopology) -> String {
    format!("{}-{WRITES}", topology.name_any())
}

/// The Secret of the application.
pub fn application_name(topology: &ReplicaTopology) -> String {
    format!("{}-app", topology.name_any())
}

/// The database of the application and its owner.
pub fn database_and_owner(topology: &ReplicaTopology) -> (String, String) {
    let bootstrap = topology.spec.postgres.as_ref().and_then(|postgres| postgres.bootstrap.as_ref());
    let of = |name: Option<&String>| name.cloned().unwrap_or_else(|| APPLICATION.to_owned());
    let database = of(bootstrap.and_then(|bootstrap| bootstrap.database.as_ref()));
    (database, of(bootstrap.and_then(|bootstrap| bootstrap.owner.as_ref())))
}

/// The Service of each group's readers.
fn group_kinds(topology: &ReplicaTopology) -> impl Iterator<Item = (String, &str)> {
    topology.spec.groups.iter().map(|group| (format!("{READS}-{}", group.name), group.name.as_str()))
}

/// Names under which clients reach a server through a Service. Any may come to lead to any server.
pub fn service_names(topology: &ReplicaTopology) -> Vec<String> {
    let namespace = topology.namespace().unwrap_or_default();
    let of = |kind: &str| {
        let name = format!("{}-{kind}", topology.name_any());
        let behind = [String::new(), format!(".{namespace}"), format!(".{namespace}.svc")];
        let within = format!(".{namespace}.svc.cluster.local");
        behind.into_iter().chain([within]).map(move |end| format!("{name}{end}"))
    };
    let kinds = [WRITES, READS, ANY].map(str::to_owned).into_iter().chain(group_kinds(topology).map(|(kind, _)| kind));
    kinds.flat_map(|kind| of(&kind)).collect()
}

/// All objects, those that write being led to `writer`: by its name, which its next pod has too. A label that says who
/// writes would have to be moved from one to the other, and for a moment there would be two or none.
pub fn objects(topology: &ReplicaTopology, writer: &NodeName) -> Vec<Value> {
    let name = topology.name_any();
    let service = |kind: &str, selector: Value| {
        rendered(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(topology, &format!("{name}-{kind}"), None),
            "spec": {
                "selector": selector,
                "ports": [{"name": "postgres", "port": POSTGRES_PORT, "targetPort": POSTGRES_PORT}],
            },
        }))
    };
    let standbys = json!({TOPOLOGY_LABEL: name, ROLE_LABEL: role_text(Role::Standby)});
    let with = |label: &str, value: &str, more: &Value| {
        let mut all = more.clone();
        all[label] = json!(value);
        all
    };
    let group_reads = with(GROUP_READS_LABEL, YES, &standbys);
    let of_groups = group_kinds(topology);
    let of_groups = of_groups.map(|(kind, group)| service(&kind, with(GROUP_LABEL, group, &group_reads)));
    let primary = json!({TOPOLOGY_LABEL: name, ROLE_LABEL: role_text(Role::Primary)});
    let budget = |kind: &str, selector: &Value, limit: &str| {
        rendered(json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(topology, &format!("{name}-{kind}"), None),
            "spec": {"selector": {"matchLabels": selector}, limit: 1},
        }))
    };
    let fixed = [
        service(WRITES, json!({TOPOLOGY_LABEL: name, NODE_LABEL: writer.as_str()})),
        service(READS, with(READS_LABEL, YES, &standbys)),
        service(ANY, json!({TOPOLOGY_LABEL: name, READS_LABEL: YES})),
        // Whoever writes goes when another does: until then a drain waits.
        budget("primary", &primary, "minAvailable"),
        budget("standbys", &standbys, "maxUnavailable"),
    ];
    fixed.into_iter().chain(of_groups).collect()
}

/// What is in the Secret of the application. Whoever has `password` changed finds the rest made to go with it.
pub fn secret(topology: &ReplicaTopology, password: &str, authority: &str) -> BTreeMap<String, String> {
    let (database, owner) = database_and_owner(topology);
    let host = format!("{}.{}.svc", writes_name(topology), topology.namespace().unwrap_or_default());
    let port = POSTGRES_PORT;
    let uri = format!(
        "postgresql://{owner}:{}@{host}:{port}/{database}?sslmode=require",
        utf8_percent_encode(password, NON_ALPHANUMERIC)
    );
    [
        ("host", host),
        ("port", port.to_string()),
        ("dbname", database),
        ("user", owner),
        ("password", password.to_owned()),
        ("uri", uri),
        ("ca.crt", authority.to_owned()),
    ]
    .map(|(key, text)| (key.to_owned(), text))
    .into()
}
