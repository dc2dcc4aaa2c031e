//! The operator in pods of its own, as it is deployed, and servers in others.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::nodes::{Namespace, cluster};
use super::postgres::run;

/// How long a topology may take: images are there, volumes and pods are made, and servers cloned.
const PATIENCE: Duration = Duration::from_secs(180);

/// Installs the operator once in a cluster, from the files of the repository; only its image is another.
pub async fn installed() {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    INSTALLED.get_or_init(install).await;
}

async fn install() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let archive = run(&mut Command::new(repository.join("tests/pods/program")));
    cluster().bring(Path::new(archive.trim()));
    let all = std::fs::read_to_string(repository.join("deploy/install.yaml")).unwrap();
    assert!(all.contains("waltree:0.1.0"));
    apply(&all.replace("waltree:0.1.0", "waltree.test/waltree:1"));
    let wait = ["--namespace", "waltree-system", "rollout", "status", "deployment/waltree-operator", "--timeout=120s"];
    let done = cluster().kubectl(&wait, "");
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), log_of_operators());
}

fn apply(manifests: &str) {
    let done = cluster().kubectl(&["apply", "--server-side", "-f", "-"], manifests);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn log_of_operators() -> String {
    let all = [
        "--namespace",
        "waltree-system",
        "logs",
        "--prefix",
        "--tail=100",
        "--selector",
        "app.kubernetes.io/name=waltree",
    ];
    let pods = cluster().kubectl(&["get", "pods", "--all-namespaces"], "").stdout;
    let log = cluster().kubectl(&all, "").stdout;
    format!("{}\n{}", String::from_utf8_lossy(&pods), String::from_utf8_lossy(&log))
}

/// Waits until a topology is all that was declared.
pub fn converged(namespace: &Namespace, topology: &str) {
    let topology = format!("rtopo/{topology}");
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    let done = namespace.kubectl(&["wait", "--for=condition=Converged", &topology, &timeout], "");
    let status = || namespace.field(&topology, ".status");
    assert!(done.status.success(), "{topology} is not Converged: {}\n{}", status(), log_of_operators());
}

/// What a server answers to its own superuser, asked inside its pod; empty where it does not answer.
pub fn sql(namespace: &Namespace, pod: &str, sql: &str) -> String {
    let psql = ["exec", pod, "--", "psql", "-XAtq", "-h", "/run/waltree", "-U", "postgres", "-c", sql];
    String::from_utf8_lossy(&namespace.kubectl(&psql, "").stdout).trim().to_owned()
}
