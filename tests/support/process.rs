//! Processes as the kernel counts them, and the operator as one of its own, so that what is counted is its own.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::kube::ApiServer;
use super::operator::{SYSTEM, figure};
use super::postgres::eventually;

/// Clock ticks of /proc in a second, the same on every Linux that a Rust program meets.
const TICKS: f64 = 100.0;

/// The processor time that a process has had, in seconds; nothing when it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name in brackets: user and system time are the 14th and 15th field of the line.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}

/// The memory of a process that is in use, in MiB.
pub fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

/// A running operator. It is killed when dropped.
pub struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts one for the whole cluster, and returns when it leads. One of the same identity as the last takes its Lease over
    /// at once.
    pub async fn start(server: &ApiServer, identity: &str) -> Self {
        let kubeconfig = server.kubeconfig_as(SYSTEM, "waltree-operator").await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(env!("CARGO_BIN_EXE_waltree"))
            .env("KUBECONFIG", kubeconfig)
            .args(["operator", "--identity", identity, "--log=warn", "--lease-namespace", SYSTEM])
            .args(["--listen", &address.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // The keeper of the API server ends it, whatever becomes of us.
        fs::write(server.directory().join("operator.pid"), format!("{}\n", child.id())).unwrap();
        let this = Self { child, address };
        eventually("it leads", async || figure(address, "waltree_leading").await == Some(1.0)).await;
        this
    }

    /// One of its figures.
    pub async fn figure(&self, name: &str) -> f64 {
        figure(self.address, name).await.unwrap_or(0.0)
    }

    /// How often it has passed over its topologies.
    pub async fn passes(&self) -> f64 {
        self.figure("waltree_reconcile_duration_seconds_count").await
    }

    /// Waits until it has passed a few times more: all that it had to do is done and told.
    pub async fn comes_to_rest(&self) {
        let begun = self.passes().await;
        eventually("it comes to rest", async || self.passes().await >= begun + 5.0).await;
    }

    /// Its processor time, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    /// Its memory in use, in MiB.
    pub fn resident_mib(&self) -> f64 {
        resident_mib(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
