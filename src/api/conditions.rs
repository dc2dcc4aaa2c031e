//! Conditions: which there are, and how one is set.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Reason;

/// Every condition of a topology. All but the last are good when True.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display, strum::EnumIter, strum::IntoStaticStr)]
pub enum ConditionType {
    /// The spec can be acted on.
    Accepted,
    /// Accepted, Writable and Serving.
    Ready,
    /// The primary is seen, and takes writes.
    Writable,
    /// Every group has a node that is rooted and not lagging.
    Serving,
    /// Every node has a proven path of advancing WAL to the primary.
    Rooted,
    /// Every fallback of every route would work if it were needed now.
    FallbacksReady,
    /// The tree is as declared.
    Converged,
    /// Something is being done right now.
    Progressing,
}

/// True, False or Unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum Truth {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It could not be seen whether it is so.
    Unknown,
}

/// What is to be said about one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Is it so.
    pub truth: Truth,
    /// Why, in one word.
    pub reason: Reason,
    /// What was seen, and at the end what to do or "Nothing to do."
    pub message: String,
}

impl Verdict {
    /// A verdict from its three parts.
    pub fn new(truth: Truth, reason: impl Into<Reason>, message: impl Into<String>) -> Self {
        Self { truth, reason: reason.into(), message: message.into() }
    }
}

/// A point of wall time as the API stores it, in whole seconds: a finer one would differ from what is read back, and
/// every comparison with the stored status would find a change.
pub fn stored(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// Says what is so about `kind`. `lastTransitionTime` moves only when the status does.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: ConditionType,
    verdict: Verdict,
    generation: i64,
    now: Timestamp,
) {
    let type_ = kind.to_string();
    let status = verdict.truth.to_string();
    let place = conditions.iter().position(|known| known.type_ == type_);
    let since = place
        .and_then(|place| conditions.get(place))
        .filter(|known| known.status == status)
        .map_or_else(|| stored(now), |known| known.last_transition_time.clone());
    let condition = Condition {
        type_,
        status,
        reason: verdict.reason.to_string(),
        message: verdict.message,
        observed_generation: Some(generation),
        last_transition_time: since,
    };
    match place.and_then(|place| conditions.get_mut(place)) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// The condition of a type, when it was ever set.
pub fn condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    let kind: &str = kind.into();
    conditions.iter().find(|known| known.type_ == kind)
}

/// Whether a condition is True.
pub fn is_true(conditions: &[Condition], kind: ConditionType) -> bool {
    condition(conditions, kind).is_some_and(|known| known.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::reason::Plain;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_does() {
        let mut conditions = Vec::new();
        let mut set = |truth, reason: Plain, second| {
            set_condition(&mut conditions, ConditionType::Rooted, Verdict::new(truth, reason, "m"), 1, at(second));
            let known = condition(&conditions, ConditionType::Rooted).unwrap();
            (known.last_transition_time.0, known.reason.clone(), conditions.len())
        };
        assert_eq!(set(Truth::True, Plain::AllRooted, 10), (at(10), "AllRooted".to_owned(), 1));
        assert_eq!(set(Truth::True, Plain::AsDeclared, 20), (at(10), "AsDeclared".to_owned(), 1));
        assert_eq!(set(Truth::False, Plain::Unrooted, 30), (at(30), "Unrooted".to_owned(), 1));
    }

    #[test]
    fn a_stored_time_has_whole_seconds() {
        let time = Timestamp::from_millisecond(10_999).unwrap();
        assert_eq!(stored(time).0, at(10));
    }
}
