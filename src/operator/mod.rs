//! Watches, the straight line, leadership, shutdown.

mod application;
pub mod authority;
mod certificates;
pub mod clerk;
pub mod clock;
pub mod cluster;
pub mod events;
pub mod leadership;
pub mod live;
pub mod pods;
pub mod reach;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod telemetry;
pub mod tend;
pub mod wake;

pub use cluster::Cluster;
pub use live::LiveCluster;
pub use reach::{accesses, remembered};
pub use run::{RunError, Settings, run};

/// Under which name everything is written to the API server.
pub const FIELD_MANAGER: &str = "waltree-operator";
