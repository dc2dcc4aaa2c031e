//! Pure builders of what is written: the configuration of a PostgreSQL.

mod settings;

pub use settings::{BadParameter, Server, hba, settings};
