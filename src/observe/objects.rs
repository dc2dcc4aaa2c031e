//! The objects of Kubernetes that one topology's pods are made of, as a watch knows them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
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
    wake: Arc<Notify>,
    ready: Arc<std::sync::OnceLock<()>>,
    _watches: JoinSet<()>,
}

impl Objects {
    /// Watches those of a namespace with this label (`key=value`). Must be called on a tokio runtime.
    pub fn watch(client: &Client, namespace: &str, label: &str) -> Self {
        let (wake, mut watches) = (Arc::new(Notify::new()), JoinSet::new());
        let services = follow(Api::namespaced(client.clone(), namespace), label, &wake, &mut watches);
        let sets = follow(Api::namespaced(client.clone(), namespace), label, &wake, &mut watches);
        let ready = Arc::new(std::sync::OnceLock::new());
        let (listed, all) = (Arc::clone(&ready), (services.clone(), sets.clone()));
        let news = Arc::clone(&wake);
        watches.spawn(async move {
            if all.0.wait_until_ready().await.is_ok() && all.1.wait_until_ready().await.is_ok() {
                let _ = listed.set(());
                news.notify_one();
            }
        });
        Self { namespace: namespace.to_owned(), services, sets, wake, ready, _watches: watches }
    }

    /// Whether all are listed: before that, what is not here may be there.
    pub fn are_listed(&self) -> bool {
        self.ready.get().is_some()
    }

    /// The address of a Service; `None` where it has none, or is not there.
    pub fn address(&self, service: &str) -> Option<String> {
        let found = self.services.get(&ObjectRef::new(service).within(&self.namespace))?;
        found.spec.as_ref()?.cluster_ip.clone().filter(|address| !address.is_empty() && address != "None")
    }

    /// What an annotation of a Service and of a StatefulSet of the same name says; nothing where it is not there.
    pub fn notes(&self, name: &str, annotation: &str) -> [Option<String>; 2] {
        let note = |annotations: &BTreeMap<String, String>| annotations.get(annotation).cloned();
        let service = self.services.get(&ObjectRef::new(name).within(&self.namespace));
        let set = self.sets.get(&ObjectRef::new(name).within(&self.namespace));
        [service.and_then(|one| note(one.annotations())), set.and_then(|one| note(one.annotations()))]
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
