//! Watches, the straight line, leadership, shutdown.

pub mod cluster;

pub use cluster::Cluster;
