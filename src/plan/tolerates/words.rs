//! The weakest spot as a sentence, with its cure. Names and numbers in it are of the tree only, so that it stands still
//! while nothing happens.

use super::{Harm, Tree};
use crate::model::{Loss, Management, NodeName};

/// While nobody is seen as the primary.
pub(super) const NO_PRIMARY: &str = "No primary is seen, so nobody's path can be told: see the condition Writable.";

/// Names that are written out.
const NAMED: usize = 3;

/// What a loss would do, and what helps.
pub(super) fn harm(tree: &Tree<'_>, loss: &Loss, harm: &Harm<'_>) -> String {
    let limits = &tree.world.desired.limits;
    if !harm.unfed.is_empty() {
        let who = names(tree, &harm.unfed);
        let cure = match harm.stuck_at {
            Some(at) => format!("{} is not ready for them: see FallbacksReady.", tree.names[at]),
            None => "Give them a fallback: add a relay or a root standby, or raise fanOut.".to_owned(),
        };
        return format!("Without {loss}, {who} would be fed by nobody. {cure}");
    }
    if let Some((at, children)) = harm.crowded {
        let node = tree.names[at].name;
        let burst = tree.world.desired.burst(node);
        let group = tree.world.desired.group_of(node).map(|group| group.name.to_string()).unwrap_or_default();
        return format!(
            "Without {loss}, {node} would have {children} children, and at most {burst} are allowed. Add a relay to \
             {group}, or raise its fanOut."
        );
    }
    let (region, streams) = harm.flooded.unwrap_or_default();
    let into = Loss::Region(region.to_owned());
    format!(
        "Without {loss}, {streams} WAL streams would go into {into}, and limits.crossRegionStreams is {}. Add a relay \
         there, or raise the limit.",
        limits.cross_region_streams
    )
}

/// What is left to say when no loss does harm: what cannot be told, and else the primary, which nobody replaces.
pub(super) fn without_harm(tree: &Tree<'_>) -> String {
    if !tree.blind.is_empty() {
        let who = names(tree, &tree.blind);
        return format!("Of {who} nothing is seen, so what a loss would do there cannot be told: see its message.");
    }
    let primary = tree.names[tree.primary].name;
    let root = tree.world.desired.root().map(|root| root.members.as_slice()).unwrap_or_default();
    let heirs: Vec<&NodeName> = root.iter().filter(|member| *member != primary).collect();
    // Where another manager keeps them, promoting by hand would make two primaries.
    let theirs = tree.world.desired.root().filter(|root| root.management == Management::Observe);
    match (heirs.as_slice(), theirs) {
        ([], None) => format!("{primary}, the primary: the root group has no other. Add one, which you could promote."),
        ([], Some(root)) => {
            format!("{primary}, the primary: {} has no other. Add all that its manager could promote.", root.name)
        }
        ([heir, ..], None) => {
            format!("{primary}, the primary: nobody is promoted when it is lost. Be ready to promote {heir} by hand.")
        }
        ([..], Some(root)) => format!(
            "{primary}, the primary: when it is lost, the manager that keeps {} has to promote another. See that it would.",
            root.name
        ),
    }
}

fn names(tree: &Tree<'_>, all: &[usize]) -> String {
    let first = all.iter().take(NAMED).map(|i| tree.names[*i].name.as_str()).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
