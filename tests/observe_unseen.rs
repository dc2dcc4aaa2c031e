//! Why a server is not seen, each reason made on real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here fails the test, and figures are shown"
)]

mod support;

use std::collections::BTreeMap;

use support::certificates::Keys;
use support::fleet::{credentials, facts, name, spec, unseen, view, watch, watch_as};
use support::postgres::{REPL_PASSWORD, Tree, WALTREE_PASSWORD, eventually};
use waltree::model::WhyUnseen;
use waltree::observe::{Credentials, Fleet, ServerSpec, SslMode};

async fn watch_one(credentials: Credentials, spec: ServerSpec) -> Fleet {
    watch_as(credentials, BTreeMap::from([(name("core-1"), spec)])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_refused_at_once_and_seen_again_when_it_is_back() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    let before = facts(&fleet, "core-1").await;
    tree.kill("core-1");
    let gone = unseen(&fleet, "core-1", WhyUnseen::Refused).await;
    assert!(!gone.detail.is_empty());
    let last = view(&fleet, "core-1").last.expect("what it said last is kept");
    assert_eq!(last.system_identifier, before.system_identifier);
    tree.start_node("core-1").await;
    assert!(facts(&fleet, "core-1").await.started >= before.started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_wakes_whoever_waits() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    facts(&fleet, "core-1").await;
    fleet.changed().await; // It came into sight.
    tree.kill("core-1");
    fleet.changed().await;
    assert!(view(&fleet, "core-1").seen().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_a_timeout_and_is_seen_again_when_it_goes_on() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    facts(&fleet, "core-1").await;
    tree.freeze("core-1");
    unseen(&fleet, "core-1", WhyUnseen::Timeout).await;
    // Nor does one who comes now get an answer.
    let late = watch(&tree, &["core-1"], None).await;
    unseen(&late, "core-1", WhyUnseen::Timeout).await;
    tree.thaw("core-1");
    facts(&fleet, "core-1").await;
    facts(&late, "core-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_an_unknown_role_and_a_missing_password_are_told_apart() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let there = spec(&tree, "core-1", None);
    let wrong = Credentials { password: Some("s3cret-but-wrong".into()), ..credentials() };
    let rejected = unseen(&watch_one(wrong, there.clone()).await, "core-1", WhyUnseen::CredentialsRejected).await;
    assert!(rejected.detail.contains("\"waltree\"") && !rejected.detail.contains("s3cret"), "{}", rejected.detail);

    // Roles without a line in pg_hba.conf, and roles that do not exist.
    let other = Credentials { username: "repl".into(), password: Some(REPL_PASSWORD.into()), ..credentials() };
    unseen(&watch_one(other, there.clone()).await, "core-1", WhyUnseen::CredentialsRejected).await;
    tree.write_hba("core-1", "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256");
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    let nobody = Credentials { username: "nobody".into(), ..credentials() };
    unseen(&watch_one(nobody, there.clone()).await, "core-1", WhyUnseen::CredentialsRejected).await;

    let none = Credentials { password: None, ..credentials() };
    unseen(&watch_one(none, there).await, "core-1", WhyUnseen::CredentialsMissing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_is_unknown() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let there = ServerSpec { address: "no-such-host.invalid".into(), ..spec(&tree, "core-1", None) };
    let unknown = unseen(&watch_one(credentials(), there).await, "core-1", WhyUnseen::AddressUnknown).await;
    assert!(unknown.detail.contains("no-such-host.invalid"), "{}", unknown.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_says_so() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.configure("core-1", "max_connections = 4\nsuperuser_reserved_connections = 3");
    tree.stop("core-1");
    tree.start_node("core-1").await;
    let first = watch(&tree, &["core-1"], None).await;
    facts(&first, "core-1").await;
    let second = watch(&tree, &["core-1"], None).await;
    unseen(&second, "core-1", WhyUnseen::TooManyConnections).await;
    drop(first);
    facts(&second, "core-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_not_consistent_yet_is_starting() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.standby("eu-1", "core-1").await;
    tree.stop("eu-1");
    // Without hot_standby a standby lets nobody in, however long it runs.
    tree.configure("eu-1", "hot_standby = off");
    tree.spawn("eu-1");
    let fleet = watch(&tree, &["eu-1"], None).await;
    unseen(&fleet, "eu-1", WhyUnseen::Starting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_pg_monitor_is_told_how_to_get_it() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    tree.sql("core-1", "REVOKE pg_monitor FROM waltree").await;
    let fleet = watch(&tree, &["core-1"], None).await;
    let denied = unseen(&fleet, "core-1", WhyUnseen::BadAnswer).await;
    assert!(denied.detail.contains("GRANT pg_monitor TO waltree"), "{}", denied.detail);
    tree.sql("core-1", "GRANT pg_monitor TO waltree").await;
    facts(&fleet, "core-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_checked_as_far_as_the_mode_says() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let keys = Keys::make(tree.data("core-1"));
    tree.configure("core-1", "ssl = on\nssl_ca_file = 'ca.crt'");
    tree.write_hba(
        "core-1",
        "host    all postgres 127.0.0.1/32 trust\n\
         hostssl all waltree  127.0.0.1/32 scram-sha-256",
    );
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    tree.until("core-1", "SELECT current_setting('ssl')", "on").await;

    let reach = |mode, address: &str, ca: Option<&[u8]>| {
        let mut there = spec(&tree, "core-1", None);
        there.access.ssl_mode = mode;
        there.address = address.into();
        watch_one(Credentials { ca: ca.map(<[u8]>::to_vec), ..credentials() }, there)
    };
    let (right, other) = (Some(&*keys.ca), Some(&*keys.other_ca));
    facts(&reach(SslMode::Require, "127.0.0.1", None).await, "core-1").await;
    facts(&reach(SslMode::VerifyCa, "localhost", right).await, "core-1").await;
    facts(&reach(SslMode::VerifyFull, "127.0.0.1", right).await, "core-1").await;
    // The certificate names the address and not "localhost".
    unseen(&reach(SslMode::VerifyFull, "localhost", right).await, "core-1", WhyUnseen::TlsFailed).await;
    unseen(&reach(SslMode::VerifyCa, "127.0.0.1", other).await, "core-1", WhyUnseen::TlsFailed).await;
    let without = reach(SslMode::VerifyFull, "127.0.0.1", None).await;
    assert!(unseen(&without, "core-1", WhyUnseen::CredentialsMissing).await.detail.contains("ca.crt"));
    unseen(&reach(SslMode::Disable, "127.0.0.1", None).await, "core-1", WhyUnseen::CredentialsRejected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_enough_to_log_in() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let keys = Keys::make(tree.data("core-1"));
    tree.configure("core-1", "ssl = on\nssl_ca_file = 'ca.crt'");
    tree.write_hba("core-1", "host all postgres 127.0.0.1/32 trust\nhostssl all waltree 127.0.0.1/32 cert");
    tree.sql("core-1", "SELECT pg_reload_conf()").await;
    tree.until("core-1", "SELECT current_setting('ssl')", "on").await;
    let mut there = spec(&tree, "core-1", None);
    there.access.ssl_mode = SslMode::VerifyFull;
    let with = Credentials {
        password: None,
        client_certificate: Some((keys.client.clone(), keys.client_key.clone())),
        ca: Some(keys.ca.clone()),
        ..credentials()
    };
    facts(&watch_one(with.clone(), there.clone()).await, "core-1").await;
    let without = Credentials { client_certificate: None, password: Some(WALTREE_PASSWORD.into()), ..with };
    let fleet = watch_one(without, there).await;
    eventually("it is refused", async || view(&fleet, "core-1").seen().is_none()).await;
    unseen(&fleet, "core-1", WhyUnseen::CredentialsRejected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_fails_a_mode_that_asks_for_it() {
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let mut there = spec(&tree, "core-1", None);
    there.access.ssl_mode = SslMode::Require;
    unseen(&watch_one(credentials(), there).await, "core-1", WhyUnseen::TlsFailed).await;
}
