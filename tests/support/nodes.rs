//! A whole Kubernetes with real nodes that run pods, as `tests/kube/up --nodes` starts it: in namespaces that have no way
//! out and that end with their first process.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::owner::{is_nested, owner};
use super::postgres::{free_port, run, within};

/// How long a pod may take: it is scheduled, gets a volume and is started, each by another program.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends the cluster when the pipe closes that only the test process holds.
const KEEPER: &str = r#"cat >/dev/null; exec "$1" >/dev/null"#;

/// Whether pods run here. Where they cannot a test that needs them fails, unless they are left out knowingly: green is never
/// what was not tested.
pub fn runs_pods() -> bool {
    if std::env::var("WALTREE_PODS").is_ok_and(|pods| pods == "left out") {
        // Past the capture of tests, so that it is read.
        writeln!(std::io::stderr(), "NOT TESTED HERE: pods: left out").expect("write");
        return false;
    }
    let root = owner().is_some() && !is_nested();
    assert!(root, "only root makes nodes for pods. Run it as root, or leave pods out: tests/run --no-pods");
    true
}

/// A cluster that all tests of a process share; each has a namespace of its own in it.
pub struct Cluster {
    state: PathBuf,
    kubectl: PathBuf,
    /// The first process of the control plane's namespaces, in which the addresses of pods and services are reached.
    first: u32,
    keeper: Child,
}

/// The cluster of this process, with three nodes. It ends with the process.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(3))
}

impl Cluster {
    /// A cluster with so many nodes.
    pub fn start(nodes: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let state = std::env::temp_dir().join(format!("waltree-nodes-{}-{count}", std::process::id()));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(scripts.join("down")).env("WALTREE_KUBE_STATE", &state);
        let keeper = keeper.process_group(0).stdin(Stdio::piped()).spawn().expect("start the keeper");
        let mut up = Command::new(scripts.join("up"));
        up.args(["--nodes", &nodes.to_string()]).env("WALTREE_KUBE_STATE", &state).env_remove("WALTREE_KUBECONFIG");
        let said = run(up.env("WALTREE_KUBE_PORT", free_port().to_string()));
        let bin = said.split("PATH=").nth(1).and_then(|rest| rest.split(':').next()).expect("it says where kubectl is");
        let unshare = fs::read_to_string(state.join("unshare.pid")).expect("it has started");
        let first = children(unshare.trim().parse().expect("a pid"))[0];
        Self { kubectl: Path::new(bin).join("kubectl"), state, first, keeper }
    }

    /// The folder of all its data.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The name of its folder in each hierarchy of control groups.
    pub fn cgroup(&self) -> String {
        fs::read_to_string(self.state.join("cgroup")).expect("it has one").trim().to_owned()
    }

    /// All that run in it, by their pids out here, with when they were started: a pid may become another's.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let (mut found, mut next) = (vec![self.first], vec![self.first]);
        while let Some(pid) = next.pop() {
            let children = children(pid);
            next.extend(&children);
            found.extend(children);
        }
        found.into_iter().filter_map(|pid| Some((pid, started(pid)?))).collect()
    }

    /// Ends it, and waits until it has ended.
    pub fn end(mut self) {
        drop(self.keeper.stdin.take());
        assert!(self.keeper.wait().expect("wait for the keeper").success());
    }

    /// Brings an image to every node.
    pub fn bring(&self, archive: &Path) {
        self.on_images(&["import", archive.to_str().expect("a path of ours")]);
    }

    /// Gives an image another name on every node.
    pub fn name_image(&self, image: &str, name: &str) {
        self.on_images(&["tag", image, name]);
    }

    fn on_images(&self, arguments: &[&str]) {
        let nodes = fs::read_to_string(self.state.join("nodes")).expect("it has nodes");
        for node in 1..=nodes.trim().parse().expect("a number") {
            let socket = self.state.join(format!("node-{node}/containerd.sock"));
            let mut ctr = Command::new("ctr");
            run(ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images"]).args(arguments));
        }
    }

    /// Makes a namespace in which only pods run that give up every right they do not need (`restricted`).
    pub fn namespace(&'static self, name: &str) -> Namespace {
        let manifest = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{\
             pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/warn: restricted}}}}}}"
        );
        let made = self.kubectl(&["apply", "-f", "-"], &manifest);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Namespace { cluster: self, name: name.to_owned() }
    }

    /// Runs kubectl as the administrator, with `input` as its standard input.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut kubectl = Command::new(&self.kubectl);
        kubectl.arg("--kubeconfig").arg(self.state.join("kubeconfig")).args(arguments);
        let kubectl = kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().expect("run kubectl");
        // It may have ended before it reads its input; what it says then is the answer.
        let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
        child.wait_with_output().expect("wait for kubectl")
    }

    /// A command that runs where the addresses of pods and services are reached.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--net", "--"]).arg(program);
        command
    }
}

/// When a process was started, in ticks of the machine; `None` where it is not.
pub fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 22nd word; the second is a name in parentheses, which may hold blanks.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let listed: String = threads.map(of_thread).collect();
    listed.split_whitespace().map(|child| child.parse().expect("a pid")).collect()
}

/// A namespace of one test.
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
}

impl Namespace {
    /// Applies manifests; what is refused, or only warned of, fails the test.
    pub fn apply(&self, manifests: &str) {
        let applied = self.kubectl(&["apply", "--server-side", "-f", "-"], manifests);
        let complaints = String::from_utf8_lossy(&applied.stderr);
        assert!(applied.status.success() && complaints.is_empty(), "{complaints}");
    }

    /// Runs kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        self.cluster.kubectl(&[&["--namespace", self.name.as_str()], arguments].concat(), input)
    }

    /// What a JSON path says of an object; empty where there is none of either.
    pub fn field(&self, object: &str, path: &str) -> String {
        let said = self.kubectl(&["get", object, "--output", &format!("jsonpath={{{path}}}")], "");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    /// Waits until a pod is ready, and says why where it does not become so.
    pub async fn ready(&self, pod: &str) {
        let condition = ".status.conditions[?(@.type==\"Ready\")].status";
        within(PATIENCE, &format!("{pod} is ready"), async || self.field(&format!("pod/{pod}"), condition) == "True")
            .await;
    }
}
