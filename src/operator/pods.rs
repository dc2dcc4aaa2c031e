//! The pods of one topology: what is known of them, and what is done about them. It makes no decision: `plan` has made them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::FIELD_MANAGER;
use super::authority::{Authority, Certified, NoCertificate};
use crate::act::pods::{NotMade, apply, secret};
use crate::api::ReplicaTopology;
use crate::model::pods::{Assignment, Pod, Pods};
use crate::model::{Automation, Desired, Management, NodeName};
use crate::observe::{Agents, Credentials, MissingCredentials, NoAnswer, Objects};
use crate::plan::Deed;
use crate::render;
use crate::render::pods as rendered;

/// Between two attempts at what failed, at first and at most.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);

/// Why a deed was not done. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// An object.
    #[error(transparent)]
    Object(#[from] NotMade),
    /// A certificate.
    #[error(transparent)]
    Certificate(#[from] NoCertificate),
    /// A Secret of ours.
    #[error("Secret {0:?} has no text in {1:?}: delete it and what it is for, and both are made anew")]
    Broken(String, &'static str),
    /// Our own credentials.
    #[error(transparent)]
    Credentials(#[from] MissingCredentials),
    /// The agent.
    #[error("its agent did not take its orders")]
    Agent(#[from] NoAnswer),
    /// The agent.
    #[error("its agent is not known yet")]
    NoAgent,
}

/// Sees to the pods of one topology. Dropping it ends every watch and every line.
pub struct Keeper {
    client: Client,
    /// The operator's term: orders carry it.
    term: u64,
    /// The image of our own program.
    program: String,
    topology: Mutex<Arc<ReplicaTopology>>,
    desired: Mutex<Option<Arc<Desired>>>,
    objects: OnceLock<Objects>,
    agents: Agents,
    trust: OnceCell<Trust>,
    news: Notify,
    work: Mutex<Work>,
    /// What was said last of why something is not done.
    told: Mutex<BTreeMap<NodeName, String>>,
}

/// What was decided last, as long as it is being done; and until when nothing is begun, as it failed.
#[derive(Default)]
struct Work {
    task: Option<JoinHandle<()>>,
    rest: Option<(Instant, Duration)>,
}

/// Who signs here, and who we are.
struct Trust {
    authority: Authority,
    operator: Credentials,
}

impl Keeper {
    /// Nothing is watched before there is a pod.
    pub fn new(client: Client, topology: Arc<ReplicaTopology>, program: String, term: u64) -> Self {
        Self {
            client,
            term,
            program,
            topology: Mutex::new(topology),
            desired: Mutex::default(),
            objects: OnceLock::new(),
            agents: Agents::default(),
            trust: OnceCell::new(),
            news: Notify::new(),
            work: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// What is wanted, from the next look on.
    pub fn set(&self, topology: Arc<ReplicaTopology>) {
        *lock(&self.topology) = topology;
    }

    /// What is known of every node that is to be a pod.
    pub fn pods(&self, desired: &Desired) -> Pods {
        let is_pod = |node: &NodeName| desired.group_of(node).is_some_and(|g| g.management == Management::Agent);
        let nodes: Vec<&NodeName> = desired.nodes.keys().filter(|node| is_pod(node)).collect();
        if nodes.is_empty() {
            return Pods::new();
        }
        let topology = self.topology();
        let pods: Pods = nodes.into_iter().map(|node| (node.clone(), self.pod(&topology, node))).collect();
        let located = desired.clone().located(&pods);
        self.listen(&pods);
        let heard = |(node, pod): (NodeName, Pod)| {
            let account = self.agents.account(&node);
            let is_current = account.as_ref().is_some_and(|account| render::is_current(&located, account, self.term));
            (node, Pod { account, is_current, ..pod })
        };
        let pods = pods.into_iter().map(heard).collect();
        *lock(&self.desired) = Some(Arc::new(located));
        pods
    }

    /// What keeps the server of a node from being as it was ordered, as its agent says.
    pub fn trouble(&self, node: &NodeName) -> Option<String> {
        self.agents.account(node).map(|account| account.trouble).filter(|trouble| !trouble.is_empty())
    }

    /// What Kubernetes has of a node.
    fn pod(&self, topology: &ReplicaTopology, node: &NodeName) -> Pod {
        let objects = self.objects(topology);
        let name = rendered::name(topology, node);
        let [service, set] = self.wanted(topology, node);
        let wanted = [&service, &set].map(|object| rendered::note(object).map(str::to_owned));
        // What is not listed yet may be there and as it is to be (law 8).
        let is_made = !objects.are_listed() || objects.notes(&name, rendered::RENDERED) == wanted;
        Pod { is_made, hostaddr: objects.address(&name), ..Pod::default() }
    }

    fn wanted(&self, topology: &ReplicaTopology, node: &NodeName) -> [Value; 2] {
        [rendered::service(topology, node), rendered::stateful_set(topology, node, &self.program)]
    }

    fn objects(&self, topology: &ReplicaTopology) -> &Objects {
        self.objects.get_or_init(|| {
            let label = format!("{}={}", rendered::TOPOLOGY_LABEL, topology.name_any());
            let objects = Objects::watch(&self.client, &topology.namespace().unwrap_or_default(), &label);
            self.news.notify_one();
            objects
        })
    }

    /// Asks the agents of those that have an address, once it is known who we are.
    fn listen(&self, pods: &Pods) {
        let Some(trust) = self.trust.get() else { return };
        let at = |(node, pod): (&NodeName, &Pod)| {
            let address: IpAddr = pod.hostaddr.as_ref()?.parse().ok()?;
            Some((node.clone(), SocketAddr::new(address, rendered::AGENT_PORT)))
        };
        self.agents.watch(&pods.iter().filter_map(at).collect(), &trust.operator);
    }

    /// The authority of this topology and our own credentials; made where they are not there.
    async fn trust(&self, topology: &ReplicaTopology) -> Result<&Trust, NotDone> {
        self.trust.get_or_try_init(|| self.make_trust(topology)).await
    }

    async fn make_trust(&self, topology: &ReplicaTopology) -> Result<Trust, NotDone> {
        let scope = format!("{}/{}", topology.namespace().unwrap_or_default(), topology.name_any());
        let now = Timestamp::now();
        let name = rendered::authority_name(topology);
        let Certified { certificate, key } = Authority::new(&scope, now)?.own().clone();
        let content = BTreeMap::from([("ca.crt".to_owned(), certificate), ("ca.key".to_owned(), key)]);
        let kept = self.keep(topology, &name, None, content).await?;
        let text = |key: &'static str| text(&name, &kept, key);
        let own = Certified { certificate: text("ca.crt")?, key: text("ca.key")? };
        let authority = Authority::of(&scope, own);
        let name = rendered::operator_name(topology);
        let kept = self.keep(topology, &name, None, content_of(&authority, authority.operator(now)?)).await?;
        Ok(Trust { authority, operator: Credentials::from_secret(&name, &kept)? })
    }

    async fn keep(
        &self,
        topology: &ReplicaTopology,
        name: &str,
        node: Option<&NodeName>,
        content: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, ByteString>, NotMade> {
        let metadata = rendered::metadata(topology, name, node);
        let content = content.into_iter().map(|(key, text)| (key, text.into_bytes())).collect();
        secret(&self.client, FIELD_MANAGER, &metadata, content).await
    }

    /// Begins to do what was decided, unless that of before is still being done: it is decided again at the next look. Nobody
    /// waits for it, as an API server that is slow must not be what keeps a tree from being healed.
    pub fn carry_out(self: &Arc<Self>, deeds: &[Deed]) {
        let Some(desired) = lock(&self.desired).clone() else { return };
        let mut work = lock(&self.work);
        let nothing = deeds.is_empty() && self.trust.initialized();
        let forbidden = desired.automation == Automation::Observe || desired.deleting;
        let rests = work.rest.is_some_and(|(until, _)| Instant::now() < until);
        if nothing || forbidden || rests || work.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (this, deeds) = (Arc::clone(self), deeds.to_vec());
        work.task = Some(tokio::spawn(async move {
            let done = this.work(&desired, &deeds).await;
            this.rest(done);
        }));
    }

    /// After what was done comes the next at once; after what failed a pause, twice as long each time.
    fn rest(&self, done: bool) {
        let mut work = lock(&self.work);
        let pause = work.rest.map_or(REST_MIN, |(_, pause)| (pause * 2).min(REST_MAX));
        work.rest = (!done).then(|| (Instant::now() + pause, pause));
        if done {
            self.news.notify_one();
        }
    }

    /// Ends what is being done: somebody else leads now.
    pub fn stop(&self) {
        lock(&self.work).task.iter().for_each(JoinHandle::abort);
    }

    /// All of it at once; says what could not be done, and whether all could.
    async fn work(&self, desired: &Desired, deeds: &[Deed]) -> bool {
        let topology = self.topology();
        if let Err(why) = self.trust(&topology).await {
            self.tell(&topology, desired.nodes.keys().next(), &why);
            return false;
        }
        let work = deeds.iter().map(|deed| async {
            match deed {
                Deed::Make { node } => (node, self.make(&topology, node).await),
                Deed::Order { node, assignment } => (node, self.order(desired, node, assignment).await),
            }
        });
        let mut all = true;
        for (node, done) in join_all(work).await {
            match done {
                Ok(()) => drop(lock(&self.told).remove(node)),
                Err(why) => {
                    all = false;
                    self.tell(&topology, Some(node), &why);
                }
            }
        }
        all
    }

    /// Its Secret is first: a pod without it does not start.
    async fn make(&self, topology: &ReplicaTopology, node: &NodeName) -> Result<(), NotDone> {
        let authority = &self.trust(topology).await?.authority;
        let content = content_of(authority, authority.node(node, Timestamp::now())?);
        self.keep(topology, &rendered::certificate_name(topology, node), Some(node), content).await?;
        for object in self.wanted(topology, node) {
            apply(&self.client, FIELD_MANAGER, &object).await?;
        }
        tracing::info!(topology = topology.name_any(), %node, "its Service and its StatefulSet are made");
        Ok(())
    }

    async fn order(&self, desired: &Desired, node: &NodeName, assignment: &Assignment) -> Result<(), NotDone> {
        let caller = self.agents.caller(node).ok_or(NotDone::NoAgent)?;
        let account = self.agents.account(node);
        let orders = render::orders(desired, node, assignment, self.term, account.as_ref());
        caller.order(&orders).await?;
        tracing::info!(%node, role = ?orders.role, sources = ?assignment.sources, "ordered");
        self.agents.poke(node);
        Ok(())
    }

    /// Returns when something about a pod changed. For one waiter.
    pub async fn changed(&self) {
        let objects = async {
            match self.objects.get() {
                Some(objects) => objects.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.news.notified() => {}
            () = objects => {}
            () = self.agents.changed() => {}
        }
    }

    fn tell(&self, topology: &ReplicaTopology, node: Option<&NodeName>, why: &NotDone) {
        let Some(node) = node else { return };
        let error = std::iter::successors(Some(why as &dyn std::error::Error), |why| why.source());
        let error = error.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let told = lock(&self.told).insert(node.clone(), error.clone());
        if told.as_ref() != Some(&error) {
            tracing::warn!(topology = topology.name_any(), %node, error, "not done; it is tried again");
        }
    }

    fn topology(&self) -> Arc<ReplicaTopology> {
        Arc::clone(&lock(&self.topology))
    }
}

fn content_of(authority: &Authority, certified: Certified) -> BTreeMap<String, String> {
    [("tls.crt", certified.certificate), ("tls.key", certified.key), ("ca.crt", authority.own().certificate.clone())]
        .map(|(key, text)| (key.to_owned(), text))
        .into()
}

fn text(secret: &str, content: &BTreeMap<String, ByteString>, key: &'static str) -> Result<String, NotDone> {
    let bytes = content.get(key).map(|ByteString(bytes)| bytes.clone()).unwrap_or_default();
    let text = String::from_utf8(bytes).ok().filter(|text| !text.is_empty());
    text.ok_or_else(|| NotDone::Broken(secret.to_owned(), key))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
