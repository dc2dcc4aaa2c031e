//! Names of nodes and groups: typed, so that one cannot stand for the other.

use std::fmt;
use std::sync::Arc;

/// Longest name of a node or group, in bytes. A node's name is also its slot's name (63 bytes in PostgreSQL) and, for
/// pods, the stem of a pod name with its ordinal (63 bytes in a label).
pub const NAME_BYTES_MAX: usize = 53;

/// A name that is not a lower-case DNS label of at most [`NAME_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name: use 1 to {NAME_BYTES_MAX} lower-case letters, digits and '-', beginning with a letter and \
     ending with a letter or digit"
)]
pub struct BadName(pub String);

fn checked(text: &str) -> Result<Arc<str>, BadName> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let ok = text.len() <= NAME_BYTES_MAX
        && text.bytes().all(inner)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-');
    if ok { Ok(text.into()) } else { Err(BadName(text.to_owned())) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`BadName`] when it is not a DNS label.
            pub fn new(text: &str) -> Result<Self, BadName> {
                checked(text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of one PostgreSQL server in a topology: its `application_name`, the stem of its slot's name, and what
    /// people call it. Unique in its topology.
    NodeName
}

name! {
    /// The name of a group of nodes.
    GroupName
}

impl NodeName {
    /// The name of this node's slot on every upstream of its route. Slot names allow no `-`; node names allow no `_`,
    /// so two nodes never share a slot name.
    pub fn slot(&self) -> String {
        self.0.replace('-', "_")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_lower_case_dns_label() {
        for good in ["a", "eu-1", "warehouse-12"] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "1a", "a.b", &"a".repeat(54)] {
            assert_eq!(NodeName::new(bad), Err(BadName(bad.to_owned())));
        }
    }

    #[test]
    fn the_slot_of_a_node_is_a_legal_slot_name() {
        assert_eq!(NodeName::new("eu-1").unwrap().slot(), "eu_1");
    }
}
