//! For how long a node may be away until its slots are given up.

use super::View;
use crate::api::status::NodeStatus;
use crate::model::NodeName;
use crate::model::memory::Sample;

/// The shortest time over which a rate is taken, in milliseconds: a burst is no rate.
const RATE_MILLISECONDS: u64 = 60_000;

/// What is told, with the hours below which each is true.
const STEPS: [(&str, u64); 4] = [("<1h", 1), ("<6h", 6), ("<1d", 24), ("<7d", 168)];
/// What is told beyond them.
const LONG: &str = ">7d";

/// What is kept on one server is told when it comes to this part of the bound, and until it is below half of that: fallbacks
/// keep a little everywhere all the time, and of a server without more the summary says all there is to say.
const TOLD_FROM_PART: u64 = 4;

/// How long the bound lasts at the present rate of the primary; what was told last as long as the rate is not known.
pub(super) fn lasts(view: &View<'_>) -> Option<String> {
    let told = view.previous.and_then(|status| status.summary.as_ref()?.retained_wal_lasts.clone());
    told_of(view, view.desired.limits.retained_wal_bytes, told)
}

/// How long what is left of the bound lasts on a server where idle slots keep much already, given what was told of it.
pub(super) fn lasts_on(view: &View<'_>, node: &NodeName, told: Option<&NodeStatus>) -> Option<String> {
    let (kept, bound) = (*view.plan.retained_bytes.get(node)?, view.desired.limits.retained_wal_bytes);
    let told = told.and_then(|told| told.retained_wal_lasts.clone());
    let part = if told.is_some() { TOLD_FROM_PART * 2 } else { TOLD_FROM_PART };
    let much = kept >= (bound / part).max(1);
    much.then(|| told_of(view, bound.saturating_sub(kept), told))?
}

fn told_of(view: &View<'_>, bytes: u64, told: Option<String>) -> Option<String> {
    let samples = &view.observed.memory.samples;
    let minutes = samples.front().zip(samples.back()).and_then(|(first, last)| minutes(bytes, first, last));
    match minutes {
        Some(minutes) => Some(step(minutes, told.as_deref()).to_owned()),
        None => told,
    }
}

/// How long so many bytes take to be written.
fn minutes(bytes: u64, first: &Sample, last: &Sample) -> Option<u64> {
    let milliseconds = last.at.since(first.at);
    let written = last.position.bytes_since(first.position).max(1);
    let lasts = u128::from(bytes) * u128::from(milliseconds) / u128::from(written) / 60_000;
    (milliseconds >= RATE_MILLISECONDS).then(|| u64::try_from(lasts).unwrap_or(u64::MAX))
}

/// The step of so many minutes. The one told last is kept until they are twice outside it, as a rate is never quite the same.
fn step(minutes: u64, told: Option<&str>) -> &'static str {
    let plain = |minutes: u64| STEPS.iter().find(|(_, hours)| minutes < hours * 60).map_or(LONG, |(name, _)| *name);
    let near = [plain(minutes), plain(minutes / 2), plain(minutes.saturating_mul(2))];
    near.into_iter().find(|name| Some(*name) == told).unwrap_or(near[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, Millis};

    fn sample(seconds: u64, position: u64) -> Sample {
        Sample { at: Millis(seconds * 1000), timeline: None, position: Lsn(position) }
    }

    #[test]
    fn a_bound_lasts_as_long_as_the_primary_takes_to_write_it() {
        // 1 MiB a second: 10 GiB in 2.8 hours.
        assert_eq!(minutes(10 << 30, &sample(0, 0), &sample(100, 100 << 20)), Some(170));
        assert_eq!(minutes(10 << 30, &sample(0, 0), &sample(59, 59 << 20)), None);
        assert_eq!(minutes(u64::MAX, &sample(0, 5), &sample(60, 5)), Some(u64::MAX));
    }

    #[test]
    fn what_was_told_is_kept_until_it_is_clearly_wrong() {
        let hours = |hours: u64| hours * 60;
        assert_eq!(step(hours(3), None), "<6h");
        assert_eq!(step(hours(7), Some("<6h")), "<6h");
        assert_eq!(step(hours(13), Some("<6h")), "<1d");
        assert_eq!(step(hours(4), Some("<1d")), "<1d");
        assert_eq!(step(hours(2), Some("<1d")), "<6h");
        assert_eq!(step(u64::MAX, None), ">7d");
    }
}
