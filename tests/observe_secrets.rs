//! What never leaves a server, and what its files hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here fails the test, and figures are shown"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use support::fleet::{credentials, facts, name, spec, until, watch, watch_as};
use support::postgres::Tree;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use waltree::model::conninfo::MASK;
use waltree::model::observed::InstalledRoute;
use waltree::observe::{Fleet, ServerSpec};

/// What a server sends to those who watch it through this port.
struct Wire {
    port: u16,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self { port: listener.local_addr().unwrap().port(), sent: Arc::default() };
        let sent = Arc::clone(&this.sent);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let sent = Arc::clone(&sent);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(size @ 1..) = from_server.read(&mut buffer).await {
                        sent.lock().unwrap().extend_from_slice(&buffer[..size]);
                        to_client.write_all(&buffer[..size]).await.unwrap();
                    }
                });
            }
        });
        this
    }

    fn has_sent(&self, word: &str) -> bool {
        self.sent.lock().unwrap().windows(word.len()).any(|window| window == word.as_bytes())
    }
}

/// Writes `primary_conninfo` on a primary, where it does nothing, and returns what is seen of it.
async fn seen_of(tree: &Tree, fleet: &Fleet, conninfo: &str) -> InstalledRoute {
    let literal = format!("E'{}'", conninfo.replace('\\', "\\\\").replace('\'', "''"));
    tree.sql("core-1", &format!("ALTER SYSTEM SET primary_conninfo = {literal}")).await;
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    tree.until("core-1", &format!("SELECT current_setting('primary_conninfo') = {literal}"), "t").await;
    facts(fleet, "core-1").await.route.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_primary_conninfo_never_leaves_the_server() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let wire = Wire::to(tree.port("core-1")).await;
    let there = ServerSpec { port: wire.port, ..spec(&tree, "core-1", None) };
    // Where a backslash is none, a pattern could match something else.
    tree.sql("core-1", "ALTER SYSTEM SET standard_conforming_strings = off").await;
    let fleet = watch_as(credentials(), BTreeMap::from([(name("core-1"), there)])).await;
    for with_password in [
        "host=a password=s3cret user=repl",
        "host=a password = s3cret user=repl",
        "host=a password='s3cret with blanks' user=repl",
        r"host=a password='s3cret \' s3cret \\' user=repl",
        r"host=a password=s3cret\ s3cret user=repl",
        "host=a sslpassword=s3cret user=repl",
        "host=a sslpassword='s3cret s3cret' password='s3cret s3cret' user=repl",
        "host=a password='s3cret s3cret",
        r"host=a password=s3cret\",
        "host=a password=a\u{2003}s3cret user=repl",
        "host=a password=\u{2003}s3cret user=repl",
        "host=a password\u{a0}=s3cret user=repl",
        "host=a Password=s3cret user=repl",
        "host=a password2 = 's3cret' user=repl",
        "host=a scram_client_key=s3cret scram_server_key='s3cret' oauth_client_secret = s3cret user=repl",
        "postgresql://repl:s3cret@a/postgres",
        "postgres://repl@a/postgres?password=s3cret",
    ] {
        let route = seen_of(&tree, &fleet, with_password).await;
        assert!(!wire.has_sent("s3cret"), "{with_password}");
        assert!(route.has_password || route.unreadable, "{with_password}: {route:?}");
        assert_eq!(route.pending, None, "{with_password}: what the files hold is what runs");
        if route.conninfo.get("user").is_some() {
            assert!(route.conninfo.to_string().contains(MASK), "{route:?}");
        }
    }
    let clean = seen_of(&tree, &fleet, "host=a passfile='/a b/pw' user=repl require_auth=password").await;
    assert_eq!((clean.conninfo.get("passfile"), clean.has_password), (Some("/a b/pw"), false));
    assert!(wire.has_sent("/a b/pw"), "the wire is listened to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_waits_in_the_files_is_seen_without_its_password() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    tree.sql("core-1", "ALTER SYSTEM SET primary_conninfo = 'host=later port=7 password=s3cret'").await;
    let seen = until(&fleet, "core-1", "has a route waiting", |facts| facts.route.pending.is_some()).await;
    let pending = seen.route.pending.clone().unwrap();
    assert_eq!(pending.hosts(), [("later".to_owned(), 7)]);
    assert_eq!(pending.get("password"), Some(MASK));
    assert!(seen.route.conninfo.is_empty());
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    until(&fleet, "core-1", "runs it", |facts| facts.route.pending.is_none() && facts.route.has_password).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_at_the_end_of_the_route_is_seen() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    assert!(seen_of(&tree, &fleet, "host=a ").await.nudged);
    assert!(!seen_of(&tree, &fleet, "host=a").await.nudged);
}
