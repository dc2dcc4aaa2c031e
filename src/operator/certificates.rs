//! The Secrets of one topology's authority, of the operator and of the nodes: each made where it is not there, and signed anew
//! at a third of its life, or when the names that it is good for are others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use tokio::time::Instant;

use super::FIELD_MANAGER;
use super::authority::{Authority, Certified, NoCertificate, renew_after};
use super::pods::NotDone;
use crate::act::pods::{amend, existing, secret};
use crate::api::ReplicaTopology;
use crate::model::NodeName;
use crate::model::orders::OPERATOR;
use crate::observe::Credentials;
use crate::render::{clients, pods as rendered};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(10);
/// In so many rounds every node has its turn, where there are more nodes than that; else in as many as there are nodes.
const ROUNDS: usize = 60;

/// Who signs here, and who we are.
pub(super) struct Trust {
    authority: Authority,
    /// Whom servers and agents know us by.
    pub(super) operator: Credentials,
}

impl Trust {
    /// The certificate of the authority.
    pub(super) fn authority(&self) -> &str {
        &self.authority.own().certificate
    }
}

/// What is known of them.
#[derive(Default)]
pub(super) struct Certificates {
    trust: Mutex<Option<Arc<Trust>>>,
    /// When the last round began, and at which node the next does.
    round: Mutex<(Option<Instant>, usize)>,
}

impl Certificates {
    /// Who signs here, once that is known.
    pub(super) fn trust(&self) -> Option<Arc<Trust>> {
        lock(&self.trust).clone()
    }

    /// Whether something has to be looked at.
    pub(super) fn is_due(&self) -> bool {
        lock(&self.round).0.is_none_or(|begun| begun.elapsed() >= ROUND)
    }

    /// Looks at the Secrets of the authority and of the operator. Says whether the operator's is another than it was.
    ///
    /// # Errors
    /// What could not be looked at or made; what was known stays so.
    pub(super) async fn look(&self, client: &Client, topology: &ReplicaTopology) -> Result<bool, NotDone> {
        let known = self.trust();
        let scope = format!("{}/{}", topology.namespace().unwrap_or_default(), topology.name_any());
        let name = rendered::authority_name(topology);
        // One that somebody has deleted is made again as it was, as long as we know it.
        let own = match &known {
            Some(known) => known.authority.own().clone(),
            None => Authority::new(&scope, Timestamp::now())?.own().clone(),
        };
        let content = [("ca.crt", own.certificate), ("ca.key", own.key)];
        let content = content.map(|(key, text)| (key.to_owned(), text.into_bytes())).into();
        let described = rendered::metadata(topology, &name, None);
        // Whoever was signed by one that is lost would be refused by whoever is signed by another.
        let operators = rendered::metadata(topology, &rendered::operator_name(topology), None);
        let is_lost = known.is_none()
            && existing(client, &described).await?.is_none()
            && existing(client, &operators).await?.is_some();
        if is_lost {
            return Err(NotDone::AuthorityLost(name));
        }
        let kept = secret(client, FIELD_MANAGER, &described, content).await?.data.unwrap_or_default();
        let own = Certified { certificate: text(&name, &kept, "ca.crt")?, key: text(&name, &kept, "ca.key")? };
        let signing = Signing { client, topology, authority: Authority::of(&scope, own) };
        let operator = signing.operator().await?;
        let changed =
            known.as_ref().is_none_or(|known| known.operator != operator || known.authority != signing.authority);
        if changed {
            *lock(&self.trust) = Some(Arc::new(Trust { authority: signing.authority.clone(), operator }));
        }
        Ok(changed && known.is_some())
    }

    /// Looks at the Secrets of the nodes whose turn it is, of `nodes` that are made.
    ///
    /// # Errors
    /// The first that could not be looked at or made.
    pub(super) async fn look_at_nodes(
        &self,
        client: &Client,
        topology: &ReplicaTopology,
        nodes: &[&NodeName],
    ) -> Result<(), NotDone> {
        lock(&self.round).0 = Some(Instant::now());
        for node in self.turns(nodes) {
            self.make(client, topology, node).await?;
        }
        Ok(())
    }

    /// Makes the certificate of a node, where it has none that is good.
    ///
    /// # Errors
    /// When it cannot be made, or nobody signs yet.
    pub(super) async fn make(
        &self,
        client: &Client,
        topology: &ReplicaTopology,
        node: &NodeName,
    ) -> Result<(), NotDone> {
        let trust = self.trust().ok_or(NotDone::NoAuthority)?;
        Signing { client, topology, authority: trust.authority.clone() }.node(node).await
    }

    fn turns<'a>(&self, nodes: &[&'a NodeName]) -> Vec<&'a NodeName> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let mut round = lock(&self.round);
        let count = nodes.len().div_ceil(ROUNDS);
        let turns = (0..count).map(|turn| nodes[(round.1 + turn) % nodes.len()]).collect();
        round.1 = (round.1 + count) % nodes.len();
        turns
    }
}

/// One authority at work.
struct Signing<'a> {
    client: &'a Client,
    topology: &'a ReplicaTopology,
    authority: Authority,
}

impl Signing<'_> {
    async fn node(&self, node: &NodeName) -> Result<(), NotDone> {
        let name = rendered::certificate_name(self.topology, node);
        let names = clients::service_names(self.topology);
        let sign = |now| self.authority.node(node, names.clone(), now);
        self.kept(&name, Some(node), &names, sign).await.map(drop)
    }

    async fn operator(&self) -> Result<Credentials, NotDone> {
        let name = rendered::operator_name(self.topology);
        let kept = self.kept(&name, None, &[OPERATOR.to_owned()], |now| self.authority.operator(now)).await?;
        Ok(Credentials::from_secret(&name, &kept)?)
    }

    /// What is in a Secret that is good.
    async fn kept(
        &self,
        name: &str,
        node: Option<&NodeName>,
        names: &[String],
        sign: impl Fn(Timestamp) -> Result<Certified, NoCertificate>,
    ) -> Result<BTreeMap<String, ByteString>, NotDone> {
        let now = Timestamp::now();
        let after = renew_after(now)?.to_string();
        let described = rendered::certificate_metadata(self.topology, name, node, names, &after);
        let content = self.content(sign(now)?);
        let there = secret(self.client, FIELD_MANAGER, &described, content.clone()).await?;
        let signer = there.data.as_ref().and_then(|data| data.get("ca.crt")).map(|ByteString(bytes)| bytes);
        if signer.is_some_and(|signer| *signer != self.authority.own().certificate.as_bytes()) {
            return Err(NotDone::OtherAuthority(name.to_owned()));
        }
        if is_good(there.annotations(), &described, now) {
            return Ok(there.data.unwrap_or_default());
        }
        amend(self.client, FIELD_MANAGER, &described, &content).await?;
        tracing::info!(topology = self.topology.name_any(), secret = name, "its certificate is made anew");
        Ok(content.into_iter().map(|(key, bytes)| (key, ByteString(bytes))).collect())
    }

    fn content(&self, certified: Certified) -> BTreeMap<String, Vec<u8>> {
        let ca = self.authority.own().certificate.clone();
        [("tls.crt", certified.certificate), ("tls.key", certified.key), ("ca.crt", ca)]
            .map(|(key, text)| (key.to_owned(), text.into_bytes()))
            .into()
    }
}

/// Whether what is noted of a certificate says that it is for these names and its time has not come.
fn is_good(noted: &BTreeMap<String, String>, described: &Value, now: Timestamp) -> bool {
    let names =
        noted.get(rendered::RENDERED).map(String::as_str) == described["annotations"][rendered::RENDERED].as_str();
    let after = noted.get(rendered::RENEW_AFTER).and_then(|text| text.parse::<Timestamp>().ok());
    names && after.is_some_and(|after| now < after)
}

fn text(secret: &str, content: &BTreeMap<String, ByteString>, key: &'static str) -> Result<String, NotDone> {
    let bytes = content.get(key).map(|ByteString(bytes)| bytes.clone()).unwrap_or_default();
    let text = String::from_utf8(bytes).ok().filter(|text| !text.is_empty());
    text.ok_or_else(|| NotDone::Broken(secret.to_owned(), key))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_turn() {
        let certificates = Certificates::default();
        let names: Vec<NodeName> = (1..=130).map(|n| NodeName::new(&format!("eu-{n}")).unwrap()).collect();
        let nodes: Vec<&NodeName> = names.iter().collect();
        let mut seen: Vec<&NodeName> = (0..ROUNDS).flat_map(|_| certificates.turns(&nodes)).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), nodes.len());
        assert!(certificates.turns(&[]).is_empty());
    }
}
