//! Names of nodes and groups: typed, so that one cannot stand for the other.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};
use rustc_hash::FxBuildHasher;

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

/// A name, and what follows from it.
struct Texts {
    name: String,
    /// See [`NodeName::slot`].
    slot: String,
}

fn checked(text: &str) -> Result<Arc<Texts>, BadName> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let ok = text.len() <= NAME_BYTES_MAX
        && text.bytes().all(inner)
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-');
    let texts = || Arc::new(Texts { name: text.to_owned(), slot: text.replace('-', "_") });
    ok.then(texts).ok_or_else(|| BadName(text.to_owned()))
}

/// Bytes of a name that fit into a `u128`.
const HEAD_BYTES: usize = 16;

/// The first bytes of a name as a number of the same order. Plans look names up by the hundred thousand, and most are told
/// apart by it without a look at the text.
fn head(text: impl Iterator<Item = u8>) -> u128 {
    let mut head = [0; HEAD_BYTES];
    head.iter_mut().zip(text).for_each(|(to, from)| *to = from);
    u128::from_be_bytes(head)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $type {
            head: u128,
            /// There is more of it than the head. Kept here, as a look at the text costs more than all the rest.
            is_long: bool,
            texts: Arc<Texts>,
        }

        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                let heads = self.head.cmp(&other.head);
                if self.is_long || other.is_long { heads.then_with(|| self.as_str().cmp(other.as_str())) } else { heads }
            }
        }

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }

        impl Eq for $type {}

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                state.write_u128(self.head);
                // Whole fleets may differ in the last bytes only.
                if self.is_long {
                    state.write(&self.as_str().as_bytes()[HEAD_BYTES..]);
                }
            }
        }

        impl $type {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`BadName`] when it is not a DNS label.
            pub fn new(text: &str) -> Result<Self, BadName> {
                let texts = checked(text)?;
                Ok(Self { head: head(text.bytes()), is_long: text.len() > HEAD_BYTES, texts })
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.texts.name
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
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

/// What is known of each of many nodes. A plan looks such things up by the hundred thousand, so it is by hash; it is walked
/// in the order of insertion, so that the same input gives the same plan.
pub type ByNode<V> = IndexMap<NodeName, V, FxBuildHasher>;

/// A text by which a node is called, to find what is known of that node without making a name of it.
#[derive(Debug, Clone, Copy)]
pub struct Called<'a> {
    head: u128,
    text: &'a str,
    by_slot: bool,
}

impl<'a> Called<'a> {
    /// By its name.
    pub fn by_name(text: &'a str) -> Self {
        Self { head: head(text.bytes()), text, by_slot: false }
    }

    /// By the name of its slot.
    pub fn by_slot(text: &'a str) -> Self {
        Self { head: head(text.bytes().map(in_name)), text, by_slot: true }
    }
}

/// What stands in a node's name where this stands in its slot's. No name has what is given for a `-`.
fn in_name(in_slot: u8) -> u8 {
    match in_slot {
        b'_' => b'-',
        b'-' => b'_',
        other => other,
    }
}

impl Hash for Called<'_> {
    /// As the name's own.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.head);
        let rest = self.text.as_bytes().get(HEAD_BYTES..).filter(|rest| !rest.is_empty());
        match rest {
            Some(rest) if self.by_slot => state.write(&rest.iter().map(|c| in_name(*c)).collect::<Vec<_>>()),
            Some(rest) => state.write(rest),
            None => {}
        }
    }
}

impl Equivalent<NodeName> for Called<'_> {
    fn equivalent(&self, key: &NodeName) -> bool {
        if self.head != key.head {
            return false;
        }
        if key.is_long || self.text.len() > HEAD_BYTES {
            return self.text == if self.by_slot { key.slot() } else { key.as_str() };
        }
        // The head does not show it, and no name ends so.
        !self.text.ends_with('\0')
    }
}

/// The value of `node` in a map that most often has the order in which `node` is at `place`: that it is there is seen faster
/// than it is found.
pub fn near<'m, V>(map: &'m ByNode<V>, place: usize, node: &NodeName) -> Option<&'m V> {
    let there = map.get_index(place).filter(|(name, _)| *name == node);
    there.map_or_else(|| map.get(node), |(_, value)| Some(value))
}

impl NodeName {
    /// The name of this node's slot on every upstream of its route. Slot names allow no `-`; node names allow no `_`,
    /// so two nodes never share a slot name.
    pub fn slot(&self) -> &str {
        &self.texts.slot
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
    fn names_are_ordered_as_their_texts() {
        let texts = ["a", "a-1", "a-10", "a-2", "ab", "replica-in-europe", "replica-in-europe-1", "replica-in-europf"];
        for pair in texts.windows(2) {
            let (lower, upper) = (NodeName::new(pair[0]).unwrap(), NodeName::new(pair[1]).unwrap());
            assert!(lower < upper && lower == lower.clone(), "{lower} {upper}");
        }
    }

    #[test]
    fn a_node_is_found_by_what_it_or_its_slot_is_called_and_by_all_of_that_text() {
        let texts = ["a", "replica-in-europ", "replica-in-europe", "replica-in-europe-1"];
        let names = texts.map(|text| NodeName::new(text).unwrap());
        let places: ByNode<usize> = names.iter().cloned().zip(0..).collect();
        for (place, text) in texts.iter().enumerate() {
            assert_eq!(places.get(&Called::by_name(text)), Some(&place), "{text}");
            assert_eq!(places.get(&Called::by_slot(names[place].slot())), Some(&place), "{text}");
            assert_eq!(near(&places, 1, &names[place]), Some(&place), "{text}");
        }
        for text in ["", "a\0", "b", "A b", "replica-in-europe-2", "replica_in_europe_1"] {
            assert_eq!(places.get(&Called::by_name(text)), None, "{text}");
        }
        for text in ["", "a\0", "b", "replica_in_europe_2", "replica-in-europe-1", "replica-in-europ"] {
            assert_eq!(places.get(&Called::by_slot(text)), None, "{text}");
        }
    }

    #[test]
    fn the_slot_of_a_node_is_a_legal_slot_name() {
        assert_eq!(NodeName::new("eu-1").unwrap().slot(), "eu_1");
    }
}
