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
use std::io::Write as _;
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
    let pending = tree.value("core-1", "SELECT waltree.pending_route()").await;
    assert!(!pending.contains("s3cret"), "{conninfo}: {pending}");
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
        "host=a password-old=s3cret user=repl",
        "host=a password=my s3cret user=repl",
        "host=a user=repl password=my s3cret",
        "application_name='my password=' password='s3cret s3cret' user=repl",
        "application_name='a password_b=' password='s3cret s3cret' user=repl",
        "user='repl'password=s3cret",
        r"host=a user=a\\ password=s3cret",
        r"passfile=C:\\x\\ password='s3cret s3cret' user=repl",
        r"password=s3cret\\ user=repl host=a",
        "password='s3cret'host=a user=repl",
        "host=a password=my s3cret=s3cret user=repl",
        "host=a user='repl password=s3cret",
        "host='a password=s3cret",
        r"password='a=b c=s3cret\",
        "Password=my x=s3cret",
        "password 'a b=c d=s3cret'",
        "application_name='my app password='s3cret=' user=repl",
        "application_name='my app password='app=s3cret user=repl",
        "host=a passwd=s3cret user=repl",
        "dbname=postgresql://repl:s3cret@a/postgres user=repl",
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
    let within = seen_of(&tree, &fleet, "user=repl options='-c password_encryption=md5'").await;
    assert_eq!((within.conninfo.get("options"), within.has_password), (Some("-c password_encryption=md5"), false));
    let clean = seen_of(&tree, &fleet, "host=a passfile='/a b/pw' user=repl require_auth=password").await;
    assert_eq!((clean.conninfo.get("passfile"), clean.has_password), (Some("/a b/pw"), false));
    assert!(wire.has_sent("/a b/pw"), "the wire is listened to");
}

#[test]
fn what_runs_and_what_the_files_hold_are_masked_by_the_same_sql() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let without_comments =
        |text: &str| text.lines().filter(|line| !line.trim().starts_with("--")).collect::<Vec<_>>().join("\n");
    let [one, other] =
        [include_str!("../src/observe/route_without_secrets.sql"), include_str!("../deploy/sql/operator-role.sql")]
            .map(|text| words(&without_comments(text)));
    let (before, after) =
        one.split_once("current_setting('primary_conninfo') AS conninfo").expect("it asks for what runs");
    let (_, theirs) = other.split_once(before).expect("the same up to the source");
    assert!(theirs.starts_with("setting AS conninfo FROM pg_show_all_file_settings()"), "{theirs}");
    assert!(theirs.contains(after), "the same behind the source");
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
async fn bytes_that_are_no_characters_hide_no_secret_from_the_mask() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    // To the database its last byte begins a character of three bytes, with the blank and the letter behind it.
    let line = b"primary_conninfo = 'host=a application_name=caf\xe9 password=s3cret'\n";
    let file = tree.data("core-1").join("postgresql.auto.conf");
    std::fs::OpenOptions::new().append(true).open(file).unwrap().write_all(line).unwrap();
    assert_eq!(tree.value("core-1", "SELECT waltree.pending_route()").await, " ?");
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    let seen = until(&fleet, "core-1", "has it", |facts| facts.route.unreadable).await;
    assert!(seen.route.conninfo.is_empty(), "{:?}", seen.route);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_at_the_end_of_the_route_is_seen() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    assert!(seen_of(&tree, &fleet, "host=a ").await.nudged);
    assert!(!seen_of(&tree, &fleet, "host=a").await.nudged);
}
