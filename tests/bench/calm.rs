//! What the operator does while nothing has to be done: minutes of writes on nine servers, no fault. `cargo test --bench
//! calm -- MINUTES`; prints figures of the operator's own process, asserts nothing. With `--heavy`: the same under all that
//! a busy fleet does to itself, and what was told of it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails where it cannot go on")]

mod heavy;
#[path = "../support/mod.rs"]
mod support;

use std::env::args;
use std::time::Duration;

use support::kube::ApiServer;
use support::operator::install;
use support::process::Process;
use support::readers::Writer;
use support::topology::{self, CORE, EU, nine};
use support::witness::Witness;
use waltree::api::ReplicaTopologyStatus;

const SET_ROUTES: &str = "waltree_steps_total{kind=\"SetRoute\",outcome=\"ok\"}";

#[tokio::main]
async fn main() {
    let minutes: u32 = args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(30);
    if args().any(|argument| argument == "--heavy") {
        heavy::run(minutes).await;
    } else {
        calm(minutes).await;
    }
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "the operator is not optimized" } else { "the operator is optimized" }
}

async fn status(server: &ApiServer) -> ReplicaTopologyStatus {
    topology::get(server).await.status.unwrap()
}

async fn calm(minutes: u32) {
    let tree = nine().await;
    let _writer = Writer::start(&tree, CORE[0]).await;
    let server = ApiServer::start();
    install(&server);
    topology::apply(&server, &tree, "healing: {settleSeconds: 1}");
    let operator = Process::start(&server, "first").await;
    topology::converged(&server).await;
    operator.comes_to_rest().await;
    // Known only after a minute, and then told for the first time.
    let rate_is_told = async || status(&server).await.summary.is_some_and(|told| told.retained_wal_lasts.is_some());
    while !rate_is_told().await {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    let before = status(&server).await;
    let moves = operator.figure(SET_ROUTES).await;
    let writes = operator.figure("waltree_status_writes_total").await;
    let (cpu, begun) = (operator.cpu_seconds(), operator.passes().await);
    let witness = Witness::of(&tree, &[&CORE[..], &EU[..]].concat()).await;
    tokio::time::sleep(Duration::from_secs(60) * minutes).await;
    let per_minute = |amount: f64| amount / f64::from(minutes);
    let seen = witness.tell().await;
    println!("{minutes} min of a row every 10 ms on nine servers, no fault; {}", build());
    println!("routes set            {}", operator.figure(SET_ROUTES).await - moves);
    println!("walreceivers changed  {} (in {} looks)", seen.reconnects(), seen.samples);
    println!("status writes         {}", operator.figure("waltree_status_writes_total").await - writes);
    let after = status(&server).await;
    if after != before {
        let text = |status| serde_json::to_string(status).unwrap();
        println!("the status was        {}\n       and is         {}", text(&before), text(&after));
    }
    println!("passes a minute       {:.1}", per_minute(operator.passes().await - begun));
    println!("CPU seconds a minute  {:.2}", per_minute(operator.cpu_seconds() - cpu));
    println!("RSS in MiB            {:.1}", operator.resident_mib());
}
