//! One API server and one operator for all tests of a binary, and for each test a small tree in a namespace of its own.

use std::io;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tracing_subscriber::EnvFilter;
use waltree::api::ReplicaTopology;

use super::kube::ApiServer;
use super::operator::{Operator, SYSTEM, install};
use super::postgres::{Tree, WALTREE_PASSWORD, eventually};

/// The primary of every tree here.
pub const PRIMARY: &str = "core-1";
/// The name of every topology here.
const NAME: &str = "orders";
/// The operator's name.
const IDENTITY: &str = "first";
/// Between two looks at a topology, and how many there are at most: 30 s.
const LOOK: (Duration, usize) = (Duration::from_millis(100), 300);
/// Whether a server does not show what [`Ground::misses`] has written, and shows what was before.
pub const MISSES_BEYOND: &str = "SELECT to_regclass('flow') IS NOT NULL AND to_regclass('beyond') IS NULL";
/// What the operator has logged so far.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The API server, with an operator that has begun. Both are ended with the process: the server by its keeper.
fn server() -> &'static ApiServer {
    static SERVER: OnceLock<ApiServer> = OnceLock::new();
    static BEGUN: OnceLock<()> = OnceLock::new();
    let server = SERVER.get_or_init(ApiServer::given_or_started);
    BEGUN.get_or_init(|| begin(server));
    server
}

/// Starts the operator on a runtime of its own, as that of a test ends with the test.
fn begin(server: &'static ApiServer) {
    install(server);
    // On an API server that was given ours would take the place of another, and tend what that tends.
    let holder = ["get", "lease", "-n", SYSTEM, "-o", "jsonpath={.items[*].spec.holderIdentity}"];
    let holder = String::from_utf8(server.kubectl(&holder, "").stdout).unwrap();
    assert!(["", IDENTITY].contains(&holder.as_str()), "another operator, {holder}, leads on the API server");
    let filter = EnvFilter::new("info,waltree=debug");
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(|| Log).init();
    let (begun, has_begun) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let _operator = Operator::start(server, IDENTITY).await;
            begun.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    has_begun.recv().expect("the operator begins");
}

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A tree with its topology in a namespace of its own. The topology is deleted when this is dropped.
pub struct Ground {
    /// Its servers.
    pub tree: Tree,
    client: Client,
    namespace: String,
}

impl Ground {
    /// A namespace with the Secret `orders-sql` for these servers, and no topology yet.
    pub async fn of(tree: Tree, namespace: &str) -> Self {
        let server = tokio::task::spawn_blocking(server).await.unwrap();
        // An API server that was given may have that of another run.
        let namespace = format!("{namespace}-{}", std::process::id());
        assert!(server.kubectl(&["create", "namespace", &namespace], "").status.success());
        let ground = Self { tree, client: server.client().await, namespace };
        ground.secret("orders-sql", WALTREE_PASSWORD);
        ground
    }

    /// The namespace of the topology.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A primary, a relay and its leaves, all as declared.
    pub async fn formed(namespace: &str) -> Self {
        let ground = Self::of(star(&["eu-1", "eu-2"]).await, namespace).await;
        apply(&ground.manifest(&ground.groups()));
        ground.as_declared().await;
        ground
    }

    /// The groups of [`Ground::formed`].
    pub fn groups(&self) -> [String; 2] {
        [self.group("core", "", &[PRIMARY]), self.group("eu", "upstreams: [core], relays: 1", &["eu-1", "eu-2"])]
    }

    /// A group of servers of the tree, with what else it says.
    pub fn group(&self, name: &str, more: &str, nodes: &[&str]) -> String {
        let hosts: Vec<_> = nodes.iter().map(|node| (*node, self.tree.address(node), self.tree.port(node))).collect();
        group_at(name, "orders-sql", more, &hosts)
    }

    /// The manifest of a topology with these groups.
    pub fn manifest(&self, groups: &[String]) -> String {
        self.manifest_with("automation: Heal", groups)
    }

    /// The manifest of a topology with these groups and a line of settings.
    pub fn manifest_with(&self, setting: &str, groups: &[String]) -> String {
        format!(
            "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: {NAME}, namespace: {}}}\n\
             spec:\n  healing: {{suspectAfterMilliseconds: 1000, settleSeconds: 1}}\n  {setting}\n  groups:\n{}",
            self.namespace,
            groups.concat()
        )
    }

    /// Applies a Secret with the operator's password.
    pub fn secret(&self, name: &str, password: &str) {
        apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {}}}\n\
             stringData: {{username: waltree, password: {password}}}\n",
            self.namespace
        ));
    }

    /// Deletes the topology, and waits until it is gone.
    pub fn delete(&self) {
        assert!(server().kubectl(&["delete", "rtopo", NAME, "-n", &self.namespace], "").status.success());
    }

    /// The topology as the API server has it.
    pub async fn topology(&self) -> ReplicaTopology {
        Api::namespaced(self.client.clone(), &self.namespace).get(NAME).await.unwrap()
    }

    /// Waits until a condition of the present generation has this status and reason, and returns its message.
    pub async fn until(&self, kind: &str, status: &str, reason: &str) -> String {
        let mut seen = String::new();
        for _ in 0..LOOK.1 {
            let topology = self.topology().await;
            let found = topology.conditions().iter().find(|condition| condition.type_ == kind);
            let current = found.filter(|condition| condition.observed_generation == topology.metadata.generation);
            if let Some(found) = current.filter(|c| (c.status.as_str(), c.reason.as_str()) == (status, reason)) {
                return found.message.clone();
            }
            seen = serde_json::to_string_pretty(&topology.status).unwrap();
            tokio::time::sleep(LOOK.0).await;
        }
        panic!("not within 30 s: {kind}={status} {reason}; the status is {seen}");
    }

    /// Waits until the tree is as declared.
    pub async fn as_declared(&self) {
        self.until("Converged", "True", "AsDeclared").await;
        self.until("Rooted", "True", "AllRooted").await;
        self.until("Ready", "True", "AsDeclared").await;
    }

    /// Waits until the operator has asked `node` so many more times.
    pub async fn asked(&self, node: &str, times: usize) {
        let when = "SELECT max(query_start) FROM pg_stat_activity WHERE usename = 'waltree'";
        let mut last = self.tree.value(node, when).await;
        for _ in 0..times {
            eventually(&format!("{node} is asked"), async || {
                let now = self.tree.value(node, when).await;
                std::mem::replace(&mut last, now.clone()) != now
            })
            .await;
        }
    }

    /// While the same is wrong the status comes to rest: nothing in it may move with the time.
    pub async fn status_rests(&self) {
        let text = |topology: &ReplicaTopology| serde_json::to_string_pretty(&topology.status).unwrap();
        let mut moved = String::new();
        for _ in 0..4 {
            let before = self.topology().await;
            self.asked(PRIMARY, 4).await;
            let after = self.topology().await;
            if before.resource_version() == after.resource_version() {
                return;
            }
            let (before, after) = (text(&before), text(&after));
            let lines = before.lines().zip(after.lines()).filter(|(before, after)| before != after);
            moved = lines.map(|(before, after)| [before, after, ""].join("\n")).collect();
        }
        panic!("the status is written again and again: {moved}");
    }

    /// What `kubectl waltree VERB orders ...` prints for a person of this namespace, and its exit code.
    pub fn plugin(&self, verb: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-waltree"));
        command.env("KUBECONFIG", server().kubeconfig()).args([verb, NAME, "-n", &self.namespace]).args(arguments);
        let output = command.output().expect("run kubectl-waltree");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = output.status.code().expect("it ends by itself");
        assert!(code != 1, "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        (code, said)
    }

    /// The reasons and notes of the events about this topology.
    pub async fn events(&self) -> Vec<(String, String)> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let events = events.list(&ListParams::default()).await.unwrap();
        events.items.into_iter().filter_map(|event| Some((event.reason?, event.note?))).collect()
    }

    /// Waits until there is an event of this reason about a node.
    pub async fn told(&self, reason: &str, node: &str) {
        for _ in 0..LOOK.1 {
            if self.events().await.iter().any(|(told, note)| told == reason && note.starts_with(node)) {
                return;
            }
            tokio::time::sleep(LOOK.0).await;
        }
        let (told, status) = (self.events().await, self.topology().await.status);
        panic!("no event {reason} about {node} within 30 s, but {told:#?}; the status is {status:#?}");
    }

    /// Waits until it was told that a diagnosis of a node is over, and the status does not give it for the node any more.
    pub async fn over(&self, diagnosis: &str, node: &str) {
        self.told("Recovered", &format!("{node}: {diagnosis} is over")).await;
        eventually(&format!("{node} is reported without {diagnosis}"), async || {
            let nodes = self.topology().await.status.unwrap().nodes;
            nodes.iter().all(|told| told.name != node || told.reason.as_deref() != Some(diagnosis))
        })
        .await;
    }

    /// Fails when a secret is in the status, in an event, in the operator's log or in the log of a server.
    pub async fn keeps_secret(&self, secret: &str, nodes: &[&str]) {
        let status = serde_json::to_string(&self.topology().await.status).unwrap();
        let log = String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        assert!(log.contains(&self.namespace), "the operator's log is read");
        assert!(!status.contains(secret), "{status}");
        assert!(!log.contains(secret), "the operator's log has it");
        let events = self.events().await;
        assert!(!events.is_empty() && events.iter().all(|(_, note)| !note.contains(secret)), "{events:?}");
        for node in nodes {
            assert!(!self.tree.log(node).contains(secret), "the log of {node} has it");
        }
    }

    /// How these nodes are connected now.
    pub async fn connected(&self, nodes: &[&'static str]) -> Connected {
        let mut all = Vec::new();
        for node in nodes {
            all.push((*node, connection(&self.tree, node).await));
        }
        Connected(all)
    }

    /// Rows that are written now arrive on all of them, on the connections of before, by the settings of before.
    pub async fn untouched(&self, before: &Connected) {
        let nodes: Vec<&str> = before.0.iter().map(|(node, _)| *node).collect();
        self.flows(&nodes).await;
        for (node, connected) in &before.0 {
            let now = connection(&self.tree, node).await;
            assert_eq!(&now, connected, "the connection of {node} was touched; {}", self.last_words(node));
        }
    }

    /// What the operator did for a node at last, and what its server said.
    fn last_words(&self, node: &str) -> String {
        let last = |text: &str, of: &dyn Fn(&&str) -> bool| {
            let lines: Vec<&str> = text.lines().filter(of).collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        let log = String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        let operator = last(&log, &|line| line.contains(node));
        format!("the operator:\n{operator}\nits server:\n{}", last(&self.tree.log(node), &|_| true))
    }

    /// Rows that are written now arrive on all of these nodes.
    pub async fn flows(&self, nodes: &[&str]) {
        let write = "CREATE TABLE IF NOT EXISTS flow (at timestamptz DEFAULT clock_timestamp());
                     INSERT INTO flow DEFAULT VALUES RETURNING at";
        let row = self.tree.value(PRIMARY, write).await;
        for node in nodes {
            // The table itself may not be there yet, and a statement that names it would fail.
            self.tree.until(node, "SELECT to_regclass('flow') IS NOT NULL", "t").await;
            self.tree.until(node, &format!("SELECT count(*) FROM flow WHERE at = '{row}'"), "1").await;
        }
    }

    /// What is written now is read on all of `others`, while the readers of `node` go on to see what was before.
    pub async fn misses(&self, node: &str, others: &[&str]) {
        self.tree.sql(PRIMARY, "CREATE TABLE beyond AS SELECT 1").await;
        self.flows(others).await;
        assert_eq!(self.tree.value(node, MISSES_BEYOND).await, "t", "{node} shows what cannot have come to it");
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The servers are gone before the operator is done with it; nobody waits for that.
        server().kubectl(&["delete", "rtopo", NAME, "-n", &self.namespace, "--wait=false"], "");
        if server().is_given() {
            // The operator ends with this process and would take the finalizer with it.
            let patch = r#"{"metadata":{"finalizers":null}}"#;
            server().kubectl(&["patch", "rtopo", NAME, "-n", &self.namespace, "--type=merge", "-p", patch], "");
            server().kubectl(&["delete", "namespace", &self.namespace, "--wait=false"], "");
        }
    }
}

/// How nodes were connected at one time: walreceivers and settings.
pub struct Connected(Vec<(&'static str, String)>);

async fn connection(tree: &Tree, node: &str) -> String {
    let sql = "SELECT (SELECT pid FROM pg_stat_wal_receiver), current_setting('primary_conninfo'), \
               current_setting('primary_slot_name')";
    tree.value(node, sql).await
}

/// A primary that feeds all others.
pub async fn star(others: &[&str]) -> Tree {
    let mut tree = Tree::start(None);
    tree.primary(PRIMARY).await;
    for node in others {
        tree.standby(node, PRIMARY).await;
    }
    tree
}

/// A group of hosts on loopback, with what else it says.
pub fn group(name: &str, secret: &str, more: &str, hosts: &[(&str, u16)]) -> String {
    let hosts: Vec<_> = hosts.iter().map(|(node, port)| (*node, "127.0.0.1", *port)).collect();
    group_at(name, secret, more, &hosts)
}

/// A group of hosts at these addresses, with what else it says.
pub fn group_at(name: &str, secret: &str, more: &str, hosts: &[(&str, &str, u16)]) -> String {
    let host = |(node, at, port): &(&str, &str, u16)| format!("{{name: {node}, address: {at}, port: {port}}}");
    let hosts: Vec<String> = hosts.iter().map(host).collect();
    let more = if more.is_empty() { String::new() } else { format!("{more}, ") };
    format!(
        "  - {{name: {name}, sslMode: Disable, credentialsSecretRef: {{name: {secret}}}, {more}hosts: [{}]}}\n",
        hosts.join(", ")
    )
}

/// Applies what the API server takes.
pub fn apply(text: &str) {
    let done = server().kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], text);
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
}

/// Applies what the API server refuses, and returns what it says.
pub fn refused(text: &str) -> String {
    let done = server().kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], text);
    assert!(!done.status.success(), "the API server took it:\n{text}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// What `waltree validate` says about a manifest, and its exit code.
pub fn validate(manifest: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_waltree"))
        .args(["validate", "-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("run waltree");
    io::Write::write_all(&mut child.stdin.take().unwrap(), manifest.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}
