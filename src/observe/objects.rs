//! The objects of Kubernetes that one topology's pods are made of, as a watch knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The objects that carry a label. Dropping it ends the watches.
pub struct Objects {
    namespace: String,
    services: Store<Service>,
    sets: Store<StatefulSet>,
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    wake: Arc<Notify>,
    ready: Arc<OnceLock<()>>,
    _watches: JoinSet<()>,
}

impl Objects {
    /// Watches those of a namespace with this label (`key=value`). Must be called on a tokio runtime.
    pub fn watch(client: &Client, namespace: &str, label: &str) -> Self {
        let (wake, mut watches) = (Arc::new(Notify::new()), JoinSet::new());
        let services = follow(Api::namespaced(client.clone(), namespace), label, &wake, &mut watches);
        let sets = follow(Api::namespaced(client.clone(), namespace), label, &wake, &mut watches);
        let budgets = follow(Api::namespaced(client.clone(), namespace), label, &wake, &mut watches);
        let pods = follow(Api::namespaced(client.clone(), namespace), label, &wake, &mut watches);
        let ready = Arc::new(OnceLock::new());
        let (listed, news) = (Arc::clone(&ready), Arc::clone(&wake));
        let all = (services.clone(), sets.clone(), budgets.clone(), pods.clone());
        watches.spawn(async move {
            let [one, two] = [all.0.wait_until_ready().await.is_ok(), all.1.wait_until_ready().await.is_ok()];
            let [three, four] = [all.2.wait_until_ready().await.is_ok(), all.3.wait_until_ready().await.is_ok()];
            if one && two && three && four {
                let _ = listed.set(());
                news.notify_one();
            }
        });
        Self { namespace: namespace.to_owned(), services, sets, budgets, pods, wake, ready, _watches: watches }
    }

    /// Whether all are listed: before that, what is not here may be there.
    pub fn are_listed(&self) -> bool {
        self.ready.get().is_some()
    }

    /// The address of a Service; `None` where it has none, or is not there.
    pub fn address(&self, service: &str) -> Option<String> {
        let found = self.found(&self.services, service)?;
        found.spec.as_ref()?.cluster_ip.clone().filter(|address| !address.is_empty() && address != "None")
    }

    /// What a Service selects pods by, of one label.
    pub fn selects(&self, service: &str, label: &str) -> Option<String> {
        self.found(&self.services, service)?.spec.as_ref()?.selector.as_ref()?.get(label).cloned()
    }

    /// What an annotation of an object says; nothing where it is not there.
    pub fn note(&self, kind: &str, name: &str, annotation: &str) -> Option<String> {
        self.metadata(kind, name)?.annotations?.remove(annotation)
    }

    /// The uid of what an object belongs to; nothing where it is not there.
    pub fn owner(&self, kind: &str, name: &str) -> Option<String> {
        self.metadata(kind, name)?.owner_references?.into_iter().next().map(|owner| owner.uid)
    }

    fn metadata(&self, kind: &str, name: &str) -> Option<ObjectMeta> {
        match kind {
            "Service" => Some(self.found(&self.services, name)?.metadata.clone()),
            "StatefulSet" => Some(self.found(&self.sets, name)?.metadata.clone()),
            "PodDisruptionBudget" => Some(self.found(&self.budgets, name)?.metadata.clone()),
            _ => None,
        }
    }

    /// The values of a label of StatefulSets and Services that belong to the object with this uid; nothing before all are
    /// listed.
    pub fn of_label(&self, label: &str, owner: &str) -> BTreeSet<String> {
        let sets = self.sets.state().into_iter().map(|set| set.metadata.clone());
        let services = self.services.state().into_iter().map(|service| service.metadata.clone());
        // What is on its way out is done with.
        let stay = sets.chain(services).filter(|metadata| metadata.deletion_timestamp.is_none() && self.are_listed());
        let is_his = |metadata: &ObjectMeta| metadata.owner_references.iter().flatten().any(|of| of.uid == owner);
        stay.filter(is_his).filter_map(|metadata| metadata.labels?.remove(label)).collect()
    }

    /// The labels of a pod; `None` where there is no pod.
    pub fn labels(&self, pod: &str) -> Option<BTreeMap<String, String>> {
        Some(self.found(&self.pods, pod)?.labels().clone())
    }

    /// What keeps these containers of a pod from running, in the words of Kubernetes. What others have put in it is theirs.
    pub fn trouble(&self, pod: &str, containers: &[&str]) -> Option<String> {
        trouble(self.found(&self.pods, pod)?.status.as_ref()?, containers)
    }

    /// The uid of a pod, and what an annotation of it says, or else the image of a container; `None` where there is no pod.
    pub fn pod(&self, pod: &str, annotation: &str, container: &str) -> Option<(String, String)> {
        let pod = self.found(&self.pods, pod)?;
        let containers = &pod.spec.as_ref()?.containers;
        let image = || containers.iter().find(|known| known.name == container)?.image.clone();
        Some((pod.uid()?, pod.annotations().get(annotation).cloned().or_else(image)?))
    }

    /// Whether a pod is on its way out.
    pub fn is_leaving(&self, pod: &str) -> bool {
        self.found(&self.pods, pod).is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// Whether a pod is ready.
    pub fn is_ready(&self, pod: &str) -> bool {
        let pod = self.found(&self.pods, pod);
        let conditions = pod.as_ref().and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// Whether whoever makes pods from a StatefulSet has taken in what it says now.
    pub fn is_known_to_its_controller(&self, set: &str) -> bool {
        let set = self.found(&self.sets, set);
        set.is_some_and(|set| {
            set.status.as_ref().and_then(|status| status.observed_generation) >= set.metadata.generation
        })
    }

    fn found<K>(&self, store: &Store<K>, name: &str) -> Option<Arc<K>>
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        store.get(&ObjectRef::new(name).within(&self.namespace))
    }

    /// Returns when one of them changed. For one waiter.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

fn follow<K>(api: Api<K>, label: &str, wake: &Arc<Notify>, watches: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Hash + Eq,
{
    let (store, writer) = reflector::store();
    let stream = reflector::reflector(writer, watcher(api, watcher::Config::default().labels(label)));
    let (wake, kind) = (Arc::clone(wake), K::kind(&()).into_owned());
    watches.spawn(stream.default_backoff().touched_objects().for_each(move |seen| {
        match seen {
            Ok(_) => wake.notify_one(),
            Err(error) => tracing::debug!(kind, %error, "the watch is begun anew"),
        }
        std::future::ready(())
    }));
    store
}

/// What is only a matter of time is no trouble.
const PASSING: &[&str] = &["ContainerCreating", "PodInitializing"];

fn trouble(status: &PodStatus, ours: &[&str]) -> Option<String> {
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let containers = containers.filter(|container| ours.contains(&container.name.as_str()));
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    let waiting = waiting.map(|waiting| (waiting.reason.clone(), waiting.message.clone()));
    let unplaced = status.conditions.iter().flatten();
    let unplaced = unplaced.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let unplaced = unplaced.map(|condition| (condition.reason.clone(), condition.message.clone()));
    let mut all = unplaced.chain(waiting).filter_map(|(reason, message)| Some((reason?, message.unwrap_or_default())));
    let (reason, message) = all.find(|(reason, _)| !PASSING.contains(&reason.as_str()))?;
    Some(format!("its pod does not run: {reason}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: &str) -> Option<String> {
        trouble(&serde_yaml::from_str(status).unwrap(), &["a"])
    }

    #[test]
    fn what_keeps_a_pod_from_running_is_told_and_what_passes_is_not() {
        let waiting = |reason: &str| {
            told(&format!(
                "{{containerStatuses: [{{name: a, image: i, imageID: '', ready: false, restartCount: 0,
                state: {{waiting: {{reason: {reason}, message: why}}}}}}]}}"
            ))
        };
        assert_eq!(waiting("ImagePullBackOff").unwrap(), "its pod does not run: ImagePullBackOff: why");
        assert_eq!(waiting("ContainerCreating"), None);
        let unplaced = "{conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: no node}]}";
        assert_eq!(told(unplaced).unwrap(), "its pod does not run: Unschedulable: no node");
        assert_eq!(told("{conditions: [{type: PodScheduled, status: 'True'}]}"), None);
    }
}
