//! Credentials from Secrets of a real API server.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use support::fleet::{facts, name, spec, unseen};
use support::kube::ApiServer;
use support::postgres::{Tree, WALTREE_PASSWORD, eventually};
use waltree::model::WhyUnseen;
use waltree::observe::{Fleet, Timing, Wallet};
use waltree::operator::clock;

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_asked_for_by_name_read_again_when_rejected_and_kept_when_the_api_server_is_away() {
    let mut api_server = tokio::task::spawn_blocking(ApiServer::start).await.unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(api_server.client().await);
    let mut tree = Tree::start(None);
    tree.primary("core-1").await;
    let mut there = spec(&tree, "core-1", None);
    there.access.secret = Some("orders-sql".into());
    let fleet = Fleet::new(Wallet::secrets(secrets.clone()), Timing::default(), clock::now);
    fleet.watch(&BTreeMap::from([(name("core-1"), there)]));

    let missing = unseen(&fleet, "core-1", WhyUnseen::CredentialsMissing).await;
    assert!(missing.detail.contains("\"orders-sql\" does not exist"), "{}", missing.detail);

    let secret = |data: serde_json::Value| -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "orders-sql"}, "stringData": data})).unwrap()
    };
    secrets.create(&PostParams::default(), &secret(json!({"username": "waltree"}))).await.unwrap();
    eventually("the missing key is named", async || {
        unseen(&fleet, "core-1", WhyUnseen::CredentialsMissing).await.detail.contains("no key \"password\"")
    })
    .await;

    let set = async |password: &str| {
        let patch = json!({"stringData": {"password": password}});
        secrets.patch("orders-sql", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    set("wrong").await;
    unseen(&fleet, "core-1", WhyUnseen::CredentialsRejected).await;
    set(WALTREE_PASSWORD).await;
    facts(&fleet, "core-1").await;

    // Nobody needs the API server to see a server again.
    tokio::task::block_in_place(|| api_server.stop());
    tree.kill("core-1");
    unseen(&fleet, "core-1", WhyUnseen::Refused).await;
    tree.start_node("core-1").await;
    facts(&fleet, "core-1").await;
}
