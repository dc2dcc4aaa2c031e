//! What is written to the API server about a topology: its status when it changed, at most once a second, and events.
//! Both are written beside the passes, never in them: an API server that is slow delays no healing. (One that is away for
//! longer ends the leadership, and with it the passes.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::FIELD_MANAGER;
use super::events::Notice;
use crate::api::{ReplicaTopology, ReplicaTopologyStatus};
use crate::model::NodeName;
use crate::web::Metrics;

/// Between two writes of one status.
const STATUS_PACE: Duration = Duration::from_secs(1);
/// Deadline of one request: a frozen API server accepts TCP and says nothing.
const REQUEST: Duration = Duration::from_secs(5);
/// Events that may wait to be written. Beyond it they are dropped: news is worth less than memory.
const EVENTS_WAITING: usize = 256;
/// Events of which it is known that a next one of the same text repeats them. Beyond it all are forgotten: what repeats one
/// of them is told as news.
const SERIES_MAX: usize = 1024;

/// Writes about one topology. Dropping it ends both tasks; what is not written then is left to the next leader.
pub struct Clerk {
    topology: String,
    status: watch::Sender<Option<ReplicaTopologyStatus>>,
    notices: mpsc::Sender<Notice>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Clerk {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Clerk {
    /// A clerk whose last written status is that of `topology`. Must be called on a tokio runtime.
    pub fn new(
        topology: &ReplicaTopology,
        topologies: Api<ReplicaTopology>,
        (client, reporter): (Client, Reporter),
        metrics: Arc<Metrics>,
    ) -> Self {
        let (status, wanted) = watch::channel(None);
        let (notices, waiting) = mpsc::channel(EVENTS_WAITING);
        let written = topology.status.clone();
        let reports = write_statuses(topologies, topology.name_any(), written, wanted, metrics);
        let events = publish(Series::of(client, reporter), topology.object_ref(&()), waiting);
        let topology = format!("{}/{}", topology.namespace().unwrap_or_default(), topology.name_any());
        Self { topology, status, notices, tasks: [tokio::spawn(reports), tokio::spawn(events)] }
    }

    /// Has this status written, if it is another than the one written last.
    pub fn report(&self, status: &ReplicaTopologyStatus) {
        self.status.send_if_modified(|wanted| {
            let changed = wanted.as_ref() != Some(status);
            if changed {
                *wanted = Some(status.clone());
            }
            changed
        });
    }

    /// Has an event written.
    pub fn tell(&self, notice: Notice) {
        if let Err(mpsc::error::TrySendError::Full(notice)) = self.notices.try_send(notice) {
            let (topology, reason) = (&self.topology, notice.reason);
            tracing::warn!(topology, node = %notice.node, reason, "an event was dropped: too many wait");
        }
    }
}

async fn write_statuses(
    topologies: Api<ReplicaTopology>,
    name: String,
    mut written: Option<ReplicaTopologyStatus>,
    mut wanted: watch::Receiver<Option<ReplicaTopologyStatus>>,
    metrics: Arc<Metrics>,
) {
    let topology = format!("{}/{name}", topologies.namespace().unwrap_or_default());
    let mut failing = false;
    while failing || wanted.changed().await.is_ok() {
        let status = wanted.borrow_and_update().clone();
        if status.is_some() && status != written {
            match write_status(&topologies, &name, status.as_ref()).await {
                Ok(()) => {
                    metrics.wrote_status();
                    written = status;
                    failing = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(topology, %error, "the status cannot be written; it is tried again");
                    }
                }
            }
            tokio::time::sleep(STATUS_PACE).await;
        } else {
            failing = false;
        }
    }
}

async fn write_status(
    topologies: &Api<ReplicaTopology>,
    name: &str,
    status: Option<&ReplicaTopologyStatus>,
) -> Result<(), String> {
    let patch = Patch::Apply(serde_json::json!({
        "apiVersion": ReplicaTopology::api_version(&()),
        "kind": ReplicaTopology::kind(&()),
        "metadata": { "name": name },
        "status": status,
    }));
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let request = topologies.patch_status(name, &parameters, &patch);
    match tokio::time::timeout(REQUEST, request).await {
        Ok(Ok(_)) => Ok(()),
        // The topology is gone: nothing to report on any more.
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {REQUEST:?}")),
    }
}

/// What was told last of each node, by reason. A recorder takes whatever has one reason, deed and node for repetitions of
/// one event, and keeps the text of the first; so another text is given a recorder of its own.
struct Series {
    client: Client,
    reporter: Reporter,
    told: BTreeMap<(NodeName, &'static str, &'static str), (String, Recorder)>,
}

impl Series {
    fn of(client: Client, reporter: Reporter) -> Self {
        Self { client, reporter, told: BTreeMap::new() }
    }

    /// The recorder that has told this before, or one that knows of nothing.
    fn recorder(&mut self, notice: &Notice) -> &Recorder {
        if self.told.len() >= SERIES_MAX {
            self.told.clear();
        }
        let key = (notice.node.clone(), notice.reason, notice.action);
        if self.told.get(&key).is_some_and(|(note, _)| *note != notice.note) {
            self.told.remove(&key);
        }
        let anew = || (notice.note.clone(), Recorder::new(self.client.clone(), self.reporter.clone()));
        &self.told.entry(key).or_insert_with(anew).1
    }
}

async fn publish(mut series: Series, topology: ObjectReference, mut notices: mpsc::Receiver<Notice>) {
    let name = |part: &Option<String>| part.clone().unwrap_or_default();
    let tree = format!("{}/{}", name(&topology.namespace), name(&topology.name));
    while let Some(notice) = notices.recv().await {
        let recorder = series.recorder(&notice);
        let event = Event {
            type_: if notice.warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.to_owned(),
            note: Some(notice.note),
            action: notice.action.to_owned(),
            // One series a node: without it the same word about two nodes would become one event.
            secondary: Some(ObjectReference { field_path: Some(notice.node.to_string()), ..topology.clone() }),
        };
        let error = match tokio::time::timeout(REQUEST, recorder.publish(&event, &topology)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {REQUEST:?}"),
        };
        tracing::warn!(topology = tree, node = %notice.node, reason = notice.reason, error, "an event was not written");
    }
}
