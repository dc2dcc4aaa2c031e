//! Watches, the straight line, leadership, shutdown.

pub mod clock;
pub mod cluster;
pub mod live;
pub mod report;

pub use cluster::Cluster;
pub use live::LiveCluster;
