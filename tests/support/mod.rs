//! Real PostgreSQL servers for the tests.

pub mod fleet;
pub mod postgres;
