//! The custom resource: what a person writes, what is reported back, and how the one becomes [`crate::model::Desired`].

pub mod acknowledge;
pub mod conditions;
pub mod convert;
pub mod quantity;
pub mod reason;
mod schema;
pub mod status;
pub mod topology;
mod unknown;

pub use acknowledge::{Acknowledgement, acknowledgement};
pub use conditions::ConditionType;
pub use convert::{Access, access};
pub use reason::Reason;
pub use status::ReplicaTopologyStatus;
pub use topology::{ReplicaTopology, ReplicaTopologySpec};
pub use unknown::unknown_fields;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definition that `waltree crd` prints and `crds/` holds.
pub fn crd() -> CustomResourceDefinition {
    ReplicaTopology::crd()
}
