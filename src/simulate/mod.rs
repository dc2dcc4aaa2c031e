//! Fleets without servers: seeded worlds under a clock of their own, over which the real straight line walks.
//!
//! [`world`] is servers, the network between them and the WAL that flows, with libpq and the walreceiver behaving as
//! postgres-facts.md and safety.md measured them, their traps included. [`cluster`] lets the operator look at it and write to it,
//! [`drama`] moves the clock, and [`laws`] says what must be true at every moment. [`script`] plays scenes that a person can
//! read, [`soak`] thousands of hours of random faults. [`seen`] makes a world of real servers, and [`what_if`] tells what
//! would happen to them. What PostgreSQL itself does is never tested here: that is
//! tested on servers, and the two are compared.

pub mod cluster;
mod days;
pub mod dice;
pub mod drama;
pub mod facts;
pub mod fault;
pub mod laws;
mod limits;
pub mod script;
pub mod seen;
pub mod server;
pub mod shape;
pub mod show;
pub mod soak;
pub mod stream;
pub mod wal;
pub mod what_if;
pub mod world;

pub use cluster::SimulatedCluster;
pub use dice::Dice;
pub use drama::Drama;
pub use fault::Fault;
pub use soak::Soak;
pub use what_if::{Answer, Scene};
pub use world::{Place, World};
