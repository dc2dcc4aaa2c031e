//! What the operator does while nothing has to be done: minutes of writes on nine servers, no fault. `cargo test --bench
//! calm -- MINUTES`; prints figures of the operator's own process, asserts nothing.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails where it cannot go on")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::kube::ApiServer;
use support::operator::{SYSTEM, figure, install};
use support::postgres::eventually;
use support::readers::Writer;
use support::topology::{self, CORE, EU, nine};
use support::witness::Witness;

/// Clock ticks of /proc in a second, the same on every Linux that a Rust program meets.
const TICKS: f64 = 100.0;
const SET_ROUTES: &str = "waltree_steps_total{kind=\"SetRoute\",outcome=\"ok\"}";

#[tokio::main]
async fn main() {
    let minutes: u32 = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(30);
    let tree = nine().await;
    let _writer = Writer::start(&tree, CORE[0]).await;
    let server = ApiServer::start();
    install(&server);
    topology::apply(&server, &tree, "healing: {settleSeconds: 1}");
    let operator = Process::start(&server).await;
    topology::converged(&server).await;
    // Until it has come to rest.
    let passes = async || operator.figure("waltree_reconcile_duration_seconds_count").await;
    let begun = passes().await;
    eventually("it comes to rest", async || passes().await >= begun + 5.0).await;

    let version = topology::get(&server).await.metadata.resource_version;
    let moves = operator.figure(SET_ROUTES).await;
    let writes = operator.figure("waltree_status_writes_total").await;
    let (cpu, begun) = (operator.cpu_seconds(), passes().await);
    let witness = Witness::of(&tree, &[&CORE[..], &EU[..]].concat()).await;
    tokio::time::sleep(Duration::from_secs(60) * minutes).await;
    let per_minute = |amount: f64| amount / f64::from(minutes);
    let seen = witness.tell().await;
    let build = if cfg!(debug_assertions) { "not optimized" } else { "optimized" };
    println!("{minutes} min of a row every 10 ms on nine servers, no fault; the operator is {build}");
    println!("routes set            {}", operator.figure(SET_ROUTES).await - moves);
    println!("walreceivers changed  {} (in {} looks)", seen.reconnects(), seen.samples);
    println!("status writes         {}", operator.figure("waltree_status_writes_total").await - writes);
    println!("topology written      {}", topology::get(&server).await.metadata.resource_version != version);
    println!("passes a minute       {:.1}", per_minute(passes().await - begun));
    println!("CPU seconds a minute  {:.2}", per_minute(operator.cpu_seconds() - cpu));
    println!("RSS in MiB            {:.1}", operator.rss_mib());
}

/// The operator as a process of its own, so that its CPU time is its own.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    async fn start(server: &ApiServer) -> Self {
        let kubeconfig = server.kubeconfig_as(SYSTEM, "waltree-operator").await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(env!("CARGO_BIN_EXE_waltree"))
            .env("KUBECONFIG", kubeconfig)
            .args(["operator", "--identity=calm", "--log=warn", "--lease-namespace", SYSTEM])
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

    async fn figure(&self, name: &str) -> f64 {
        figure(self.address, name).await.unwrap_or(0.0)
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name in brackets: user and system time are the 14th and 15th field of the line.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
    }

    fn rss_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
