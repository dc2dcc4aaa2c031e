//! The operator as it is deployed: on a real API server, as its own service account with the rights of `deploy/rbac.yaml`
//! and no others.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waltree::operator::{RunError, Settings, leadership, run};

use super::kube::ApiServer;
use super::postgres::eventually;

/// The namespace in which the operator lives.
pub const SYSTEM: &str = "waltree-system";

/// Installs what a person installs: the custom resource and the rights.
pub fn install(server: &ApiServer) {
    apply(server, "crds/waltree.dev_replicatopologies.yaml", &[]);
    apply(server, "deploy/rbac.yaml", &[]);
    let wait = ["wait", "--for=condition=Established", "crd/replicatopologies.waltree.dev", "--timeout=30s"];
    assert!(server.kubectl(&wait, "").status.success());
}

/// Applies a file of the repository, with more arguments for kubectl, and returns what it warned of.
pub fn apply(server: &ApiServer, file: &str, more: &[&str]) -> String {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let done = server.kubectl(&[&["apply", "--server-side", "-f", &path], more].concat(), "");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{file}: {said}");
    said
}

/// A running operator. It ends when dropped, without handing over: as if it were killed.
pub struct Operator {
    /// Where it answers.
    pub address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Operator {
    /// Starts one for the whole cluster, with the rights of `deploy/rbac.yaml`.
    pub async fn start(server: &ApiServer, identity: &str) -> Self {
        Self::begin(server, identity, None).await
    }

    /// Starts one for one namespace, with the rights of `deploy/rbac-namespaced.yaml` there.
    pub async fn start_in(server: &ApiServer, identity: &str, namespace: &str) -> Self {
        Self::begin(server, identity, Some(namespace)).await
    }

    async fn begin(server: &ApiServer, identity: &str, namespace: Option<&str>) -> Self {
        let home = namespace.unwrap_or(SYSTEM);
        let client = server.client_as(home, "waltree-operator").await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let settings = Settings {
            namespace: namespace.map(str::to_owned),
            listen: address,
            identity: identity.to_owned(),
            lease_namespace: home.to_owned(),
            program: "waltree.test/waltree:1".to_owned(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(settings, client, stop.clone()));
        let this = Self { address, stop, task };
        eventually("the operator is ready", async || this.get("/readyz").await.is_some_and(|a| a.0 == 200)).await;
        this
    }

    /// Tells it to stop, as SIGTERM does, and waits until it has.
    pub async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }

    /// What it answers: the status code and the text; `None` when it does not.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.address, path).await
    }

    /// One of its figures; `None` while it does not show it.
    pub async fn figure(&self, name: &str) -> Option<f64> {
        figure(self.address, name).await
    }

    /// Whether its figures have this line.
    pub async fn shows(&self, line: &str) -> bool {
        self.get("/metrics").await.is_some_and(|(_, text)| text.lines().any(|shown| shown == line))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an operator at this address answers: the status code and the text; `None` when it does not.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.ok()?
}

/// One figure of an operator at this address; `None` while it does not show it.
pub async fn figure(address: SocketAddr, name: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics").await?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Who leads, and under which term.
pub async fn leader(client: &Client) -> (Option<String>, i32) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM);
    let spec = leases.get_opt(leadership::LEASE).await.unwrap().and_then(|lease| lease.spec).unwrap_or_default();
    (spec.holder_identity, spec.lease_transitions.unwrap_or(0))
}
