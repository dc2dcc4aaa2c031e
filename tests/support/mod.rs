//! Real servers for tests: each is started, and ended again, by the test that needs it.

#![allow(dead_code, unreachable_pub, reason = "every test binary compiles this module and uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

pub mod certificates;
pub mod disk;
pub mod fleet;
pub mod ground;
pub mod guarded;
pub mod kube;
pub mod leaf;
pub mod network;
pub mod nodes;
pub mod operator;
pub mod owner;
pub mod patroni;
pub mod pods;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod readers;
pub mod region;
pub mod regions;
pub mod script;
pub mod staleness;
pub mod topology;
pub mod walsenders;
pub mod witness;
