//! A network between a server and those who come to it, that can lose connections without a word.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A way to a server of 127.0.0.1.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    target: Arc<AtomicU16>,
    swallow: watch::Sender<()>,
    listening: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A way to the server of this port.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (swallow, swallowed) = watch::channel(());
        let target = Arc::new(AtomicU16::new(port));
        let aim = Arc::clone(&target);
        let listening = tokio::spawn(async move {
            while let Ok((child, _)) = listener.accept().await {
                tokio::spawn(carry(child, aim.load(Ordering::SeqCst), swallowed.clone()));
            }
        });
        Self { port: own, target, swallow, listening }
    }

    /// New connections are led to the server of this port; those that are open now stay where they are.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
    }

    /// From now on nothing passes on the replication connections that are open now, and neither end hears of it. Others, and
    /// new ones, are carried as before.
    pub fn swallow_replication(&self) {
        self.swallow.send_replace(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn carry(mut child: TcpStream, port: u16, mut swallowed: watch::Receiver<()>) {
    swallowed.mark_unchanged();
    // The startup packet says what a connection is for.
    let mut first = [0; 4096];
    let mut length = 0;
    // It may ask for TLS before, and for GSSAPI, which are not to be had here.
    while length <= 8 {
        let Ok(read @ 1..) = child.read(&mut first).await else { return };
        if read == 8 && child.write_all(b"N").await.is_err() {
            return;
        }
        length = read;
    }
    let first = &first[..length];
    let replicates = first.windows(12).any(|words| words == b"replication\0");
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    if server.write_all(first).await.is_err() {
        return;
    }
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut child, &mut server) => {}
        _ = swallowed.changed(), if replicates => std::future::pending().await,
    }
}
