//! Names for servers that have none of ours yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::name::NAME_BYTES_MAX;
use crate::model::{Found, NodeName};

/// What stands before a name that would not begin with a letter.
const LETTERS: &str = "pg-";

/// What a server calls itself: its `application_name`, which is also what `synchronous_standby_names` goes by, or else
/// its `cluster_name`; where neither is said, its address.
pub(super) fn said(server: &Found) -> String {
    own_words(server).next().unwrap_or_else(|| server.listener())
}

fn own_words(server: &Found) -> impl Iterator<Item = String> {
    let seen = Some(server.application_name()).filter(|name| *name != "walreceiver");
    let cluster = Some(server.facts.cluster_name.as_str()).filter(|name| !name.is_empty());
    seen.into_iter().chain(cluster).map(str::to_owned)
}

/// A legal name for every server, no two alike: the first thing it calls itself that no other server does; a word that
/// several share, such as the `cluster_name` of a whole cluster, names none of them.
pub(super) fn names(found: &[Found]) -> Option<Vec<NodeName>> {
    let words: Vec<Vec<String>> = found.iter().map(words).collect();
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for own in &words {
        for word in own.iter().collect::<BTreeSet<_>>() {
            *users.entry(word).or_default() += 1;
        }
    }
    let mut taken = BTreeSet::new();
    let mut names = Vec::with_capacity(found.len());
    for own in &words {
        let alone = own.iter().find(|word| users.get(word.as_str()) == Some(&1));
        let name = unique(alone.or(own.last()).map_or("", String::as_str), &taken)?;
        taken.insert(name.clone());
        names.push(name);
    }
    Some(names)
}

fn words(server: &Found) -> Vec<String> {
    let with_port = format!("{}-{}", server.address, server.port);
    own_words(server).chain([server.address.clone(), with_port]).filter_map(|word| legal(&word)).collect()
}

/// The nearest legal name; `None` when there is nothing in it to make one of.
pub(super) fn legal(word: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let word: String = word.chars().map(plain).collect();
    let word = word.trim_matches('-');
    let begins = word.chars().next()?;
    let word = if begins.is_ascii_lowercase() { word.to_owned() } else { format!("{LETTERS}{word}") };
    let word: String = word.chars().take(NAME_BYTES_MAX).collect();
    Some(word.trim_end_matches('-').to_owned())
}

/// The word, or the first with a number behind it that is not taken; `None` for a word that is not legal.
pub(super) fn unique(word: &str, taken: &BTreeSet<NodeName>) -> Option<NodeName> {
    let word = if word.is_empty() { "pg" } else { word };
    let numbered = |number: usize| {
        let end = format!("-{number}");
        let stem: String = word.chars().take(NAME_BYTES_MAX - end.len()).collect();
        stem.trim_end_matches('-').to_owned() + &end
    };
    let all = std::iter::once(word.to_owned()).chain((2..=taken.len() + 2).map(numbered));
    all.into_iter().filter_map(|name| NodeName::new(&name).ok()).find(|name| !taken.contains(name))
}

/// Who is called otherwise than it calls itself, as one sentence.
pub(super) fn renamed(found: &[Found], names: &[NodeName]) -> Option<String> {
    let other = |(server, name): (&Found, &NodeName)| {
        let said = own_words(server).next()?;
        (said != name.as_str()).then(|| format!("{name} is {said:?}"))
    };
    let renamed: Vec<String> = found.iter().zip(names).filter_map(other).collect();
    (!renamed.is_empty()).then(|| {
        let sync = "synchronous_standby_names has to name them by these names when they are set";
        format!("Names that had to be changed: {}; {sync}.", renamed.join(", "))
    })
}
