//! The process: a port that answers, a campaign for leadership and, while we lead, the controller.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::Api;
use kube::runtime::controller::{self, Controller};
use kube::runtime::events::Reporter;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::FIELD_MANAGER;
use super::leadership::{Term, campaign};
use super::tend::{Desk, Trouble};
use super::wake::Waker;
use crate::api::ReplicaTopology;
use crate::web::{self, Metrics, Shown, Tree};

/// Topologies that are worked on at the same time.
const CONCURRENCY: u16 = 32;
/// How long passes that have begun may take to end at a shutdown.
const LAST_PASSES: Duration = Duration::from_secs(10);

/// What a person can say about the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The only namespace whose topologies are tended; `None` for all.
    pub namespace: Option<String>,
    /// Where `/livez`, `/readyz` and `/metrics` are answered.
    pub listen: SocketAddr,
    /// Our name, unique among all operators of one Lease.
    pub identity: String,
    /// Namespace of the Lease.
    pub lease_namespace: String,
    /// The image that our own program is copied from into pods.
    pub program: String,
}

/// What ends an operator.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the operator until `stop`: then passes that have begun end, nothing new begins, and the Lease is given back.
///
/// # Errors
/// [`RunError`] when it cannot begin.
pub async fn run(settings: Settings, client: Client, stop: CancellationToken) -> Result<(), RunError> {
    let address = settings.listen;
    let listener = web::listen(address).await.map_err(|source| RunError::Listen { address, source })?;
    let (leading, term) = watch::channel(None);
    let (answered, heard) = watch::channel(false);
    let (synced, ready) = watch::channel(true);
    let operator = Operator { settings, client, metrics: Arc::default(), waker: Waker::default(), synced };

    let port_stop = CancellationToken::new();
    let shown = Shown { metrics: Arc::clone(&operator.metrics), answered: heard, synced: ready };
    // Sets, because they end their tasks when this future is dropped.
    let (mut port, mut candidacy) = (JoinSet::new(), JoinSet::new());
    port.spawn(answer(listener, shown, port_stop.clone()));
    let lease_stop = CancellationToken::new();
    let leases: Api<Lease> = Api::namespaced(operator.client.clone(), &operator.settings.lease_namespace);
    let identity = operator.settings.identity.clone();
    candidacy.spawn(campaign(leases, identity, leading, answered, lease_stop.clone()));

    operator.lead_when_elected(term, &stop).await;

    // In this order: we act no more, then another may lead, then nobody asks us how we are.
    lease_stop.cancel();
    candidacy.join_next().await;
    port_stop.cancel();
    port.join_next().await;
    Ok(())
}

async fn answer(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    if let Err(error) = web::serve(listener, shown, stop).await {
        tracing::error!(%error, "the port is not answered any more");
    }
}

struct Operator {
    settings: Settings,
    client: Client,
    metrics: Arc<Metrics>,
    waker: Waker,
    synced: watch::Sender<bool>,
}

impl Operator {
    async fn lead_when_elected(&self, mut term: watch::Receiver<Option<Term>>, stop: &CancellationToken) {
        // The term lasts until the Lease is given back, which is after this: only `stop` says not to lead once more.
        while !stop.is_cancelled() {
            let elected = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                elected = term.wait_for(Option::is_some) => elected.ok().and_then(|elected| *elected),
            };
            let Some(elected) = elected else { return };
            self.metrics.leads(true);
            tokio::select! {
                // Dropping the controller aborts every pass where it stands: law 4 makes that legal.
                _ = term.wait_for(|now| *now != Some(elected)) => {}
                () = self.control(elected, stop) => {}
            }
            self.metrics.leads(false);
            self.synced.send_replace(true);
        }
    }

    /// Tends topologies until `stop`, or until it is dropped.
    async fn control(&self, term: Term, stop: &CancellationToken) {
        self.synced.send_replace(false);
        let topologies = match &self.settings.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let controller = Controller::new(topologies, watcher::Config::default())
            .with_config(controller::Config::default().concurrency(CONCURRENCY))
            .reconcile_all_on(self.waker.wakes())
            .graceful_shutdown_on(stop.clone().cancelled_owned());
        let desk = Arc::new(self.desk(term));
        let watched = controller.store();
        let forgets = Arc::clone(&desk);
        let passes = controller
            .run(|topology, desk: Arc<Desk>| desk.tend(topology), |_, trouble, _| Desk::after(trouble), desk)
            .for_each(async |passed| heed(passed, &forgets));
        tokio::select! {
            () = passes => {}
            () = self.report_synced(watched) => {}
            () = late(stop) => tracing::warn!("passes are ended where they stand"),
        }
    }

    async fn report_synced(&self, watched: Store<ReplicaTopology>) {
        if watched.wait_until_ready().await.is_ok() {
            self.synced.send_replace(true);
        }
        std::future::pending::<()>().await;
    }

    fn desk(&self, term: Term) -> Desk {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(self.settings.identity.clone()) };
        Desk {
            client: self.client.clone(),
            term,
            identity: self.settings.identity.clone(),
            program: self.settings.program.clone(),
            reporter,
            metrics: Arc::clone(&self.metrics),
            waker: self.waker.clone(),
            tended: Mutex::default(),
        }
    }
}

async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_PASSES).await;
}

type Passed = Result<(ObjectRef<ReplicaTopology>, controller::Action), controller::Error<Trouble, watcher::Error>>;

/// What a pass ended with is told here, once.
fn heed(passed: Passed, desk: &Desk) {
    match passed {
        Ok(_) | Err(controller::Error::ReconcilerFailed(Trouble::TearingDown(_), _)) => {}
        Err(controller::Error::ObjectNotFound(gone)) => {
            desk.forget(&Tree { namespace: gone.namespace.unwrap_or_default(), topology: gone.name });
        }
        Err(controller::Error::ReconcilerFailed(trouble, topology)) => {
            let cause = std::error::Error::source(&trouble).map(ToString::to_string);
            let topology = format!("{}/{}", topology.namespace.unwrap_or_default(), topology.name);
            tracing::warn!(topology, error = %trouble, cause, "the pass is repeated");
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, "the watch is begun anew");
        }
    }
}
