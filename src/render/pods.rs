//! The objects of one node that runs in a pod: a Service whose address stays the same, and a StatefulSet of one with its
//! volume, so that Kubernetes makes the node anew while nobody of ours is there (law 11).

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use kube::{Resource as _, ResourceExt as _};
use rustc_hash::FxHasher;
use serde_json::{Value, json};

use super::clients::label_texts;
use super::way::CERTIFICATES;
use crate::api::ReplicaTopology;
use crate::model::NodeName;
use crate::model::orders::Role;
use crate::model::pods::Labels;

/// The port of PostgreSQL.
pub const POSTGRES_PORT: u16 = 5432;
/// The port on which an agent takes orders.
pub const AGENT_PORT: u16 = 8009;
/// The port on which an agent says whether its PostgreSQL answers, and nothing else.
const HEALTH_PORT: u16 = 8008;
/// Which topology an object is of.
pub const TOPOLOGY_LABEL: &str = "waltree.dev/topology";
/// Which node an object is of.
pub const NODE_LABEL: &str = "waltree.dev/node";
/// What the server of a pod is: `primary` or `standby`.
pub const ROLE_LABEL: &str = "waltree.dev/role";
/// The group of a node.
pub const GROUP_LABEL: &str = "waltree.dev/group";
/// Whether readers are led to a pod who are led to any: `in` or `out`.
pub const READS_LABEL: &str = "waltree.dev/reads";
/// Whether readers are led to a pod who are led to those of its group.
pub const GROUP_READS_LABEL: &str = "waltree.dev/reads-in-group";
/// The container of PostgreSQL.
pub const CONTAINER: &str = "postgres";
/// The containers that we put in a pod.
pub const CONTAINERS: &[&str] = &["program", CONTAINER];
/// The image that a pod was asked for with: who mirrors registries may have put another in its place.
pub const IMAGE_NOTE: &str = "waltree.dev/image";
/// What an object was made from last.
pub const RENDERED: &str = "waltree.dev/rendered";

/// The image where the spec names none.
const IMAGE: &str = "postgres:17";
/// The size of a volume where the spec names none.
const SIZE: &str = "1Gi";
/// Whom a server runs as, in whatever image: that of Docker's official ones. It has a name in there by our own list of users.
const USER: i64 = 999;
/// Where the volume is, and our program.
const VOLUME: &str = "/var/lib/waltree";
const PROGRAM: &str = "/opt/waltree";
/// Longer than a server needs that is told to stop while it has much to write.
const GRACE_SECONDS: i64 = 60;

/// What the name of everything of a node begins with.
pub fn name(topology: &ReplicaTopology, node: &NodeName) -> String {
    format!("{}-{node}", topology.name_any())
}

/// The pod of a node.
pub fn pod_name(topology: &ReplicaTopology, node: &NodeName) -> String {
    format!("{}-0", name(topology, node))
}

/// The Secret of its certificate.
pub fn certificate_name(topology: &ReplicaTopology, node: &NodeName) -> String {
    format!("{}-{node}-tls", topology.name_any())
}

/// The Secret of the authority: no pod mounts it.
pub fn authority_name(topology: &ReplicaTopology) -> String {
    format!("{}-ca", topology.name_any())
}

/// The Secret of the operator's own certificate.
pub fn operator_name(topology: &ReplicaTopology) -> String {
    format!("{}-operator", topology.name_any())
}

/// What every object of a topology has: whose it is, and labels. Of a node where it is one's.
pub fn metadata(topology: &ReplicaTopology, name: &str, node: Option<&NodeName>) -> Value {
    json!({
        "name": name,
        "namespace": topology.namespace(),
        "labels": labels(topology, node),
        "ownerReferences": topology.controller_owner_ref(&()).into_iter().collect::<Vec<_>>(),
    })
}

fn labels(topology: &ReplicaTopology, node: Option<&NodeName>) -> BTreeMap<String, String> {
    let name = topology.name_any();
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "postgresql".to_owned()),
        ("app.kubernetes.io/instance".to_owned(), name.clone()),
        ("app.kubernetes.io/component".to_owned(), "database".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "waltree".to_owned()),
        (TOPOLOGY_LABEL.to_owned(), name),
    ]);
    labels.extend(node.map(|node| (NODE_LABEL.to_owned(), node.to_string())));
    labels
}

fn selector(topology: &ReplicaTopology, node: &NodeName) -> Value {
    json!({TOPOLOGY_LABEL: topology.name_any(), NODE_LABEL: node.as_str()})
}

/// Where a node is reached, ready or not: whoever follows it may be the one that makes it ready.
pub fn service(topology: &ReplicaTopology, node: &NodeName) -> Value {
    rendered(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(topology, &name(topology, node), Some(node)),
        "spec": {
            "publishNotReadyAddresses": true,
            "selector": selector(topology, node),
            "ports": [
                {"name": "postgres", "port": POSTGRES_PORT, "targetPort": POSTGRES_PORT},
                {"name": "agent", "port": AGENT_PORT, "targetPort": AGENT_PORT},
            ],
        },
    }))
}

/// What runs a node. `program` is the image that our own program is copied from.
///
/// `role` is for whoever is made anew while nobody of ours is there.
pub fn stateful_set(topology: &ReplicaTopology, node: &NodeName, role: Role, program: &str) -> Value {
    let mut of_pod = labels(topology, Some(node));
    of_pod.extend(label_texts(Labels::first(role)).map(|(name, value)| (name.to_owned(), value.to_owned())));
    of_pod.extend(node.as_str().rsplit_once('-').map(|(group, _)| (GROUP_LABEL.to_owned(), group.to_owned())));
    rendered(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(topology, &name(topology, node), Some(node)),
        "spec": {
            "replicas": 1,
            "serviceName": name(topology, node),
            "podManagementPolicy": "Parallel",
            // Who is restarted when is decided by what hangs below it.
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": selector(topology, node)},
            "template": {
                "metadata": {"labels": of_pod, "annotations": {
                    "kubectl.kubernetes.io/default-container": CONTAINER, IMAGE_NOTE: image(topology),
                }},
                "spec": pod(topology, node, program),
            },
            "volumeClaimTemplates": [{
                "metadata": {"name": "data", "labels": labels(topology, Some(node))},
                "spec": claim(topology),
            }],
        },
    }))
}

fn claim(topology: &ReplicaTopology) -> Value {
    let storage = topology.spec.storage.as_ref();
    let size = storage.and_then(|storage| storage.size.as_deref()).unwrap_or(SIZE);
    let mut claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    if let Some(class) = storage.and_then(|storage| storage.class_name.as_deref()) {
        claim["storageClassName"] = json!(class);
    }
    claim
}

fn pod(topology: &ReplicaTopology, node: &NodeName, program: &str) -> Value {
    let security = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": spread(topology),
        "initContainers": [{
            "name": "program", "image": program, "imagePullPolicy": "IfNotPresent",
            "command": ["waltree", "unpack", PROGRAM, "--user", USER.to_string()],
            "securityContext": security,
            "volumeMounts": [{"name": "program", "mountPath": PROGRAM}],
        }],
        "containers": [{
            "name": CONTAINER,
            "image": image(topology),
            "imagePullPolicy": "IfNotPresent",
            "command": [format!("{PROGRAM}/waltree"), "guard", "--", "postgres", "-D", format!("{VOLUME}/pg")],
            "env": environment(),
            "ports": [
                {"name": "postgres", "containerPort": POSTGRES_PORT}, {"name": "agent", "containerPort": AGENT_PORT},
                {"name": "health", "containerPort": HEALTH_PORT},
            ],
            "readinessProbe": {
                "httpGet": {"port": HEALTH_PORT, "path": "/readyz"},
                "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2,
            },
            "securityContext": security,
            "volumeMounts": [
                {"name": "data", "mountPath": VOLUME},
                {"name": "program", "mountPath": PROGRAM, "readOnly": true},
                {"name": "program", "mountPath": "/etc/passwd", "subPath": "passwd", "readOnly": true},
                {"name": "certificates", "mountPath": CERTIFICATES, "readOnly": true},
                {"name": "run", "mountPath": "/run/waltree"},
                {"name": "temporary", "mountPath": "/tmp"},
                {"name": "shared-memory", "mountPath": "/dev/shm"},
            ],
        }],
        "volumes": [
            {"name": "program", "emptyDir": {}},
            {"name": "certificates", "secret": {"secretName": certificate_name(topology, node), "defaultMode": 0o440}},
            {"name": "run", "emptyDir": {}},
            {"name": "temporary", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    })
}

/// The image of PostgreSQL.
pub fn image(topology: &ReplicaTopology) -> &str {
    topology.spec.postgres.as_ref().and_then(|postgres| postgres.image.as_deref()).unwrap_or(IMAGE)
}

fn environment() -> Value {
    let places = [
        ("WALTREE_ORDERS", format!("{VOLUME}/orders.json")),
        ("WALTREE_DATA", format!("{VOLUME}/pg")),
        ("WALTREE_SOCKET", "/run/waltree".to_owned()),
        ("WALTREE_PORT", POSTGRES_PORT.to_string()),
        ("WALTREE_CERTIFICATES", CERTIFICATES.to_owned()),
        ("WALTREE_LISTEN", format!("0.0.0.0:{AGENT_PORT}")),
        ("WALTREE_HEALTH", format!("0.0.0.0:{HEALTH_PORT}")),
    ];
    places.map(|(name, value)| json!({"name": name, "value": value})).into_iter().collect()
}

/// Rather on nodes and in zones of their own, and on the same ones where there are no others.
fn spread(topology: &ReplicaTopology) -> Value {
    let away = |weight: i32, key: &str| {
        json!({"weight": weight, "podAffinityTerm": {
            "topologyKey": key, "labelSelector": {"matchLabels": {TOPOLOGY_LABEL: topology.name_any()}},
        }})
    };
    json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        away(100, "kubernetes.io/hostname"), away(50, "topology.kubernetes.io/zone"),
    ]}})
}

/// With a note of what it was made from, by which it is known again: the API server adds to what it is given.
pub(super) fn rendered(mut object: Value) -> Value {
    let mut hasher = FxHasher::default();
    hasher.write(object.to_string().as_bytes());
    object["metadata"]["annotations"] = json!({RENDERED: format!("{:016x}", hasher.finish())});
    object
}

/// When a certificate is to be made anew, as an annotation of its Secret.
pub const RENEW_AFTER: &str = "waltree.dev/renew-after";

/// What the Secret of a certificate for these `names` has beside what is in it.
pub fn certificate_metadata(
    topology: &ReplicaTopology,
    name: &str,
    node: Option<&NodeName>,
    names: &[String],
    renew_after: &str,
) -> Value {
    let mut hasher = FxHasher::default();
    hasher.write(names.join(" ").as_bytes());
    let mut described = metadata(topology, name, node);
    described["annotations"] = json!({RENDERED: format!("{:016x}", hasher.finish()), RENEW_AFTER: renew_after});
    described
}

/// What [`RENDERED`] says of an object.
pub fn note(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][RENDERED].as_str()
}
