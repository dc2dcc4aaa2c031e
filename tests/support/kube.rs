//! A real etcd and a real kube-apiserver on loopback.
//!
//! Whatever becomes of the test process, nothing is left behind: a small shell, the keeper, waits for the end of a pipe
//! that only the test process holds, then ends what is still running by its pid and removes the directory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

/// Ends the processes whose pids are in the directory, waits until they are gone, and removes it. It reads until the
/// end of its input, which comes when the test process closes the pipe or ends.
const KEEPER: &str = r#"
cat >/dev/null
pids=$(cat "$1"/*.pid 2>/dev/null)
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
if [ -n "$2" ]; then "$2" --kubeconfig "$1/kubeconfig" delete namespace "$3" --wait=false >/dev/null 2>&1; fi
for pid in $pids; do
  # A dead process that nobody has waited for yet still has its pid, so this does not wait for ever.
  tries=250
  while kill -0 "$pid" 2>/dev/null && [ $tries -gt 0 ]; do sleep 0.02; tries=$((tries - 1)); done
done
rm -rf "$1"
"#;

/// How often readiness is asked for, with [`PAUSE`] in between, before a server counts as not coming up.
const ATTEMPTS: usize = 600;
const PAUSE: Duration = Duration::from_millis(100);

/// Names the kubeconfig of an API server that is there already. Never `KUBECONFIG`: nobody's cluster is touched that was
/// not named for this.
const GIVEN: &str = "WALTREE_KUBECONFIG";

/// An API server with its etcd. Ended and removed when dropped, and also when the test process dies.
pub struct ApiServer {
    kubectl: PathBuf,
    /// Where etcd and kube-apiserver are; `None` for one that was given.
    binaries: Option<PathBuf>,
    directory: PathBuf,
    etcd_port: u16,
    port: u16,
    etcd: Option<Child>,
    server: Option<Child>,
    keeper: Child,
}

impl ApiServer {
    /// The API server that `WALTREE_KUBECONFIG` names, with a namespace of this process as the one that is meant where none
    /// is said; or one of our own. For tests that need nothing but objects of namespaces of their own: who stops the server,
    /// reads what service accounts did or lets one operator after the other lead on it needs [`ApiServer::start`].
    pub fn given_or_started() -> Self {
        std::env::var_os(GIVEN).map_or_else(Self::start, |file| Self::given(Path::new(&file)))
    }

    fn given(file: &Path) -> Self {
        let folder = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let kubectl = folder.map_or_else(|| PathBuf::from("kubectl"), |folder| folder.join("kubectl"));
        let (directory, namespace) = (directory(), format!("waltree-test-{}", std::process::id()));
        let view = ["config", "view", "--raw", "--minify", "--flatten", "-o", "json"];
        let shown = Command::new(&kubectl).args(view).env("KUBECONFIG", file).output().expect("run kubectl");
        assert!(shown.status.success(), "{GIVEN}: {}", String::from_utf8_lossy(&shown.stderr));
        let mut kubeconfig: Value = serde_json::from_slice(&shown.stdout).expect("read the given kubeconfig");
        kubeconfig["contexts"][0]["context"]["namespace"] = namespace.as_str().into();
        let keeper = keeper(&directory, &[kubectl.as_os_str(), namespace.as_ref()]);
        let (etcd_port, port, etcd, server, binaries) = (0, 0, None, None, None);
        let this = Self { kubectl, binaries, directory, etcd_port, port, etcd, server, keeper };
        write_private(&this.kubeconfig(), &kubeconfig.to_string());
        let made = this.kubectl(&["create", "namespace", &namespace], "");
        assert!(made.status.success(), "{GIVEN}: {}", String::from_utf8_lossy(&made.stderr));
        this
    }

    /// Starts both and waits until the server is ready.
    pub fn start() -> Self {
        let binaries = binaries();
        let directory = directory();
        let keeper = keeper(&directory, &[]);
        let [etcd_port, peer_port, port] = free_ports();
        let (kubectl, binaries) = (binaries.join("kubectl"), Some(binaries));
        let mut this = Self { kubectl, binaries, directory, etcd_port, port, etcd: None, server: None, keeper };
        let etcd = this.etcd_command(peer_port);
        this.etcd = Some(this.spawn("etcd", etcd));
        this.credentials();
        this.resume();
        this
    }

    /// A client with every right.
    pub async fn client(&self) -> Client {
        let text = fs::read_to_string(self.kubeconfig()).expect("read the kubeconfig");
        self.client_from(&text).await
    }

    /// A client that has only the rights of a service account, which must exist.
    pub async fn client_as(&self, namespace: &str, service_account: &str) -> Client {
        let token = self.token(namespace, service_account).await;
        self.client_from(&self.kubeconfig_text(&token)).await
    }

    /// A kubeconfig file, beside that of the administrator, with only the rights of a service account.
    pub async fn kubeconfig_as(&self, namespace: &str, service_account: &str) -> PathBuf {
        let token = self.token(namespace, service_account).await;
        let path = self.directory.join(format!("kubeconfig-{namespace}-{service_account}"));
        write_private(&path, &self.kubeconfig_text(&token));
        path
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// A directory of the test's own, removed with the server.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs kubectl as the administrator, with `input` as its standard input.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(&self.kubectl)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", &self.directory)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run kubectl");
        // kubectl may have ended before it reads its input; what it says then is the answer.
        let _ = child.stdin.take().expect("kubectl's input").write_all(input.as_bytes());
        child.wait_with_output().expect("wait for kubectl")
    }

    /// What service accounts were allowed to do so far: API group, resource with its subresource, and verb.
    pub fn deeds(&self) -> BTreeSet<[String; 3]> {
        let log = fs::read_to_string(self.directory.join("audit.log")).expect("read the audit log");
        // The last line may still be written.
        let deed = |line: &str| {
            let event: Value = serde_json::from_str(line).ok()?;
            let about = &event["objectRef"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let resource = match about["subresource"].as_str() {
                Some(part) => format!("{}/{part}", text(&about["resource"])),
                None => text(&about["resource"]),
            };
            let allowed = event["annotations"]["authorization.k8s.io/decision"] == "allow";
            allowed.then(|| [text(&about["apiGroup"]), resource, text(&event["verb"])])
        };
        log.lines().filter_map(deed).collect()
    }

    /// Kills the API server and leaves etcd alone, as in an outage of the control plane.
    pub fn stop(&mut self) {
        end(&self.directory, "kube-apiserver", &mut self.server);
    }

    /// Starts the API server again on the same port with the same data, and waits until it is ready.
    pub fn resume(&mut self) {
        if self.server.is_none() {
            let server = self.server_command();
            self.server = Some(self.spawn("kube-apiserver", server));
        }
        for _ in 0..ATTEMPTS {
            if let Some(code) = self.server.as_mut().and_then(|server| server.try_wait().expect("look at the server")) {
                panic!("the API server ended with {code}: {}", self.log("kube-apiserver"));
            }
            if self.is_ready() {
                return;
            }
            thread::sleep(PAUSE);
        }
        panic!("the API server did not become ready: {}", self.log("kube-apiserver"));
    }

    /// Kills and starts the API server.
    pub fn restart(&mut self) {
        self.stop();
        self.resume();
    }

    fn is_ready(&self) -> bool {
        // The server makes its certificate itself; the kubeconfig trusts exactly that one.
        if !self.directory.join("apiserver.crt").exists() {
            return false;
        }
        write_private(&self.kubeconfig(), &self.kubeconfig_text("admin"));
        // Ready is not enough to create objects: the namespace is made a moment later.
        self.kubectl(&["get", "--raw", "/readyz"], "").status.success()
            && self.kubectl(&["get", "namespace", "default"], "").status.success()
    }

    /// It was there before us, and is others' too.
    pub fn is_given(&self) -> bool {
        self.binaries.is_none()
    }

    fn kubeconfig_text(&self, token: &str) -> String {
        if self.is_given() {
            let mut kubeconfig: Value =
                serde_json::from_str(&fs::read_to_string(self.kubeconfig()).expect("read ours")).expect("as written");
            kubeconfig["users"] = json!([{"name": "test", "user": {"token": token}}]);
            kubeconfig["contexts"][0]["context"]["user"] = "test".into();
            return kubeconfig.to_string();
        }
        let certificate = self.directory.join("apiserver.crt");
        format!(
            "{{apiVersion: v1, kind: Config, current-context: test,\n\
             clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: '{}'}}}}],\n\
             users: [{{name: test, user: {{token: '{token}'}}}}],\n\
             contexts: [{{name: test, context: {{cluster: test, user: test, namespace: default}}}}]}}\n",
            self.port,
            certificate.display()
        )
    }

    async fn client_from(&self, kubeconfig: &str) -> Client {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("read the kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("use the kubeconfig");
        Client::try_from(config).expect("make a client")
    }

    async fn token(&self, namespace: &str, service_account: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let answer = accounts.create_token_request(service_account, &PostParams::default(), &request).await;
        answer.expect("ask for a token").status.and_then(|status| status.token).expect("a token")
    }

    fn spawn(&self, name: &str, mut command: Command) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.directory.join(format!("{name}.log")));
        let log = log.expect("open the log");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        fs::write(self.directory.join(format!("{name}.pid")), format!("{}\n", child.id())).expect("write the pid");
        child
    }

    fn own(&self, program: &str) -> Command {
        let folder = self.binaries.as_ref();
        Command::new(folder.unwrap_or_else(|| panic!("{GIVEN}'s API server is not ours to start")).join(program))
    }

    fn etcd_command(&self, peer_port: u16) -> Command {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut command = self.own("etcd");
        command
            .args(["--log-level=error", "--unsafe-no-fsync", "--name=test"])
            .arg(format!("--data-dir={}", self.directory.join("etcd").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"));
        command
    }

    fn server_command(&self) -> Command {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut command = self.own("kube-apiserver");
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .arg(format!("--secure-port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=198.19.0.0/24"])
            .arg(format!("--token-auth-file={}", file("tokens.csv")))
            .arg(format!("--audit-policy-file={}", file("audit.yaml")))
            .arg(format!("--audit-log-path={}", file("audit.log")))
            .arg(format!("--cert-dir={}", self.directory.display()))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", file("accounts.key")))
            .arg(format!("--service-account-signing-key-file={}", file("accounts.key")));
        command
    }

    /// The administrator's token, worth nothing beyond this loopback server, the key that signs service accounts' ones,
    /// and the rule that what these do is written down.
    fn credentials(&self) {
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
                      rules: [{level: Metadata, userGroups: ['system:serviceaccounts']}, {level: None}]\n";
        write_private(&self.directory.join("audit.yaml"), policy);
        write_private(&self.directory.join("tokens.csv"), "admin,admin,admin,system:masters\n");
        let made = Command::new("openssl")
            .args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
            .arg(self.directory.join("accounts.key"))
            .output()
            .expect("run openssl (package openssl)");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn log(&self, name: &str) -> String {
        let mut text = String::new();
        if let Ok(mut file) = fs::File::open(self.directory.join(format!("{name}.log"))) {
            let _ = file.read_to_string(&mut text);
        }
        let from = text.len().saturating_sub(2000);
        text.get(from..).unwrap_or(&text).to_owned()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        end(&self.directory, "kube-apiserver", &mut self.server);
        end(&self.directory, "etcd", &mut self.etcd);
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn end(directory: &Path, name: &str, process: &mut Option<Child>) {
    if let Some(mut child) = process.take() {
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_file(directory.join(format!("{name}.pid")));
    }
}

/// The folder with etcd, kube-apiserver and kubectl: the user's own, or built once from source.
pub fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("KUBEBUILDER_ASSETS") {
        return folder.into();
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube/build");
    let output = Command::new(build).stderr(Stdio::inherit()).output().expect("run tests/kube/build");
    assert!(
        output.status.success(),
        "this test needs an API server of its own, {GIVEN} or not, and tests/kube/build failed: set KUBEBUILDER_ASSETS to \
         a folder that has etcd, kube-apiserver and kubectl"
    );
    String::from_utf8(output.stdout).expect("a path").trim().into()
}

/// The shell that clears up after `directory`; `more` is the kubectl and the namespace of an API server that was given.
fn keeper(directory: &Path, more: &[&OsStr]) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", KEEPER, "keeper"]).arg(directory).args(more);
    command.stdin(Stdio::piped()).process_group(0).spawn().expect("start the keeper")
}

fn directory() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("waltree-kube-{}-{number}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&path).expect("make a directory");
    path
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// Ports that nobody listens on now. All are held until the last is found, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("bind a port"));
    held.map(|listener| listener.local_addr().expect("a port").port())
}
