//! What the memory keeps of steps that were carried out.

use super::step::{Outcome, Step};
use crate::model::memory::Ordered;
use crate::model::{Memory, Millis};

/// Remembers orders and heartbeats. A failed order is remembered too: it may have been written before it failed, so it
/// counts in the union of routes until it is seen (law 1).
pub fn record(memory: &mut Memory, outcome: &Outcome, now: Millis) {
    for done in &outcome.done {
        match &done.planned.step {
            Step::Heartbeat { .. } => memory.heartbeat_at = Some(now),
            Step::SetRoute { node, route, .. } => {
                let ordered = Ordered { route: route.clone(), at: now, reloaded_at: now, seen_installed: false };
                memory.nodes.entry(node.clone()).or_default().ordered = Some(ordered);
            }
            Step::Reload { node } => {
                if let Some(ordered) = memory.nodes.get_mut(node).and_then(|node| node.ordered.as_mut()) {
                    ordered.reloaded_at = now;
                }
            }
            Step::CreateSlot { .. } | Step::AdvanceSlot { .. } | Step::RecreateSlot { .. } | Step::DropSlot { .. } => {}
        }
    }
}
