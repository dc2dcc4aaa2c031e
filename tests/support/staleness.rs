//! How old the newest row is that the reader of a standby sees, by the boot-time clock.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::time::Duration;

use super::postgres::Tree;

/// A writer: one row with the time of the boot-time clock, in milliseconds, again and again.
pub struct Writer(tokio::task::JoinHandle<()>);

impl Writer {
    /// Begins to write on the primary, a row every `milliseconds`.
    pub async fn on(tree: &Tree, primary: &str, milliseconds: u64) -> Self {
        let client = tree.connect(primary).await.unwrap();
        client.batch_execute("CREATE TABLE IF NOT EXISTS beat (at bigint NOT NULL)").await.unwrap();
        Self(tokio::spawn(async move {
            loop {
                let now = i64::try_from(waltree::operator::clock::now().0).unwrap();
                if client.execute("INSERT INTO beat VALUES ($1)", &[&now]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            }
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A reader on one standby that remembers how old its newest row ever was.
pub struct Staleness {
    stop: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<u64>,
}

impl Staleness {
    /// Begins to read, every 10 ms, as soon as the first row is there.
    pub async fn on(tree: &Tree, node: &str) -> Self {
        tree.until(node, "SELECT to_regclass('beat') IS NOT NULL", "t").await;
        tree.until(node, "SELECT count(*) > 0 FROM beat", "t").await;
        let client = tree.connect(node).await.unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut worst = 0;
            while !stopped.is_cancelled() {
                let row = client.query_one("SELECT max(at) FROM beat", &[]).await.unwrap();
                let newest = u64::try_from(row.get::<_, i64>(0)).unwrap();
                worst = worst.max(waltree::operator::clock::now().0.saturating_sub(newest));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            worst
        });
        Self { stop, task }
    }

    /// Ends reading and tells the worst staleness, in milliseconds.
    pub async fn stop(self) -> u64 {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}
