//! Commits wait for synchronous standbys, by the names in `synchronous_standby_names` on the primary. One that is given
//! another name, or that is taken away from the primary, is silently none any more, and where nobody is left all commits
//! hang (postgres-facts.md 11). So the setting changes first, and a person changes it.

use super::World;
use super::ready::NotYet;
use super::step::{Plan, WaitReason};
use crate::model::observed::Sender;
use crate::model::primary::Primary;
use crate::model::{Facts, NodeName, Route, SessionAttrs};

/// Says no to a route after which commits may wait for somebody who is not there.
pub(super) fn hangs(
    world: &World<'_>,
    plan: &Plan,
    node: &NodeName,
    facts: &Facts,
    route: &Route,
) -> Result<(), NotYet> {
    let Primary::Known { name: primary, .. } = &world.sight.primary else { return Ok(()) };
    let Some(above) = world.seen(primary) else { return Ok(()) };
    let Some(names) = Names::parse(&above.synchronous_standby_names) else { return Ok(()) };
    if is_orphan(world, node) {
        return Ok(());
    }
    let by_slot = |sender: &&Sender| sender.slot.is_some() && sender.slot.as_deref() == slot(facts);
    let by_name = |sender: &&Sender| sender.application_name.eq_ignore_ascii_case(facts.application_name());
    let sender = above.senders.iter().find(by_slot).or_else(|| above.senders.iter().find(by_name));
    let present = sender.map(|sender| sender.application_name.as_str()).filter(|name| !name.is_empty());
    let present = present.unwrap_or_else(|| facts.application_name());
    // Also of one that just connects anew: it is to be what it was.
    let is_sync = names.list(present) || sender.is_some_and(|sender| sender.sync == Some(true));
    let refusal = |what: &str, cure: &str| {
        let listed = format!("{primary} waits for {node} as a synchronous standby by the name {present}");
        Err((WaitReason::Synchronous, format!("{listed}, and {what}, so that commits hang. {cure}")))
    };
    if !is_sync {
        return Ok(());
    }
    if !names.list(node.as_str()) && !present.eq_ignore_ascii_case(node.as_str()) {
        let what = format!("its route gives it the application_name {node}");
        let cure = format!(
            "Put {node} into synchronous_standby_names on {primary} first, beside {present} (quoted, if it has a '-'), or \
             declare it by the name {present}"
        );
        return refusal(&what, &cure);
    }
    let stays = route.attrs == SessionAttrs::Primary || route.first() == Some(primary);
    if stays
        || !is_there(world, node, facts, primary, sender)
        || is_replaced(world, plan, node, primary, &names, present)
    {
        return Ok(());
    }
    let what = format!("its route takes it away from {primary}");
    let cure = format!("Take it out of synchronous_standby_names on {primary} first, or declare it in the root group");
    refusal(&what, &cure)
}

/// For longer than the patience it has received from nobody, or nothing: no commit waits for it that does not wait anyway,
/// and to be fed it may have to go elsewhere, or by its new name.
fn is_orphan(world: &World<'_>, node: &NodeName) -> bool {
    let patience = world.desired.healing.suspect_after_milliseconds;
    let memory = &world.observed.memory;
    let alone_for = memory.node(node).and_then(|memory| memory.alone_since).map(|since| memory.at.since(since));
    alone_for.max(memory.unrooted_for(node)).is_some_and(|t| t >= patience)
}

/// Whether it receives from the primary, or did a moment ago: a connection that is made anew is away for milliseconds.
fn is_there(world: &World<'_>, node: &NodeName, facts: &Facts, primary: &NodeName, sender: Option<&Sender>) -> bool {
    let patience = world.desired.healing.suspect_after_milliseconds;
    let alone_since = world.observed.memory.node(node).and_then(|memory| memory.alone_since);
    let alone_for = alone_since.map_or(0, |since| world.now.since(since));
    let was_lately = facts.receiver.is_none() && alone_for < patience;
    sender.is_some() || world.upstream(node).is_some_and(|upstream| upstream.name == primary) || was_lately
}

/// Of whoever it may be, enough others stay below the primary.
fn is_replaced(
    world: &World<'_>,
    plan: &Plan,
    node: &NodeName,
    primary: &NodeName,
    names: &Names,
    present: &str,
) -> bool {
    let stays = |other: &&NodeName| {
        let wanted = plan.wanted.get(*other).and_then(Route::first);
        *other != node
            && world.upstream(*other).is_some_and(|upstream| upstream.name == primary)
            && wanted == Some(primary)
    };
    names.list_by_star_only(present) && world.desired.nodes.keys().filter(stays).count() >= names.count
}

fn slot(facts: &Facts) -> Option<&str> {
    facts.receiver.as_ref().and_then(|receiver| receiver.slot.as_deref())
}

/// `synchronous_standby_names`: `a, b`, `2 (a, b)`, `FIRST 2 (a, b)`, `ANY 2 (a, b)`.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    /// How many a commit waits for.
    count: usize,
    /// Whom; `*` is anybody.
    names: Vec<String>,
}

impl Names {
    /// `None` when commits wait for nobody.
    fn parse(text: &str) -> Option<Self> {
        let list = text.trim().strip_suffix(')').and_then(|text| text.split_once('('));
        let (how, names) = list.unwrap_or(("1", text));
        let count = how.split_whitespace().last().and_then(|count| count.parse().ok()).unwrap_or(usize::MAX);
        let name = |name: &str| {
            let name = name.trim();
            let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            quoted.map_or_else(|| name.to_owned(), |name| name.replace("\"\"", "\""))
        };
        let names: Vec<String> = names.split(',').map(name).filter(|name| !name.is_empty()).collect();
        (!names.is_empty()).then_some(Self { count, names })
    }

    /// As PostgreSQL compares them.
    fn list(&self, name: &str) -> bool {
        self.list_by_name(name) || self.names.iter().any(|listed| listed == "*")
    }

    fn list_by_name(&self, name: &str) -> bool {
        self.names.iter().any(|listed| listed.eq_ignore_ascii_case(name))
    }

    fn list_by_star_only(&self, name: &str) -> bool {
        self.list(name) && !self.list_by_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_commits_wait_for_are_read_in_each_of_their_forms() {
        let names =
            |count, names: &[&str]| Some(Names { count, names: names.iter().map(|name| (*name).to_owned()).collect() });
        assert_eq!(Names::parse(""), None);
        assert_eq!(Names::parse("db2, db3"), names(1, &["db2", "db3"]));
        assert_eq!(Names::parse("2 (db2,db3)"), names(2, &["db2", "db3"]));
        assert_eq!(Names::parse("FIRST 1 (\"core-2\")"), names(1, &["core-2"]));
        assert_eq!(Names::parse(" ANY 2(a, \"q\"\"q\" , *) "), names(2, &["a", "q\"q", "*"]));
    }

    #[test]
    fn a_name_is_listed_whatever_its_case_and_by_a_star() {
        let names = Names::parse("FIRST 1 (Db2, *)").unwrap();
        assert!(names.list("dB2") && !names.list_by_star_only("db2"));
        assert!(names.list("other") && names.list_by_star_only("other"));
    }
}
