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

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definition that `waltree crd` prints and `crds/` holds.
pub fn crd() -> CustomResourceDefinition {
    ReplicaTopology::crd()
}
