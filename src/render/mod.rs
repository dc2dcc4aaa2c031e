//! Pure builders of what is written: the configuration of a PostgreSQL, and the objects of Kubernetes that run it.

mod access;
mod settings;

pub use access::{hba, ident};
pub use settings::{BadParameter, Server, settings};
