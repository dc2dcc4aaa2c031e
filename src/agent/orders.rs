//! The orders of a node on its disk: they hold as long as no others come, whatever becomes of the operator (law 11).

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::configure::replace;
use crate::model::orders::{BadOrders, Orders};

/// Orders that are none.
#[derive(Debug, thiserror::Error)]
pub enum NoOrders {
    /// The file.
    #[error("cannot {0} the orders in {1}")]
    File(&'static str, PathBuf, #[source] io::Error),
    /// They cannot be read.
    #[error("the orders cannot be read")]
    Text(#[source] serde_yaml::Error),
    /// They cannot be written.
    #[error("the orders cannot be written")]
    Unwritable(#[source] serde_json::Error),
    /// They cannot be followed.
    #[error(transparent)]
    Bad(#[from] BadOrders),
    /// An operator that leads no more has given them.
    #[error("these are orders of term {given}, and those of term {followed} are followed")]
    Outdated {
        /// Theirs.
        given: u64,
        /// Of those that are followed.
        followed: u64,
    },
}

/// The orders of a file; `None` where there is no file.
///
/// # Errors
/// When they cannot be read, or not be followed.
pub(super) fn read(file: &Path) -> Result<Option<Orders>, NoOrders> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NoOrders::File("read", file.to_owned(), error)),
        Ok(text) => understood(&text).map(Some),
    }
}

/// # Errors
/// When they are no orders, or cannot be followed.
pub(super) fn understood(text: &str) -> Result<Orders, NoOrders> {
    let orders: Orders = serde_yaml::from_str(text).map_err(NoOrders::Text)?;
    orders.check()?;
    Ok(orders)
}

/// Keeps orders in the place of those that are there.
///
/// # Errors
/// When those that are there are of a later term, or the disk refuses.
pub(super) fn keep(file: &Path, orders: &Orders) -> Result<(), NoOrders> {
    // What is there and cannot be read is no reason to be without orders.
    let followed = read(file).ok().flatten().map_or(0, |followed| followed.term);
    if orders.term < followed {
        return Err(NoOrders::Outdated { given: orders.term, followed });
    }
    // JSON is YAML.
    let text = serde_json::to_string(orders).map_err(NoOrders::Unwritable)?;
    replace(file, &text).map_err(|error| NoOrders::File("write", file.to_owned(), error))
}
