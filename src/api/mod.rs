//! The custom resource: what a person writes, what is reported back, and how the one becomes [`crate::model::Desired`].

pub mod acknowledge;
pub mod address;
pub mod conditions;
pub mod convert;
mod metadata;
pub mod quantity;
pub mod reason;
mod schema;
mod servers;
pub mod status;
pub mod topology;
mod typed;

pub use acknowledge::{Acknowledgement, acknowledgement};
pub use conditions::ConditionType;
pub use convert::{Access, access, pods};
pub use metadata::{metadata_faults, pod_name_faults};
pub use reason::Reason;
pub use status::ReplicaTopologyStatus;
pub use topology::{ReplicaTopology, ReplicaTopologySpec};
pub use typed::{document_faults, same_letters, spec_faults};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;
use serde_json::json;

/// The definition that `waltree crd` prints and `crds/` holds. A topology need not have a spec; it is stored with an empty
/// one, as every field has a default that is resolved here.
pub fn crd() -> CustomResourceDefinition {
    let mut definition = ReplicaTopology::crd();
    let schemas = definition.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut());
    for schema in schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()) {
        schema.required.iter_mut().for_each(|required| required.retain(|field| field != SPEC));
        schema.required = schema.required.take().filter(|required| !required.is_empty());
        if let Some(spec) = schema.properties.as_mut().and_then(|properties| properties.get_mut(SPEC)) {
            spec.default = Some(JSON(json!({})));
        }
    }
    definition
}

const SPEC: &str = "spec";
