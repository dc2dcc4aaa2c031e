//! Simulated fleets. Scenes, readable as documentation: each file of `tests/scripts` is its own expected output, and
//! `WALTREE_BLESS=1` writes down what they tell now; those of `tests/scripts/calibration` are played on real servers as well
//! (`tests/calibration.rs`). And days of random faults, by seed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read its scripts has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use waltree::model::NodeName;
use waltree::simulate::script::play;
use waltree::simulate::shape::Shape;
use waltree::simulate::{Drama, Soak};

/// The longest script that a person reads to its end, in lines.
const LINES_MAX: usize = 150;

/// The scripts of a folder, which has at least so many.
fn scripts(folder: &str, least: usize) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= least, "only {} scripts in {}", paths.len(), folder.display());
    paths
}

#[test]
fn every_script_tells_what_it_told() {
    let paths = [scripts("tests/scripts", 25), scripts("tests/scripts/calibration", 10)].concat();
    let mut wrong = Vec::new();
    for path in &paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let written = fs::read_to_string(path).unwrap();
        let told = play(&written, 1);
        if std::env::var_os("WALTREE_BLESS").is_some() {
            // Errors name the lines of the file, which are others when it told something else before.
            fs::write(path, play(&told, 1)).unwrap();
        } else if told != written {
            let mut lines = written.lines().zip(told.lines()).enumerate();
            let first = lines.find(|(_, (written, told))| written != told);
            wrong.push(format!("{name} tells something else; the first difference: {first:?}"));
        }
        if told.contains("BROKEN") || told.contains("not as declared:") {
            wrong.push(format!("{name} breaks a law"));
        }
        if !told.starts_with('#') || told.lines().count() > LINES_MAX {
            wrong.push(format!("{name} does not begin with what it is about, or is longer than {LINES_MAX} lines"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The same seeds in every run, so that a red test is red again; `waltree simulate --hours` plays others.
#[test]
fn days_of_random_faults_break_no_law_and_end_as_declared() {
    for seed in 1..4 {
        let report = Soak { seed, nodes: 30, hours: 12 }.run();
        let report = report.unwrap_or_else(|broken| panic!("{broken}"));
        assert!(report.moves > 0 && report.faults.len() >= 10, "little happened: {report:?}");
    }
}

/// Its relays are full, so that some of its leaves find no place below the other one.
#[test]
fn a_relay_that_lags_counts_among_the_streams_that_its_region_takes() {
    let mut shape = Shape::default();
    shape.group(&["core", "3"]).unwrap();
    shape.group(&["eu", "10", "relays=2", "upstreams=core", "region=eu", "fanOut=4"]).unwrap();
    let first = NodeName::new("core-1").unwrap();
    let mut drama = Drama::new(shape.spec().unwrap(), 1, |_| first.clone()).unwrap();
    assert!(drama.rest(600_000));
    drama.strike(&"slow eu-1 100000".parse().unwrap());
    let mut moved = false;
    for _ in 0..120 {
        drama.pass(1_000);
        let wanted = drama.plan().wanted;
        let mut from: Vec<(&str, &str)> = Vec::new();
        for (node, route) in wanted.iter().filter(|(node, _)| node.as_str().starts_with("eu")) {
            from.push((node.as_str(), route.first().map_or("", |first| first.as_str())));
        }
        let crossing = from.iter().filter(|(_, up)| up.starts_with("core")).count();
        assert!(crossing <= 2, "{from:?}");
        moved |= from.iter().filter(|(_, up)| *up == "eu-2").count() > 4;
    }
    assert!(moved, "nobody left it");
}

#[test]
fn a_script_is_told_the_same_by_the_same_seed_and_a_wrong_command_is_an_error() {
    let script =
        "> group core 1\n> group eu 3 relays=1 upstreams=core\n> begin\n> rest\n> kill eu-1\n> tick 9s\n> show\n";
    assert_eq!(play(script, 7), play(script, 7));
    assert!(play("> begin\n> dance\n", 1).contains("error: "));
    assert!(play("> show\n", 1).contains("error: line 1: nothing has begun"));
    assert!(
        play("> group core 1\n> begin\n> group eu 1 upstreams=core\n", 1)
            .contains("error: line 3: the fleet has begun")
    );
}
