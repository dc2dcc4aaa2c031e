//! What the memory keeps of steps that were carried out.

use super::step::{Outcome, Step, Why};
use crate::model::memory::{FailedStep, Ordered};
use crate::model::{Memory, Millis};

/// Remembers orders and heartbeats. A failed order is remembered too: it may have been written before it failed, so it
/// counts in the union of routes until it is seen (law 1).
pub fn record(memory: &mut Memory, outcome: &Outcome, now: Millis) {
    for done in &outcome.done {
        let step = &done.planned.step;
        let key = (step.server().clone(), step.owner().clone(), step.into());
        if let Err(error) = &done.result {
            let failed = memory.failed_steps.entry(key).or_default();
            *failed = FailedStep { times: failed.times.saturating_add(1), at: now, error: error.clone() };
        } else {
            memory.failed_steps.remove(&key);
        }
        if let Step::DropSlot { on, owner } | Step::RecreateSlot { on, owner } = step {
            memory.nodes.entry(on.clone()).or_default().kept.ours(owner.slot(), now);
        }
        if let (Step::CreateSlot { on, owner }, Ok(())) = (step, &done.result) {
            memory.nodes.entry(on.clone()).or_default().kept.made(owner.slot(), now);
        }
        match &done.planned.step {
            Step::Heartbeat { .. } if done.result.is_ok() => memory.heartbeat_at = Some(now),
            Step::SetRoute { node, route, conninfo, .. } => {
                let node = memory.nodes.entry(node.clone()).or_default();
                let ordered = Ordered {
                    route: route.clone(),
                    conninfo: conninfo.clone(),
                    why: done.planned.why.into(),
                    at: now,
                    seen_installed: false,
                    followed: false,
                    streamed: node.rooted_since.is_some() && node.alone_since.is_none(),
                    moves: node.upstream.as_ref().map(|(upstream, _)| upstream) != route.first(),
                    arrived: false,
                };
                node.ordered = Some(ordered);
                node.reloaded_at = Some(now);
                node.reloads = 0;
            }
            Step::Reload { node } => {
                let node = memory.nodes.entry(node.clone()).or_default();
                node.reloaded_at = Some(now);
                node.reloads = node.reloads.saturating_add(1);
            }
            Step::AdvanceSlot { on, owner, .. } if done.result.is_ok() => {
                memory.nodes.entry(owner.clone()).or_default().slots_advanced.insert(on.clone(), now);
            }
            Step::DropSlot { on, owner } if done.planned.why == Why::RetainedWal && done.result.is_ok() => {
                memory.nodes.entry(owner.clone()).or_default().slots_given_up.insert(on.clone());
            }
            Step::CreateSlot { on, owner } if done.result.is_ok() => {
                memory.nodes.entry(owner.clone()).or_default().slots_given_up.remove(on);
            }
            Step::DropSlot { on, owner } if done.planned.why == Why::LeftSpec && done.result.is_ok() => {
                if let Some(leaver) = memory.leaving.get_mut(owner) {
                    leaver.dropped.insert(on.clone(), now);
                }
            }
            // Also in vain: a file was written, or may have been.
            Step::TryDisk { node } => memory.nodes.entry(node.clone()).or_default().disk_tried_at = Some(now),
            Step::Heartbeat { .. }
            | Step::CreateSlot { .. }
            | Step::AdvanceSlot { .. }
            | Step::ClearXmin { .. }
            | Step::RecreateSlot { .. }
            | Step::DropSlot { .. }
            | Step::EndSender { .. } => {}
        }
    }
}
