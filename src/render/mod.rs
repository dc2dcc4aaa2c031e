//! Pure builders of what is written: the configuration of a PostgreSQL, and the objects of Kubernetes that run it.

mod access;
pub mod clients;
pub mod pods;
mod settings;
mod way;

pub use access::{hba, ident};
pub use settings::{Server, settings};
pub use way::{Wishes, is_current, orders};
