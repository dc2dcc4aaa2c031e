//! What the users of a tree see: rows written on the primary, and how old the newest one is on a leaf.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::postgres::Tree;

/// Between two rows of the writer.
const WRITE_EVERY: Duration = Duration::from_millis(10);
/// Between two looks of a reader.
const READ_EVERY: Duration = Duration::from_millis(4);

/// A writer on one server: a row every 10 ms, each a commit of its own. It ends when dropped.
pub struct Writer {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Writer {
    /// Creates the table `beat` and begins to write.
    pub async fn start(tree: &Tree, primary: &str) -> Self {
        let client = tree.connect(primary).await.unwrap();
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS beat (at timestamptz); CREATE INDEX IF NOT EXISTS beat_at ON beat (at)",
            )
            .await
            .unwrap();
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(write(client, stop.clone())), stop }
    }

    /// Ends it once its last row is answered. One that is dropped may leave a row on its way, which comes later.
    pub async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.expect("it ends");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write(client: Client, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if client.execute("INSERT INTO beat VALUES (clock_timestamp())", &[]).await.is_err() {
            return;
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
}

/// The age of the newest row of `beat` on a server, in milliseconds.
pub async fn staleness_milliseconds(client: &Client) -> f64 {
    let row = client
        .query_one("SELECT (1000 * extract(epoch FROM clock_timestamp() - max(at)))::float8 FROM beat", &[])
        .await
        .unwrap();
    row.get::<_, Option<f64>>(0).unwrap_or(f64::INFINITY)
}

/// The worst age that a reader of `node` sees in `time`, in milliseconds.
pub async fn worst_milliseconds(client: &Client, time: Duration) -> f64 {
    let watch = async {
        let mut worst = 0.0_f64;
        let mut ticks = tokio::time::interval(READ_EVERY);
        let end = tokio::time::sleep(time);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return worst,
                _ = ticks.tick() => worst = worst.max(staleness_milliseconds(client).await),
            }
        }
    };
    watch.await
}
