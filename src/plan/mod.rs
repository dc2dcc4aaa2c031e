//! The decisions.

pub mod step;

pub use step::{Done, Outcome, Plan, Planned, Readiness, Step, StepKind, Wait, WaitReason, Why};
