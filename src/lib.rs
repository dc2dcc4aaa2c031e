//! waltree: the Kubernetes operator that makes a PostgreSQL replica tree look after itself.
//!
//! ```text
//!  watch ReplicaTopology                       sightings of servers (persistent SQL connections, one query a tick,
//!          \_________________________   _________ and a dropped connection is a wake-up at once)
//!                                    v v
//!  operator::reconcile     one function, read top to bottom
//!   1  desired  = Desired::try_from(&spec)            api       pure   what the user wants, as a graph
//!   2  observed = cluster.observe(&desired).await     observe   reads  what is there; Unknown is a value
//!   3  plan     = plan(&desired, &observed, now)      plan      pure   steps and reasons
//!   4  outcome  = cluster.carry_out(&plan).await      act       writes one idempotent effect a step; no decisions
//!   5  status   = status(&desired, &observed, ...)    operator  pure, sent as one server-side apply when it changed
//!   6  requeue  = plan.look_again_after
//! ```
//!
//! `simulate` walks the same line over worlds without servers. `model` has the words, `api` the custom resource, `cli` the
//! command line. Which folder may use which is a table in `tests/architecture.rs`, and that test reads the imports.

pub mod act;
pub mod agent;
pub mod api;
pub mod cli;
pub mod guard;
pub mod model;
pub mod observe;
pub mod operator;
pub mod plan;
pub mod render;
pub mod simulate;
pub mod web;
