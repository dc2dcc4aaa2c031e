//! Real servers for tests: each is started, and ended again, by the test that needs it.

#![allow(dead_code, unreachable_pub, reason = "every test binary compiles this module and uses a part of it")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot be set up fails by panic"
)]

pub mod fleet;
pub mod kube;
pub mod operator;
pub mod postgres;
