//! Watches, the straight line, leadership, shutdown.

pub mod clock;
pub mod cluster;
pub mod events;
pub mod leadership;
pub mod telemetry;
pub mod wake;

pub use cluster::Cluster;

/// Under which name everything is written to the API server.
pub const FIELD_MANAGER: &str = "waltree-operator";
