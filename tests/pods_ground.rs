//! What the tests of pods stand on: real nodes that run real pods, volumes and addresses of services, with no way out and
//! nothing left behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use std::process::Command;

use support::nodes::{Cluster, Namespace, cluster, runs_pods, started};
use support::postgres::{eventually, run};
use support::programs::binaries;

/// What a server says to SQL, asked at its service's address from where tests run. A node learns a moment after us that a
/// pod is ready, and has no way to it before.
async fn ask(namespace: &Namespace, sql: &str) -> String {
    let address = namespace.field("service/core-1", ".spec.clusterIP");
    let mut answer = String::new();
    eventually(&format!("{address} answers"), async || {
        let mut psql = cluster().inside(&binaries(None).unwrap().join("psql"));
        let said = psql.args(["-XAtq", "-h", &address, "-U", "postgres", "-c", sql]).output().unwrap();
        answer = String::from_utf8(said.stdout).unwrap();
        said.status.success()
    })
    .await;
    answer.trim().to_owned()
}

#[tokio::test]
async fn a_pod_that_is_deleted_comes_back_at_the_same_address_with_the_same_data() {
    if !runs_pods() {
        return;
    }
    let namespace = cluster().namespace("comes-back");
    namespace.apply(include_str!("pods/server.yaml"));
    namespace.ready("core-1-0").await;
    let pod = |path| namespace.field("pod/core-1-0", path);
    let (uid, ip) = (pod(".metadata.uid"), pod(".status.podIP"));
    ask(&namespace, "CREATE TABLE kept AS SELECT 42 AS row").await;

    let deleted = namespace.kubectl(&["delete", "pod", "core-1-0", "--force", "--grace-period=0"], "");
    assert!(deleted.status.success());

    eventually("another pod takes its place", async || ![String::new(), uid.clone()].contains(&pod(".metadata.uid")))
        .await;
    namespace.ready("core-1-0").await;
    assert_ne!(pod(".status.podIP"), ip, "a pod has a new address");
    assert_eq!(ask(&namespace, "SELECT row FROM kept").await, "42", "the service's is the same, and so are the data");
}

#[tokio::test]
async fn pods_have_no_way_out_of_their_namespaces() {
    if !runs_pods() {
        return;
    }
    let routes = run(cluster().inside(Path::new("ip")).args(["route", "show", "default"]));
    assert_eq!(routes, "");
    let links = run(cluster().inside(Path::new("ip")).args(["-oneline", "link", "show"]));
    let known = |link: &str| ["lo", "nodes", "node-"].iter().any(|name| link.contains(&format!(": {name}")));
    assert!(links.lines().all(known), "{links}");
}

/// A cluster of its own, as this one is ended.
#[test]
fn a_cluster_that_is_ended_leaves_nothing_behind() {
    if !runs_pods() {
        return;
    }
    let own = Cluster::start(1);
    let (state, cgroup) = (own.state().to_owned(), own.cgroup());
    let of_cgroup = || -> Vec<_> {
        let controllers = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
        controllers.filter(|controller| controller.join(&cgroup).exists()).collect()
    };
    assert!(!of_cgroup().is_empty(), "its pods are accounted for");
    let processes = own.processes();
    assert!(processes.len() > 8, "{processes:?}");

    own.end();

    assert!(!state.exists());
    assert_eq!(of_cgroup(), [""; 0].map(std::path::PathBuf::from));
    let left: Vec<_> = processes.iter().filter(|(pid, since)| started(*pid).as_ref() == Some(since)).collect();
    assert!(left.is_empty(), "{left:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(state.to_str().unwrap()), "{mounts}");
    let links = run(Command::new("ip").args(["-oneline", "link", "show"]));
    assert!(![": nodes:", ": node-1@"].iter().any(|link| links.contains(link)), "{links}");
}
