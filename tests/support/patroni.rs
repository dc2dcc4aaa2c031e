//! A real Patroni with a real etcd on loopback: two servers, of which it keeps one the primary.
//!
//! Whatever becomes of the test process, nothing is left behind: the keeper, a small shell, waits for the end of a pipe
//! that only the test process holds, then ends Patroni, its servers and etcd by their pids and removes the directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::kube::binaries;
use super::owner::{as_owner, give, own_dir};
use super::postgres::{REPL_PASSWORD, Tree, connect, eventually, free_port, run};

/// The two servers. Patroni names a server's slots after it, as waltree would.
pub const MEMBERS: [&str; 2] = ["core-1", "core-2"];

/// Patroni first, so that nobody starts a server again; the servers stop at once when they are told to.
const KEEPER: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
kill -KILL $(cat "$1"/*.pid) 2>/dev/null
for data in "$1"/core-*; do
  [ ! -e "$data/postmaster.pid" ] || kill -QUIT "$(head -n 1 "$data/postmaster.pid")" 2>/dev/null
done
for data in "$1"/core-*; do
  tries=250
  while [ -e "$data/postmaster.pid" ] && [ $tries -gt 0 ]; do sleep 0.02; tries=$((tries - 1)); done
done
rm -rf "$1"
"#;

/// Two servers below Patroni. Ended and removed when dropped, and also when the test process dies.
pub struct Patroni {
    dir: PathBuf,
    command: Vec<String>,
    etcd: u16,
    ports: [(u16, u16); 2],
    children: Vec<Child>,
    keeper: Child,
}

impl Patroni {
    /// Two servers with the data of `tree`, so that its standbys can follow them; `ignored` are slots that Patroni leaves
    /// alone.
    pub async fn start(tree: &Tree, ignored: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("waltree-patroni-{}-{count}", std::process::id()));
        own_dir(&dir);
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let ports = [(); 2].map(|()| (free_port(), free_port()));
        let mut this = Self { dir, command: fetch(), etcd: free_port(), ports, children: Vec::new(), keeper };
        this.start_etcd();
        tree.copy_data(&this.dir.join(MEMBERS[0]));
        // Standbys must not have less than their primary.
        let settings = json!({"max_connections": 30, "max_wal_senders": 32, "max_replication_slots": 32,
            "max_worker_processes": 2});
        let slots: Vec<Value> = ignored.iter().map(|slot| json!({"name": slot, "type": "physical"})).collect();
        let config = json!({"ttl": 20, "loop_wait": 1, "retry_timeout": 3, "ignore_slots": slots,
            "postgresql": {"use_slots": true, "parameters": settings}});
        for (place, member) in MEMBERS.iter().enumerate() {
            this.start_member(place, &config);
            let state = if place == 0 { "running" } else { "streaming" };
            eventually(&format!("{member} is {state}"), async || this.state(member).await.as_deref() == Some(state))
                .await;
        }
        this
    }

    fn start_etcd(&mut self) {
        let (client, peer) = (format!("http://127.0.0.1:{}", self.etcd), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new(binaries().join("etcd"));
        command.arg("--data-dir").arg(self.dir.join("etcd")).arg("--unsafe-no-fsync");
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        self.spawn("etcd", &mut command);
    }

    fn start_member(&mut self, place: usize, cluster: &Value) {
        let (member, (port, rest)) = (MEMBERS[place], self.ports[place]);
        let bin = super::programs::binaries(None).unwrap();
        let at = |port: u16| format!("127.0.0.1:{port}");
        let config = json!({
            "scope": "orders",
            "name": member,
            "restapi": {"listen": at(rest), "connect_address": at(rest)},
            "etcd3": {"host": at(self.etcd)},
            "bootstrap": {"dcs": cluster},
            "postgresql": {
                "listen": at(port),
                "connect_address": at(port),
                "data_dir": self.dir.join(member),
                "bin_dir": bin,
                "pgpass": self.dir.join(format!("{member}.pgpass")),
                "authentication": {
                    "superuser": {"username": "postgres"},
                    "replication": {"username": "repl", "password": REPL_PASSWORD},
                },
                "create_replica_methods": ["basebackup"],
                "basebackup": [{"checkpoint": "fast"}],
            },
        });
        let file = self.dir.join(format!("{member}.yml"));
        write(&file, &config.to_string());
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).arg(&file);
        self.spawn(member, as_owner(&mut command));
    }

    fn spawn(&mut self, name: &str, command: &mut Command) {
        let log = fs::File::create(self.dir.join(format!("{name}.log"))).unwrap();
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.process_group(0).spawn().unwrap();
        fs::write(self.dir.join(format!("{name}.pid")), format!("{}\n", child.id())).unwrap();
        self.children.push(child);
    }

    /// The port of a member's PostgreSQL.
    pub fn port(&self, member: &str) -> u16 {
        self.ports[place(member)].0
    }

    /// The one value that SQL gives on a member, as text; empty while it does not answer.
    pub async fn value(&self, member: &str, sql: &str) -> String {
        let Ok(client) = connect(self.port(member)).await else { return String::new() };
        let messages = client.simple_query(sql).await.unwrap_or_default();
        let value = |message: &tokio_postgres::SimpleQueryMessage| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        messages.iter().find_map(value).unwrap_or_default()
    }

    /// The settings of a member that are not of its present role: values, and where they come from.
    pub async fn settings(&self, member: &str) -> String {
        let sql = "SELECT string_agg(concat_ws('|', name, setting, source, sourcefile), E'\\n' ORDER BY name) \
                   FROM pg_settings WHERE name NOT IN ('primary_conninfo', 'primary_slot_name', 'in_hot_standby', \
                   'transaction_read_only', 'application_name', 'recovery_target_lsn', 'recovery_target_timeline')";
        let settings = self.value(member, sql).await;
        assert!(settings.lines().count() > 100, "{member} tells its settings: {settings}");
        let auto = fs::read_to_string(self.dir.join(member).join("postgresql.auto.conf")).unwrap();
        format!("{settings}\npostgresql.auto.conf: {auto}")
    }

    /// What Patroni says of a member, such as `streaming`.
    async fn state(&self, member: &str) -> Option<String> {
        let (_, cluster) = self.rest("GET", "/cluster", &Value::Null).await?;
        let its = |entry: &&Value| entry["name"] == member;
        Some(cluster["members"].as_array()?.iter().find(its)?["state"].as_str()?.to_owned())
    }

    /// Patroni's own configuration of the cluster.
    pub async fn config(&self) -> Value {
        self.rest("GET", "/config", &Value::Null).await.unwrap().1
    }

    /// Changes it, as `patronictl edit-config -s` does.
    pub async fn configure(&self, change: &Value) {
        assert_eq!(self.rest("PATCH", "/config", change).await.unwrap().0, 200);
    }

    /// Hands the primary over, and returns when Patroni says that it is done.
    pub async fn switchover(&self, from: &str, to: &str) {
        let order = json!({"leader": from, "candidate": to});
        let answer = self.rest("POST", "/switchover", &order).await;
        assert_eq!(answer.as_ref().map(|(code, _)| *code), Some(200), "{answer:?}");
    }

    /// Restarts the first server, and returns when Patroni says that it is done.
    pub async fn restart(&self) {
        assert_eq!(self.rest("POST", "/restart", &json!({})).await.unwrap().0, 200);
    }

    /// Kills a member at once: its Patroni first, which would start the server again, and then the server with all its
    /// processes.
    pub fn kill(&mut self, member: &str) {
        let patroni = &mut self.children[1 + place(member)];
        patroni.kill().unwrap();
        patroni.wait().unwrap();
        let file = fs::read_to_string(self.dir.join(member).join("postmaster.pid")).unwrap();
        let line = |number: usize| file.lines().nth(number).unwrap();
        let server = line(0);
        run(Command::new("kill").args(["-STOP", server]));
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
        run(Command::new("kill").args(["-KILL", server]).args(children.split_whitespace()));
        // Its segment of shared memory would be left behind.
        run(Command::new("ipcrm").args(["-m", line(6).split_whitespace().last().unwrap()]));
        // The keeper ends by these whom it finds, and their pids may be somebody else's by then.
        fs::remove_file(self.dir.join(format!("{member}.pid"))).unwrap();
        fs::remove_file(self.dir.join(member).join("postmaster.pid")).unwrap();
    }

    /// What Patroni's REST API of the first member answers.
    async fn rest(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[0].1)).await.ok()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!("{method} {path} HTTP/1.0\r\nHost: patroni\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        Some((head.split(' ').nth(1)?.parse().ok()?, body))
    }

    /// What Patroni has logged about a member.
    pub fn log(&self, member: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{member}.log"))).unwrap_or_default()
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in MEMBERS {
                let log = self.log(member);
                let routine = |line: &&str| !line.contains("no action") && !line.contains("Lock owner");
                let lines: Vec<&str> = log.lines().rev().filter(routine).take(60).collect();
                eprintln!("Patroni of {member}, the newest line first:\n{}", lines.join("\n"));
            }
        }
        drop(self.keeper.stdin.take());
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = self.keeper.wait();
    }
}

/// Writes a file for the user of the servers.
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    give(path);
}

fn place(member: &str) -> usize {
    MEMBERS.iter().position(|other| *other == member).expect("a member of Patroni's")
}

/// The command that runs Patroni, brought by `tests/patroni/fetch`.
fn fetch() -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/patroni/fetch");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}
