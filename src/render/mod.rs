//! Pure builders of what is written: the configuration of a PostgreSQL, and the objects of Kubernetes that run it.

mod access;
pub mod pods;
mod settings;
mod way;

pub use access::{hba, ident};
pub use settings::{BadParameter, Server, settings};
pub use way::{is_current, orders};
