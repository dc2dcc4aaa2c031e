//! Where each diagnosis is made for real: every one has a test on real servers, which waits until it is told, looks at what
//! readers see, and waits until it is over. This table is the index, and its test fails when one is missing, or when a test
//! named here does not wait for it any more, or for its end, or reads no row.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use strum::IntoEnumIterator as _;
use waltree::model::Diagnosis::{self, *};

const MADE_FOR_REAL: [(Diagnosis, &str, &str); 41] = [
    (ForeignServer, "bad_input.rs", "a_server_of_another_cluster_is_named_and_never_touched"),
    (VersionTooOld, "bad_input/settings.rs", "postgresql_14_is_named_and_never_touched"),
    (SameServer, "bad_input/twice.rs", "a_standby_that_is_in_the_spec_twice_is_named_and_left_as_it_is"),
    (TwoPrimaries, "faults_history.rs", "two_servers_that_take_writes_are_named_and_nobody_is_moved_until_one_is_left"),
    (ForeignPrimary, "faults_history.rs", "a_leaf_that_somebody_promoted_is_named_and_nobody_follows_it"),
    (BlindOperator, "faults.rs", "an_operator_that_most_servers_do_not_answer_moves_nobody"),
    (ZoneDown, "faults.rs", "a_zone_that_goes_down_is_told_once_and_healed_around"),
    (DeadPrimary, "faults.rs", "while_the_primary_is_dead_nobody_is_moved"),
    (HungPrimary, "faults_routes.rs", "while_the_primary_is_frozen_it_is_named_and_nobody_is_moved"),
    (DeadRelay, "faults.rs", "a_leaf_with_paused_replay_follows_when_it_goes_on"),
    (HungRelay, "faults.rs", "a_frozen_relay_is_left_and_gets_its_leaves_back"),
    (DeadLeaf, "faults.rs", "a_leaf_that_dies_is_named_and_comes_back_to_where_it_was"),
    (HungLeaf, "faults.rs", "a_frozen_leaf_is_named_although_its_upstream_shows_it_streaming"),
    (CrashLoop, "faults.rs", "a_server_that_crashes_again_and_again_is_named"),
    (Unseen, "bad_input.rs", "a_wrong_password_is_named_and_shown_nowhere"),
    (Diverged, "faults_history.rs", "servers_beyond_the_fork_of_a_promotion_are_named"),
    (Diverged, "faults_history.rs", "a_leaf_that_was_a_primary_for_a_while_is_named_and_takes_nobody_with_it"),
    (DuplicateName, "faults_identity.rs", "a_copy_that_took_a_fallbacks_slot_is_named_and_the_leaf_goes_on_elsewhere"),
    (Ring, "faults_routes.rs", "a_ring_that_nobody_may_break_is_named_and_broken_by_who_may"),
    (WrongUpstream, "faults_routes.rs", "a_leaf_that_somebody_pointed_to_a_server_outside_is_named_and_pointed_back"),
    (WalGone, "faults.rs", "a_leaf_whose_wal_is_gone_everywhere_is_named_and_never_cloned"),
    (
        ReplayBlocked,
        "faults_replay.rs",
        "a_leaf_whose_replay_is_held_up_by_a_reader_is_named_and_follows_when_the_reader_is_done",
    ),
    (DiskFull, "faults_disk.rs", "a_leaf_whose_disk_is_full_is_named_and_goes_on_when_there_is_space"),
    (WalReceiverStuck, "faults.rs", "a_leaf_whose_walreceiver_does_not_end_is_named"),
    (MissingSlot, "faults_slots.rs", "a_slot_that_is_gone_and_finds_no_place_is_named_and_made_when_there_is_one"),
    (LostSlot, "faults_slots.rs", "a_slot_that_was_invalidated_is_named_and_made_anew_and_its_leaf_fed"),
    (
        ZombieSlot,
        "faults_slots.rs",
        "a_connection_that_vanished_without_a_word_is_ended_where_we_may_and_its_leaf_comes_back",
    ),
    (CutOffRelay, "faults_network.rs", "a_relay_from_which_every_packet_of_its_upstream_is_lost_is_left"),
    (CutOffLeaf, "faults_routes.rs", "a_leaf_that_its_relay_does_not_let_in_is_named_fed_elsewhere_and_asked_back"),
    (HalfRelay, "faults.rs", "a_relay_that_lets_nobody_in_is_left_by_those_who_need_it"),
    (LaggingRelay, "faults_network.rs", "a_relay_that_lags_loses_its_leaves_and_gets_them_back"),
    (LaggingLeaf, "faults_network.rs", "a_leaf_that_lags_is_named_and_nobody_is_moved"),
    (
        LaggingLeaf,
        "faults_replay.rs",
        "a_leaf_that_replays_late_is_named_and_a_relay_that_does_is_not_as_it_passes_all_on",
    ),
    (SlotHoldsXmin, "faults_slots.rs", "a_slot_that_holds_back_vacuum_and_cannot_be_cleared_is_named_until_it_can"),
    (ParameterTooLow, "faults.rs", "a_parameter_below_that_of_the_primary_is_named_with_both_values"),
    (OtherWriter, "bad_input/settings.rs", "a_route_that_somebody_else_sets_is_put_back_three_times_and_then_left"),
    (
        SlotRemovedByOther,
        "below_patroni.rs",
        "slots_that_patroni_drops_are_named_with_the_cure_and_made_again_without_a_fight",
    ),
    (AlterSystemOff, "bad_input/settings.rs", "a_server_that_allows_no_alter_system_is_named_and_left_where_it_is"),
    (
        MissingGrant,
        "faults_routes.rs",
        "a_right_that_is_missing_is_named_with_the_sql_that_grants_it_and_nothing_is_written_until_then",
    ),
    (UnusableConninfo, "bad_input/settings.rs", "a_password_in_primary_conninfo_is_refused_and_shown_nowhere"),
    (Settling, "cli_answers.rs", "a_relay_that_was_mended_gets_its_leaves_back_when_it_is_acknowledged_and_not_before"),
];

/// How a test reads rows: those that are written now, or a table that is there or not.
const READS: [&str; 7] =
    ["fed_by(", "receives_from(", "flows(", "untouched(", "to_regclass(", "misses(", "MISSES_BEYOND"];

/// How a test waits for the end of a diagnosis: in so many words, or until the tree is as declared.
const OVER: &str = "over(";
const AS_DECLARED: &str = "as_declared(";

/// Whether a test goes on to wait for the end of a diagnosis once it was told. A tree is as declared in spite of one that is
/// no failure.
fn waits_for_the_end(body: &str, diagnosis: Diagnosis) -> bool {
    let after = body.split_once(&format!("\"{diagnosis}\"")).map_or("", |(_, after)| after);
    after.contains(&format!("{OVER}\"{diagnosis}\"")) || (diagnosis.is_failure() && after.contains(AS_DECLARED))
}

/// The text of a test, from its name to the brace that ends it.
fn test<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (before, from) = text.split_once(&format!("async fn {name}("))?;
    let attribute = before.trim_end().lines().next_back()?;
    attribute.starts_with("#[tokio::test").then_some(from.split("\n}\n").next()?)
}

#[test]
fn every_diagnosis_has_a_test_that_makes_it_for_real_and_waits_for_it() {
    let mut wrong = Vec::new();
    for (diagnosis, file, name) in MADE_FOR_REAL {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file)).unwrap();
        match test(&text, name) {
            None => wrong.push(format!("{file} has no test {name}")),
            Some(body) if !body.contains(&format!("\"{diagnosis}\"")) => {
                wrong.push(format!("{name} does not wait for {diagnosis}"));
            }
            Some(body) if !waits_for_the_end(body, diagnosis) => {
                wrong.push(format!("{name} does not wait for the end of {diagnosis}"));
            }
            Some(body) if !READS.iter().any(|read| body.contains(read)) => wrong.push(format!("{name} reads no row")),
            Some(_) => {}
        }
    }
    let named: BTreeSet<Diagnosis> = MADE_FOR_REAL.iter().map(|(diagnosis, ..)| *diagnosis).collect();
    wrong.extend(Diagnosis::iter().filter(|all| !named.contains(all)).map(|lacks| format!("{lacks} has no test")));
    assert_eq!(wrong, Vec::<String>::new());
}
