//! What never leaves a server, and what its files hold.

mod support;

use support::fleet::{facts, until, watch};
use support::postgres::Tree;
use waltree::model::conninfo::MASK;

/// Writes `primary_conninfo` on a primary, where it does nothing, and returns what is seen of it.
async fn seen_of(tree: &Tree, fleet: &waltree::observe::Fleet, conninfo: &str) -> String {
    tree.sql(
        "core-1",
        &format!("ALTER SYSTEM SET primary_conninfo = E'{}'", conninfo.replace('\\', "\\\\").replace('\'', "''")),
    )
    .await;
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    tree.until("core-1", "SELECT count(*) FROM pg_file_settings WHERE NOT applied AND name = 'primary_conninfo'", "0")
        .await;
    let running = format!(
        "SELECT current_setting('primary_conninfo') = E'{}'",
        conninfo.replace('\\', "\\\\").replace('\'', "''")
    );
    tree.until("core-1", &running, "t").await;
    format!("{:?}", facts(fleet, "core-1").await.route)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_primary_conninfo_never_leaves_the_server() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
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
        "postgresql://repl:s3cret@a/postgres",
        "postgres://repl@a/postgres?password=s3cret",
    ] {
        let seen = seen_of(&tree, &fleet, with_password).await;
        assert!(!seen.contains("s3cret"), "{with_password}: {seen}");
        let route = facts(&fleet, "core-1").await.route.clone();
        assert!(route.has_password || route.unreadable, "{with_password}: {seen}");
        assert_eq!(route.pending, None, "{with_password}: what the files hold is what runs");
        if route.conninfo.get("user").is_some() {
            assert!([route.conninfo.get("password"), route.conninfo.get("sslpassword")].contains(&Some(MASK)));
        }
    }
    let clean = seen_of(&tree, &fleet, "host=a passfile='/a b/pw' user=repl require_auth=password").await;
    assert!(clean.contains("/a b/pw") && clean.contains("has_password: false"), "{clean}");
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
    assert!(seen_of(&tree, &fleet, "host=a ").await.contains("nudged: true"));
    assert!(seen_of(&tree, &fleet, "host=a").await.contains("nudged: false"));
}
