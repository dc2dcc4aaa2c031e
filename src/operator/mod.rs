//! Watches, the straight line, leadership, shutdown.

pub mod cluster;
pub mod report;

pub use cluster::Cluster;
