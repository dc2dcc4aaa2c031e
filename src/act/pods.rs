//! Writes to Kubernetes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

/// Deadline of one request: a frozen API server accepts TCP and says nothing.
const REQUEST: Duration = Duration::from_secs(5);

/// Why an object is not as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    /// The API server said no, or nothing that can be understood.
    #[error("{0} {1} is not as it is to be")]
    Refused(String, String, #[source] Box<kube::Error>),
    /// It said nothing.
    #[error("{0} {1} is not as it is to be: no answer within {REQUEST:?}")]
    Overdue(String, String),
    /// It is another's, or what is left of one that was deleted, which is removed in a while.
    #[error("{0} {1} is there and belongs to another object; delete it if nobody needs it")]
    Anothers(String, String),
    /// It is no object.
    #[error("{0} is no object")]
    NoObject(String, #[source] serde_json::Error),
}

/// Applies one object as it is to be, as `manager`. What others have set beside it stays. One that is not known to be `ours` is
/// not taken from others who have set the same.
///
/// # Errors
/// When the API server does not take it.
pub async fn apply(client: &Client, manager: &str, object: &Value, ours: bool) -> Result<(), NotMade> {
    let (api, kind, name) = place(client, object);
    let parameters = PatchParams { force: ours, ..PatchParams::apply(manager) };
    let patch = Patch::Apply(object);
    let request = api.patch(&name, &parameters, &patch);
    match tokio::time::timeout(REQUEST, request).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(NotMade::Refused(kind, name, Box::new(error))),
        Err(_) => Err(NotMade::Overdue(kind, name)),
    }
}

/// Deletes an object, and what belongs to it. One that is gone already is as it is to be.
///
/// # Errors
/// When the API server does not take it.
pub async fn delete(client: &Client, object: &Value) -> Result<(), NotMade> {
    let (api, kind, name) = place(client, object);
    match tokio::time::timeout(REQUEST, api.delete(&name, &DeleteParams::background())).await {
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => Ok(()),
        Ok(done) => done.map(drop).map_err(|error| NotMade::Refused(kind, name, Box::new(error))),
        Err(_) => Err(NotMade::Overdue(kind, name)),
    }
}

/// Where an object is, with its kind and its name.
fn place(client: &Client, object: &Value) -> (Api<DynamicObject>, String, String) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    (Api::namespaced_with(client.clone(), &text("/metadata/namespace"), &resource), kind, name)
}

/// A Secret that is made once: what is there stays. `metadata` is all of it but what is in it.
///
/// # Errors
/// When the API server does not take it.
pub async fn secret(
    client: &Client,
    manager: &str,
    metadata: &Value,
    content: BTreeMap<String, Vec<u8>>,
) -> Result<Secret, NotMade> {
    let metadata = serde_json::from_value(metadata.clone());
    let metadata = metadata.map_err(|error| NotMade::NoObject("Secret".to_owned(), error))?;
    let content = content.into_iter().map(|(key, bytes)| (key, ByteString(bytes))).collect();
    let secret = Secret { metadata, data: Some(content), ..Secret::default() };
    let api: Api<Secret> = Api::namespaced(client.clone(), &secret.namespace().unwrap_or_default());
    let name = secret.name_any();
    let parameters = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
    // It is looked at again and again, and made once.
    let made = async {
        match api.get_opt(&name).await? {
            Some(there) => Ok(there),
            None => api.create(&parameters, &secret).await,
        }
    };
    let owner = |secret: &Secret| secret.owner_references().first().map(|owner| owner.uid.clone());
    match tokio::time::timeout(REQUEST, made).await {
        Ok(Ok(there)) if owner(&there) != owner(&secret) => Err(NotMade::Anothers("Secret".to_owned(), name)),
        Ok(Ok(there)) => Ok(there),
        Ok(Err(error)) => Err(NotMade::Refused("Secret".to_owned(), name, Box::new(error))),
        Err(_) => Err(NotMade::Overdue("Secret".to_owned(), name)),
    }
}

/// A Secret, where it is there.
///
/// # Errors
/// When that cannot be told.
pub async fn existing(client: &Client, metadata: &Value) -> Result<Option<Secret>, NotMade> {
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    let (name, api) = (text("name"), Api::<Secret>::namespaced(client.clone(), text("namespace")));
    match tokio::time::timeout(REQUEST, api.get_opt(name)).await {
        Ok(there) => there.map_err(|error| NotMade::Refused("Secret".to_owned(), name.to_owned(), Box::new(error))),
        Err(_) => Err(NotMade::Overdue("Secret".to_owned(), name.to_owned())),
    }
}

/// Sets some of what is in a Secret, and leaves the rest as it is.
///
/// # Errors
/// When the API server does not take it.
pub async fn amend(
    client: &Client,
    manager: &str,
    metadata: &Value,
    content: &BTreeMap<String, Vec<u8>>,
) -> Result<(), NotMade> {
    let content: BTreeMap<&String, ByteString> =
        content.iter().map(|(key, bytes)| (key, ByteString(bytes.clone()))).collect();
    apply(client, manager, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": content}), true)
        .await
}

/// Deletes this very pod, and gives it its time to stop. One that is gone already is as it is to be.
///
/// # Errors
/// When the API server does not take it.
pub async fn delete_pod(client: &Client, (namespace, pod): (&str, &str), uid: &str) -> Result<(), NotMade> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let preconditions = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match tokio::time::timeout(REQUEST, api.delete(pod, &parameters)).await {
        // 409: another one has its name by now.
        Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => Ok(()),
        Ok(done) => done.map(drop).map_err(|error| NotMade::Refused("Pod".to_owned(), pod.to_owned(), Box::new(error))),
        Err(_) => Err(NotMade::Overdue("Pod".to_owned(), pod.to_owned())),
    }
}

/// Sets labels of a pod. One that is gone needs none: whoever takes its place has it from its StatefulSet.
///
/// # Errors
/// When the API server does not take it.
pub async fn label(
    client: &Client,
    manager: &str,
    (namespace, pod): (&str, &str),
    labels: &BTreeMap<&str, &str>,
) -> Result<(), NotMade> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    match tokio::time::timeout(REQUEST, api.patch_metadata(pod, &parameters, &patch)).await {
        Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => Ok(()),
        Ok(done) => done.map(drop).map_err(|error| NotMade::Refused("Pod".to_owned(), pod.to_owned(), Box::new(error))),
        Err(_) => Err(NotMade::Overdue("Pod".to_owned(), pod.to_owned())),
    }
}
