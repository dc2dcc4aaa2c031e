//! The pods of one topology: what is known of them, and what is done about them. It makes no decision: `plan` has made them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::FIELD_MANAGER;
use super::application::{Login, NoLogin};
use super::authority::NoCertificate;
use super::certificates::Certificates;
use crate::act::pods::{NotMade, apply, delete, delete_pod, existing, label};
use crate::api::ReplicaTopology;
use crate::model::orders::Role;
use crate::model::pods::{Assignment, Labels, MadeFrom, Pod, Pods};
use crate::model::{Automation, Desired, Management, NodeName};
use crate::observe::{Agents, MissingCredentials, NoAnswer, Objects};
use crate::plan::Deed;
use crate::render::{self, Wishes, clients, pods as rendered};

/// Between two attempts at what failed, at first and at most.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);

/// How long a decision to end a server is good for.
const GOOD_FOR: Duration = Duration::from_secs(2);

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
    /// The Secret of the application.
    #[error(transparent)]
    Login(#[from] NoLogin),
    /// The authority's key is gone.
    #[error(
        "Secret {0:?} is gone, and servers are there that it has signed for: bring it back from a backup. To begin anew with another authority delete the operator's and the servers' Secrets too; they part from each other until all have theirs"
    )]
    AuthorityLost(String),
    /// The authority is another.
    #[error("Secret {0:?} was signed by another authority than there is now: bring that back, or delete this Secret")]
    OtherAuthority(String),
    /// Nobody signs yet.
    #[error("the authority of this topology is not known yet")]
    NoAuthority,
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
    certificates: Certificates,
    login: Login,
    news: Notify,
    work: Mutex<Work>,
    /// Why something is not done, about one node or all of them, as it was said last.
    told: Mutex<BTreeMap<Option<NodeName>, String>>,
}

/// What was decided last, as long as it is being done; and until when nothing is begun, as it failed.
#[derive(Default)]
struct Work {
    task: Option<JoinHandle<()>>,
    rest: Option<(Instant, Duration)>,
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
            certificates: Certificates::default(),
            login: Login::default(),
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
        let wishes = self.wishes();
        let heard = |(node, pod): (NodeName, Pod)| {
            let account = self.agents.account(&node);
            let is_current = account.as_ref().is_some_and(|account| render::is_current(&located, account, &wishes));
            (node, Pod { account, is_current, ..pod })
        };
        let pods = pods.into_iter().map(heard).collect();
        *lock(&self.desired) = Some(Arc::new(located));
        pods
    }

    /// Nodes that have objects of ours and are to be no pods.
    pub fn left_over(&self, desired: &Desired) -> BTreeSet<NodeName> {
        let owner = self.topology().uid().unwrap_or_default();
        let there =
            self.objects.get().map(|objects| objects.of_label(rendered::NODE_LABEL, &owner)).unwrap_or_default();
        let there = there.into_iter().filter_map(|node| NodeName::new(&node).ok());
        there.filter(|node| !desired.nodes.contains_key(node)).collect()
    }

    /// What every server is told alike.
    fn wishes(&self) -> Wishes {
        let postgres = self.topology().spec.postgres.clone().unwrap_or_default();
        let (parameters, hba) = (postgres.parameters, postgres.hba);
        Wishes { term: self.term, application: self.login.application(), parameters, hba }
    }

    /// What keeps the server of a node from being as it was ordered, as its agent says; or why there is no agent.
    pub fn trouble(&self, node: &NodeName) -> Option<String> {
        let told = self.agents.account(node).map(|account| account.trouble).filter(|trouble| !trouble.is_empty());
        told.or_else(|| self.objects.get()?.trouble(&rendered::pod_name(&self.topology(), node), rendered::CONTAINERS))
    }

    /// What Kubernetes has of a node.
    fn pod(&self, topology: &ReplicaTopology, node: &NodeName) -> Pod {
        let objects = self.objects(topology);
        let listed = objects.are_listed();
        // What is not listed yet may be there and as it is to be (law 8).
        let is_made = !listed || are_as_wanted(objects, &self.wanted(topology, node));
        let is_taken_in = objects.is_known_to_its_controller(&rendered::name(topology, node));
        let labels = objects.labels(&rendered::pod_name(topology, node));
        let labelled = labels.map(|labels| clients::labels_of(|label| labels.get(label).cloned()));
        Pod {
            is_made,
            is_taken_in,
            hostaddr: objects.address(&rendered::name(topology, node)),
            // A person may have led them elsewhere by hand.
            is_writer: listed.then(|| {
                self.led_to(topology).as_ref() == Some(node)
                    && are_as_wanted(objects, &clients::objects(topology, node))
            }),
            labelled,
            made_from: self.made_from(topology, node),
            is_ready: objects.is_ready(&rendered::pod_name(topology, node)),
            stuck: objects.trouble(&rendered::pod_name(topology, node), rendered::CONTAINERS),
            undone: self.undone(node),
            ..Pod::default()
        }
    }

    fn undone(&self, node: &NodeName) -> Option<String> {
        let told = lock(&self.told);
        told.get(&Some(node.clone())).or_else(|| told.get(&None)).cloned()
    }

    /// A pod that was made by another program of ours is not another: what the spec says is the same.
    fn made_from(&self, topology: &ReplicaTopology, node: &NodeName) -> MadeFrom {
        let objects = self.objects(topology);
        let name = rendered::pod_name(topology, node);
        match objects.pod(&name, rendered::IMAGE_NOTE, rendered::CONTAINER) {
            Some(_) if objects.is_leaving(&name) => MadeFrom::Leaving,
            Some((uid, image)) if image != rendered::image(topology) => MadeFrom::Before(uid),
            Some((uid, _)) => MadeFrom::Now(uid),
            None => MadeFrom::Unknown,
        }
    }

    fn wanted(&self, topology: &ReplicaTopology, node: &NodeName) -> [Value; 2] {
        let role = if self.writer(topology).as_ref() == Some(node) { Role::Primary } else { Role::Standby };
        [rendered::service(topology, node), rendered::stateful_set(topology, node, role, &self.program)]
    }

    fn led_to(&self, topology: &ReplicaTopology) -> Option<NodeName> {
        let led = self.objects(topology).selects(&clients::writes_name(topology), rendered::NODE_LABEL);
        led.and_then(|node| NodeName::new(&node).ok())
    }

    /// To whom those that write are led; to the first, before they are to anybody.
    fn writer(&self, topology: &ReplicaTopology) -> Option<NodeName> {
        self.led_to(topology).or_else(|| lock(&self.desired).as_ref()?.root()?.members.first().cloned())
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
        let Some(trust) = self.certificates.trust() else { return };
        let at = |(node, pod): (&NodeName, &Pod)| {
            let address: IpAddr = pod.hostaddr.as_ref()?.parse().ok()?;
            Some((node.clone(), SocketAddr::new(address, rendered::AGENT_PORT)))
        };
        self.agents.watch(&pods.iter().filter_map(at).collect(), &trust.operator);
    }

    /// Begins to do what was decided, unless that of before is still being done: it is decided again at the next look. Nobody
    /// waits for it, as an API server that is slow must not be what keeps a tree from being healed.
    pub fn carry_out(self: &Arc<Self>, deeds: &[Deed]) {
        let Some(desired) = lock(&self.desired).clone() else { return };
        // What is not to be done any more does not fail any more.
        lock(&self.told)
            .retain(|node, _| node.as_ref().is_none_or(|node| deeds.iter().any(|deed| deed.node() == node)));
        let mut work = lock(&self.work);
        let nothing = deeds.is_empty() && !self.certificates.is_due() && !self.login.is_due();
        let forbidden = desired.automation == Automation::Observe || desired.deleting;
        let rests = work.rest.is_some_and(|(until, _)| Instant::now() < until) && !deeds.iter().any(is_urgent);
        if nothing || forbidden || rests || work.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (this, deeds, decided) = (Arc::clone(self), deeds.to_vec(), Instant::now());
        work.task = Some(tokio::spawn(async move {
            let done = this.work(&desired, &deeds, decided).await;
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
    async fn work(&self, desired: &Desired, deeds: &[Deed], decided: Instant) -> bool {
        let topology = self.topology();
        // Clients wait for nothing else.
        let (urgent, deeds): (Vec<&Deed>, Vec<&Deed>) = deeds.iter().partition(|deed| is_urgent(deed));
        let mut all = self.deeds(&topology, desired, &urgent).await;
        let certified = self.certify(&topology, desired).await;
        match certified.and(self.login(&topology).await) {
            Ok(()) => drop(lock(&self.told).remove(&None)),
            Err(why) => {
                all = false;
                self.tell(&topology, None, &why);
            }
        }
        // What ends servers rests on what was seen; if that was long ago, it is decided anew.
        let ends = |deed: &&Deed| matches!(deed, Deed::Replace { .. } | Deed::Remove { .. });
        let deeds: Vec<&Deed> = deeds.into_iter().filter(|deed| !ends(deed) || decided.elapsed() < GOOD_FOR).collect();
        self.deeds(&topology, desired, &deeds).await && all
    }

    async fn deeds(&self, topology: &ReplicaTopology, desired: &Desired, deeds: &[&Deed]) -> bool {
        let mut all = true;
        let work = deeds.iter().map(|deed| async {
            match deed {
                Deed::Make { node } => (node, self.make(topology, node).await),
                Deed::Order { node, assignment } => (node, self.order(desired, node, assignment).await),
                Deed::Publish { writer } => (writer, self.publish(topology, writer).await),
                Deed::Remove { node } => (node, self.remove(topology, node).await),
                Deed::Replace { node, pod } => (node, self.replace(topology, node, pod).await),
                Deed::Label { node, labels } => (node, self.label(topology, node, *labels).await),
            }
        });
        let done = join_all(work).await;
        for (node, _) in &done {
            let fails = done.iter().find_map(|(of, done)| done.as_ref().err().filter(|_| of == node));
            match fails {
                None => drop(lock(&self.told).remove(&Some((*node).clone()))),
                Some(why) => {
                    all = false;
                    self.tell(topology, Some(node), why);
                }
            }
        }
        all
    }

    /// Looks after certificates. Whoever is asked by those of before is asked anew.
    async fn certify(&self, topology: &ReplicaTopology, desired: &Desired) -> Result<(), NotDone> {
        let is_made = |node: &&NodeName| self.objects(topology).address(&rendered::name(topology, node)).is_some();
        let nodes: Vec<&NodeName> = desired.nodes.keys().filter(is_made).collect();
        if !self.certificates.is_due() {
            return Ok(());
        }
        if self.certificates.look(&self.client, topology).await? {
            self.agents.forget();
        }
        self.certificates.look_at_nodes(&self.client, topology, &nodes).await
    }

    async fn login(&self, topology: &ReplicaTopology) -> Result<(), NotDone> {
        match self.certificates.trust().filter(|_| self.login.is_due()) {
            Some(trust) => Ok(self.login.look(&self.client, topology, trust.authority()).await?),
            None => Ok(()),
        }
    }

    async fn publish(&self, topology: &ReplicaTopology, writer: &NodeName) -> Result<(), NotDone> {
        self.apply(topology, &clients::objects(topology, writer)).await?;
        tracing::info!(topology = topology.name_any(), %writer, "those that write are led to it");
        Ok(())
    }

    async fn label(&self, topology: &ReplicaTopology, node: &NodeName, labels: Labels) -> Result<(), NotDone> {
        let (namespace, pod) = (topology.namespace().unwrap_or_default(), rendered::pod_name(topology, node));
        let texts = clients::label_texts(labels).into();
        label(&self.client, FIELD_MANAGER, (&namespace, &pod), &texts).await?;
        let Labels { role, reads, reads_in_group } = labels;
        tracing::info!(topology = topology.name_any(), %node, ?role, reads, reads_in_group, "its pod is labelled");
        Ok(())
    }

    /// Its volume stays: it is a person's to delete.
    async fn remove(&self, topology: &ReplicaTopology, node: &NodeName) -> Result<(), NotDone> {
        let [service, set] = self.wanted(topology, node);
        let name = rendered::certificate_name(topology, node);
        let metadata = rendered::metadata(topology, &name, Some(node));
        let secret = existing(&self.client, &metadata).await?;
        let owner = secret.and_then(|secret| Some(secret.owner_references().first()?.uid.clone()));
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata});
        let is_ours = |object: &Value| self.is_ours(topology, object);
        // What is found again when this is cut off is last.
        let objects = [(owner == topology.uid(), secret), (is_ours(&set), set), (is_ours(&service), service)];
        for (_, object) in objects.iter().filter(|(is_ours, _)| *is_ours) {
            delete(&self.client, object).await?;
        }
        tracing::info!(topology = topology.name_any(), %node, "not in the spec any more: all of it but its volume is deleted");
        Ok(())
    }

    async fn replace(&self, topology: &ReplicaTopology, node: &NodeName, pod: &str) -> Result<(), NotDone> {
        let (namespace, name) = (topology.namespace().unwrap_or_default(), rendered::pod_name(topology, node));
        delete_pod(&self.client, (&namespace, &name), pod).await?;
        tracing::info!(topology = topology.name_any(), %node, "its pod is deleted; another one takes its place");
        Ok(())
    }

    /// Its Secret is first: a pod without it does not start.
    async fn make(&self, topology: &ReplicaTopology, node: &NodeName) -> Result<(), NotDone> {
        self.certificates.make(&self.client, topology, node).await?;
        self.apply(topology, &self.wanted(topology, node)).await?;
        tracing::info!(topology = topology.name_any(), %node, "its Service and its StatefulSet are made");
        Ok(())
    }

    /// What is there and not ours is left to whom it belongs.
    async fn apply(&self, topology: &ReplicaTopology, objects: &[Value]) -> Result<(), NotDone> {
        for object in objects {
            apply(&self.client, FIELD_MANAGER, object, self.is_ours(topology, object)).await?;
        }
        Ok(())
    }

    fn is_ours(&self, topology: &ReplicaTopology, object: &Value) -> bool {
        let (kind, name) = kind_and_name(object);
        let owner = self.objects(topology).owner(&kind, &name);
        owner.is_some() && owner == topology.uid()
    }

    async fn order(&self, desired: &Desired, node: &NodeName, assignment: &Assignment) -> Result<(), NotDone> {
        let caller = self.agents.caller(node).ok_or(NotDone::NoAgent)?;
        let account = self.agents.account(node);
        let orders = render::orders(desired, node, assignment, &self.wishes(), account.as_ref());
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
        let error = std::iter::successors(Some(why as &dyn std::error::Error), |why| why.source());
        let error = error.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let told = lock(&self.told).insert(node.cloned(), error.clone());
        if told.as_ref() != Some(&error) {
            let node = node.map_or("", NodeName::as_str);
            tracing::warn!(topology = topology.name_any(), node, error, "not done; it is tried again");
        }
    }

    fn topology(&self) -> Arc<ReplicaTopology> {
        Arc::clone(&lock(&self.topology))
    }
}

/// What those that write, and readers, are led by.
fn is_urgent(deed: &Deed) -> bool {
    matches!(deed, Deed::Publish { .. } | Deed::Label { .. })
}

fn kind_and_name(object: &Value) -> (String, String) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/kind"), text("/metadata/name"))
}

fn are_as_wanted(objects: &Objects, wanted: &[Value]) -> bool {
    wanted.iter().all(|object| {
        let (kind, name) = kind_and_name(object);
        objects.note(&kind, &name, rendered::RENDERED).as_deref() == rendered::note(object)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
