//! The words: names, positions, routes, what is wanted and what is seen.
//!
//! Nothing in here reads a clock, does IO or knows Kubernetes or SQL; `tests/architecture.rs` enforces it. Maps are
//! `BTreeMap` only, so that the same input always gives the same plan (law 3 of "a plan is data").

pub mod check;
pub mod conninfo;
pub mod desired;
pub mod diagnosis;
pub mod found;
pub mod loss;
pub mod lsn;
pub mod memory;
pub mod name;
pub mod observed;
pub mod orders;
pub mod parameters;
pub mod pods;
pub mod primary;
pub mod rooted;
pub mod route;
pub mod sight;
pub mod tree;
pub mod unseen;

pub use conninfo::Conninfo;
pub use desired::{Addresses, Automation, Desired, Group, Healing, Limits, Management, NodeSpec, Reads, burst};
pub use diagnosis::{Diagnosis, Finding, about};
pub use found::Found;
pub use loss::Loss;
pub use lsn::{Lsn, Timeline};
pub use memory::Memory;
pub use name::{BadName, ByNode, Called, GroupName, NodeName, near};
pub use observed::{Facts, Millis, NodeView, Observed, Unseen, WhyUnseen};
pub use route::{Route, SessionAttrs};
pub use sight::Sight;
