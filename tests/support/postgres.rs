//! Trees of real PostgreSQL servers on 127.0.0.1, and what can happen to them.
//!
//! Every server runs below a small shell that holds a pipe to the test process. When the pipe ends, because the tree
//! was dropped, the test panicked or the test process was killed, the shell kills the server and removes the files.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use super::owner::{as_owner, entering, give, own_dir, owner};
use super::programs::binaries;

mod template;

use template::template;

/// Password of the role `waltree` on every server here.
pub const WALTREE_PASSWORD: &str = "not-a-secret-waltree";
/// Password of the role `repl`, which the standbys stream as; they have it in a passfile.
pub const REPL_PASSWORD: &str = "not-a-secret-repl";

const OPERATOR_ROLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/sql/operator-role.sql");

/// What of it PostgreSQL 14 takes, which waltree has to recognise and to leave alone.
const ROLE_OF_14: &str = "CREATE ROLE waltree LOGIN REPLICATION; GRANT pg_monitor TO waltree;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf(), pg_catalog.pg_logical_emit_message(boolean, text, text) TO waltree;
";

const CONF: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
shared_buffers = 8MB
dynamic_shared_memory_type = mmap
max_connections = 30
max_wal_senders = 32
max_replication_slots = 32
max_worker_processes = 2
max_parallel_workers = 0
max_logical_replication_workers = 0
autovacuum = off
wal_level = replica
wal_keep_size = 256MB
wal_log_hints = on
hot_standby = on
wal_retrieve_retry_interval = 100ms
wal_receiver_timeout = 3s
wal_sender_timeout = 5s
wal_receiver_status_interval = 1s
log_line_prefix = '%m %b '
";

const HBA: &str = "
host    all          postgres  127.0.0.1/32  trust
host    all          waltree   127.0.0.1/32  scram-sha-256
host    replication  repl      127.0.0.1/32  scram-sha-256
host    replication  waltree   127.0.0.1/32  scram-sha-256
";

/// Runs one server and waits for a word on its input: `kill`, `stop`, or the end of the input.
const KEEPER: &str = r#"
trap '' INT TERM HUP
exec 2>/dev/null
dir=$1 log=$2; shift 2
for data; do :; done
"$@" </dev/null >>"$log" 2>&1 &
pid=$!
echo $pid
read word || word=gone
if [ "$word" = stop ]; then
    kill -INT $pid
else
    kill -STOP $pid
    children=$(cat /proc/$pid/task/$pid/children)
    kill -KILL $pid $children
fi
wait $pid
# A server is not started again while a process of the last one holds its shared memory; they are nobody's to wait for.
for child in $children; do
    while grep -qs '^State:.[^ZX]' /proc/$child/status; do sleep 0.01; done
done
# Whoever is killed leaves a segment of shared memory behind, of which a machine has room for 4096.
[ "$word" = stop ] || ipcrm -m $(sed -n '7s/.* //p' "$data/postmaster.pid")
[ "$word" != gone ] || rm -rf "$dir"
"#;

/// A tree of servers. Everything of it is gone when it is dropped.
pub struct Tree {
    dir: PathBuf,
    bin: PathBuf,
    template: PathBuf,
    settings: String,
    servers: BTreeMap<String, Server>,
}

struct Server {
    address: String,
    port: u16,
    /// The network namespace that it runs in, when it has one of its own.
    within: Option<String>,
    data: PathBuf,
    log: PathBuf,
    running: Option<Running>,
}

struct Running {
    keeper: Child,
    pid: u32,
}

impl Tree {
    /// An empty tree of the given major version; `None` is what `WALTREE_PG_BIN` has, or the newest that is installed.
    pub fn start(version: Option<u32>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bin = binaries(version).unwrap();
        let template = template(&bin, "ours");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("waltree-{}-{count}", std::process::id()));
        own_dir(&dir);
        let passfile = dir.join("passfile");
        fs::write(&passfile, format!("*:*:replication:repl:{REPL_PASSWORD}\n")).unwrap();
        fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
        give(&passfile);
        Self { dir, bin, template, settings: String::new(), servers: BTreeMap::new() }
    }

    /// Lines of postgresql.conf for every server that is made from now on.
    pub fn all_have(&mut self, settings: &str) {
        settings.clone_into(&mut self.settings);
    }

    /// Starts the primary.
    pub async fn primary(&mut self, node: &str) {
        self.make(node, "");
        self.start_node(node).await;
    }

    /// Starts a primary with data of its own: its system identifier is not that of the others.
    pub async fn stranger(&mut self, node: &str) {
        let ours = std::mem::replace(&mut self.template, template(&self.bin, "theirs"));
        self.make(node, "");
        self.template = ours;
        self.start_node(node).await;
    }

    /// Starts a standby that streams from `upstream` as the role `repl`, without a slot.
    pub async fn standby(&mut self, node: &str, upstream: &str) {
        self.standby_with(node, &self.conninfo(node, upstream)).await;
    }

    /// Starts a standby with this `primary_conninfo`.
    pub async fn standby_with(&mut self, node: &str, conninfo: &str) {
        self.make(node, &format!("primary_conninfo = '{}'\n", conninfo.replace('\'', "''")));
        let signal = self.servers[node].data.join("standby.signal");
        fs::write(&signal, "").unwrap();
        give(&signal);
        self.start_node(node).await;
    }

    /// The `primary_conninfo` with which `node` streams from `upstream`.
    pub fn conninfo(&self, node: &str, upstream: &str) -> String {
        self.conninfo_to(node, self.address(upstream), self.port(upstream))
    }

    /// The same for an upstream that is not of this tree.
    pub fn conninfo_to(&self, node: &str, address: &str, port: u16) -> String {
        let passfile = self.dir.join("passfile");
        format!("host={address} port={port} application_name={node} user=repl passfile={}", passfile.display())
    }

    /// Copies the data that a primary of this tree would start with, for somebody else to start it.
    pub fn copy_data(&self, to: &Path) {
        run(Command::new("cp").arg("-a").arg(&self.template).arg(to));
    }

    /// Copies the template, which is the data directory of a server that was shut down cleanly. That is what a standby
    /// may start from as long as its upstream has the WAL since then.
    fn make(&mut self, node: &str, settings: &str) {
        let (data, log) = (self.dir.join(node), self.dir.join(format!("{node}.log")));
        run(Command::new("cp").arg("-a").arg(&self.template).arg(&data));
        let port = free_port();
        append(&data.join("postgresql.conf"), &format!("port = {port}\ncluster_name = '{node}'\n{}\n", self.settings));
        append(&data.join("postgresql.auto.conf"), settings);
        let server = Server { address: "127.0.0.1".to_owned(), port, within: None, data, log, running: None };
        self.servers.insert(node.to_owned(), server);
    }

    /// A copy of a running server, as pg_basebackup makes it: name, route and all, with a port of its own.
    pub fn clone_of(&mut self, node: &str, original: &str) {
        let (data, log, port) = (self.dir.join(node), self.dir.join(format!("{node}.log")), free_port());
        self.backup(original, &data);
        append(&data.join("postgresql.conf"), &format!("port = {port}\n"));
        let server = Server { address: "127.0.0.1".to_owned(), port, within: None, data, log, running: None };
        self.servers.insert(node.to_owned(), server);
    }

    /// Gives a server that is stopped the data of another, as a person does by hand; its own settings and route stay.
    pub fn clone_anew(&self, node: &str, original: &str) {
        let data = &self.servers[node].data;
        let settings = ["postgresql.conf", "postgresql.auto.conf"].map(|file| data.join(file));
        let kept = settings.each_ref().map(|file| fs::read(file).unwrap());
        fs::remove_dir_all(data).unwrap();
        self.backup(original, data);
        for (file, text) in settings.iter().zip(kept) {
            fs::write(file, text).unwrap();
        }
    }

    /// Makes a server, which may run, a standby of `upstream` on a copy of its data, as a message tells a person to.
    pub async fn begin_anew(&mut self, node: &str, upstream: &str) {
        if self.servers[node].running.is_some() {
            self.stop(node);
        }
        self.clone_anew(node, upstream);
        let (data, conninfo) = (self.data(node), self.conninfo(node, upstream));
        fs::write(data.join("postgresql.auto.conf"), format!("primary_conninfo = '{conninfo}'\n")).unwrap();
        fs::write(data.join("standby.signal"), "").unwrap();
        self.start_node(node).await;
    }

    fn backup(&self, original: &str, to: &Path) {
        let mut backup = Command::new(self.bin.join("pg_basebackup"));
        backup.args(["-w", "-c", "fast", "-X", "fetch", "-U", "repl", "-h", self.address(original), "-D"]).arg(to);
        backup.args(["-p", &self.port(original).to_string()]).env("PGPASSFILE", self.dir.join("passfile"));
        run(as_owner(&mut backup).current_dir(&self.dir));
    }

    /// Adds lines to a server's postgresql.conf; they act from the next start or reload.
    pub fn configure(&self, node: &str, lines: &str) {
        append(&self.servers[node].data.join("postgresql.conf"), &format!("{lines}\n"));
    }

    /// Replaces a server's pg_hba.conf; it acts from the next start or reload. Keep a way in for `postgres`.
    pub fn write_hba(&self, node: &str, lines: &str) {
        fs::write(self.servers[node].data.join("pg_hba.conf"), lines).unwrap();
    }

    /// Starts a server that does not run, and waits until it lets `postgres` in.
    pub async fn start_node(&mut self, node: &str) {
        self.spawn(node);
        eventually(&format!("{node} lets us in"), async || self.connect(node).await.is_ok()).await;
    }

    /// Starts a server that does not run, and waits for nothing.
    pub fn spawn(&mut self, node: &str) {
        let (dir, bin) = (self.dir.clone(), self.bin.clone());
        let server = self.servers.get_mut(node).unwrap();
        assert!(server.running.is_none(), "{node} runs already");
        server.running = Some(Running::new(&dir, &bin, &server.data, &server.log, server.within.as_deref()));
    }

    /// Kills every process of a server at once.
    pub fn kill(&mut self, node: &str) {
        self.servers.get_mut(node).unwrap().running.take().expect("it runs").end("kill");
    }

    /// Stops a server as `pg_ctl stop -m fast` does.
    pub fn stop(&mut self, node: &str) {
        self.servers.get_mut(node).unwrap().running.take().expect("it runs").end("stop");
    }

    /// Freezes every process of a server: the kernel still accepts connections, nobody answers.
    pub fn freeze(&self, node: &str) {
        self.signal(node, "STOP");
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self, node: &str) {
        self.signal(node, "CONT");
    }

    fn signal(&self, node: &str, signal: &str) {
        let kill = |pids: &[u32]| {
            let mut command = Command::new("kill");
            command.arg(format!("-{signal}")).args(pids.iter().map(u32::to_string));
            command
        };
        // The first one begins no others then; of those that there are one may have ended meanwhile.
        run(&mut kill(&self.processes(node)[..1]));
        let others = &self.processes(node)[1..];
        assert!(others.is_empty() || kill(others).stderr(Stdio::null()).status().is_ok());
    }

    /// From its next start on a server is reached at `address`, and runs in a network namespace where one is given.
    pub fn place(&mut self, node: &str, address: &str, within: Option<&str>) {
        let server = self.servers.get_mut(node).unwrap();
        (server.address, server.within) = (address.to_owned(), within.map(str::to_owned));
        let listen = format!("listen_addresses = '{address}'\n");
        append(&server.data.join("postgresql.conf"), &listen);
    }

    /// The address of a server.
    pub fn address(&self, node: &str) -> &str {
        &self.servers[node].address
    }

    /// The port of a server.
    pub fn port(&self, node: &str) -> u16 {
        self.servers[node].port
    }

    /// The processes of a server that run now, its first one first.
    pub fn processes(&self, node: &str) -> Vec<u32> {
        let pid = self.servers[node].running.as_ref().expect("it runs").pid;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// What a server has logged so far.
    pub fn log(&self, node: &str) -> String {
        fs::read_to_string(&self.servers[node].log).unwrap_or_default()
    }

    /// The data directory of a server.
    pub fn data(&self, node: &str) -> &Path {
        &self.servers[node].data
    }

    /// A session as the superuser `postgres`.
    pub async fn connect(&self, node: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        connect_at(self.address(node), self.port(node)).await
    }

    /// Runs SQL as the superuser and returns the rows, each value as text, `|` between them.
    pub async fn sql(&self, node: &str, sql: &str) -> Vec<String> {
        let client = self.connect(node).await.unwrap();
        let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{node}: {sql}: {e:?}"));
        let row = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len()).map(|i| row.get(i).unwrap_or_default()).collect::<Vec<_>>().join("|")
        };
        messages.iter().filter_map(|m| if let SimpleQueryMessage::Row(r) = m { Some(row(r)) } else { None }).collect()
    }

    /// Runs SQL as the superuser and returns its one value.
    pub async fn value(&self, node: &str, sql: &str) -> String {
        self.sql(node, sql).await.pop().unwrap_or_default()
    }

    /// Waits until SQL returns `expected`.
    pub async fn until(&self, node: &str, sql: &str, expected: &str) {
        eventually(&format!("{node}: {sql} = {expected}"), async || self.value(node, sql).await == expected).await;
    }

    /// Waits until `node` has replayed everything that `primary` has written by now.
    pub async fn caught_up(&self, node: &str, primary: &str) {
        let end = self.value(primary, "SELECT pg_current_wal_flush_lsn()").await;
        self.until(node, &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t").await;
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for server in self.servers.values_mut() {
            if let Some(running) = server.running.take() {
                running.end("kill");
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Running {
    fn new(dir: &Path, bin: &Path, data: &Path, log: &Path, within: Option<&str>) -> Self {
        let mut command = match within {
            Some(namespace) => entering(namespace),
            None => Command::new("sh"),
        };
        command.args(["-c", KEEPER, "keeper"]).arg(dir).arg(log).arg(bin.join("postgres")).arg("-D").arg(data);
        let command = if within.is_some() { &mut command } else { as_owner(&mut command) };
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir(dir).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { keeper, pid: line.trim().parse().expect("the keeper says the pid") }
    }

    fn end(mut self, word: &str) {
        let _ = self.keeper.stdin.take().map(|mut input| writeln!(input, "{word}"));
        let _ = self.keeper.wait();
    }
}

/// A session as the superuser `postgres` on the server of this port.
pub async fn connect(port: u16) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    connect_at("127.0.0.1", port).await
}

/// The same at another address.
pub async fn connect_at(address: &str, port: u16) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let config = format!("host={address} port={port} user=postgres dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Polls until a condition holds; panics after 30 s and as long as its looks take.
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    within(Duration::from_secs(30), what, holds).await;
}

/// The same with another patience.
pub async fn within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..patience.as_millis() / PAUSE.as_millis() {
        if holds().await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("not within {patience:?}: {what}");
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// What a command prints; it has to succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A port below those that the kernel gives to outgoing connections, so that only another test could take it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = u16::try_from(std::process::id() * 61 % 11_000).unwrap();
    for _ in 0..1000 {
        let port = 20_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
