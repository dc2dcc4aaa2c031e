//! Watches, the straight line, leadership, shutdown.

pub mod clock;
pub mod cluster;

pub use cluster::Cluster;
