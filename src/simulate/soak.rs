//! Thousands of hours of random faults, by seed. The laws are checked at every moment; after each bad day the tree has to
//! be as declared again. What breaks a law is told as a script, with everything left out that it does not need.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::drama::{Drama, Told};
use super::laws;
use super::shape::Shape;
use super::{Dice, Fault, Place};
use crate::model::{Group, NodeName};

/// The longest time in which a tree has to be as declared again once everything is mended, in milliseconds: settling
/// times double with each refusal in a row, and moves go a few at a time.
const REST_MILLISECONDS: u64 = 1_800_000;
/// Leaves of a region; it has two relays.
const LEAVES: usize = 14;
/// The longest time until a fault is mended, in milliseconds.
const LASTS_MILLISECONDS: usize = 240_000;
/// The longest calm time between two bad days, in milliseconds.
const CALM_MILLISECONDS: usize = 3_600_000;

/// How long, how many, by which chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soak {
    /// The seed of everything.
    pub seed: u64,
    /// Servers.
    pub nodes: usize,
    /// Simulated time.
    pub hours: u64,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Servers of the fleet.
    pub servers: usize,
    /// Simulated time, in milliseconds.
    pub milliseconds: u64,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Passes of the operator.
    pub passes: u64,
    /// Routes set.
    pub moves: u64,
}

impl Report {
    /// Adds what was done by another seed.
    pub fn add(&mut self, other: Self) {
        self.servers = other.servers;
        self.milliseconds += other.milliseconds;
        self.passes += other.passes;
        self.moves += other.moves;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}

/// A law that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {what}\n{script}")]
pub struct Broken {
    /// By which seed.
    pub seed: u64,
    /// Which law and how.
    pub what: String,
    /// What to play to see it again.
    pub script: String,
}

/// One thing of a bad day: when, counted from its beginning in milliseconds, and what.
type Scene = (u64, Fault);

impl Soak {
    /// Plays until the time is over.
    ///
    /// # Errors
    /// The first law that is broken.
    pub fn run(&self) -> Result<Report, Broken> {
        let broken = |what: String, script: String| Broken { seed: self.seed, what, script };
        let shape = shape(self.nodes).map_err(|what| broken(what, String::new()))?;
        let mut dice = Dice(self.seed);
        let mut drama = begin(&shape, self.seed).map_err(|what| broken(what, script(&shape, &[])))?;
        let began = drama.now();
        let end = began.plus(self.hours.saturating_mul(3_600_000));
        let mut report = Report { servers: drama.desired().nodes.len(), ..Report::default() };
        while drama.now() < end {
            drama.skip(dice.below(CALM_MILLISECONDS) as u64);
            let day = bad_day(&drama, &mut dice);
            for (_, fault) in &day {
                let kind = fault.to_string().split(' ').next().unwrap_or_default().to_owned();
                *report.faults.entry(kind).or_default() += 1;
            }
            if let Err(what) = live_through(&mut drama, &day, dice.below(10) == 0) {
                let shorter = shorten(&shape, self.seed, day);
                return Err(broken(what, script(&shape, &shorter)));
            }
        }
        report.milliseconds = drama.now().since(began);
        (report.passes, report.moves) = (drama.counts().passes, drama.counts().moves);
        Ok(report)
    }
}

/// A root group of three, and regions of two relays and their leaves, in three zones.
fn shape(nodes: usize) -> Result<Shape, String> {
    let mut shape = Shape::default();
    let regions: Vec<usize> = {
        let mut left = nodes.saturating_sub(3).max(4);
        std::iter::from_fn(move || {
            let size = left.min(LEAVES + 2);
            left -= size;
            (size >= 3).then_some(size)
        })
        .collect()
    };
    let places = (2 + 2 * regions.len()).max(8);
    shape.group(&["core", "3", "zones=a,b,c", &format!("fanOut={places}")])?;
    for (i, size) in regions.iter().enumerate() {
        let (name, size) = (format!("r{}", i + 1), size.to_string());
        shape.group(&[&name, &size, "relays=2", "upstreams=core", &format!("region={name}"), "zones=a,b,c"])?;
    }
    shape.set(&["healing.settleSeconds", "20"])?;
    Ok(shape)
}

fn begin(shape: &Shape, seed: u64) -> Result<Drama, String> {
    let spec = shape.spec()?;
    let first = NodeName::new("core-1").map_err(|bad| bad.to_string())?;
    let mut drama = Drama::new(spec, seed, |_| first.clone()).map_err(|rejections| rejections[0].to_string())?;
    drama.cluster().world().settings.feedback = true;
    settle(&mut drama, true)?;
    Ok(drama)
}

/// Faults of one day and what mends each, in their order.
fn bad_day(drama: &Drama, dice: &mut Dice) -> Vec<Scene> {
    let mut day = Vec::new();
    let mut at = 0;
    for _ in 0..=dice.below(4) {
        at += dice.below(30_000) as u64;
        let Some(fault) = fault(drama, dice) else { continue };
        if let Some(undo) = fault.undo() {
            day.push((at + 1_000 + dice.below(LASTS_MILLISECONDS) as u64, undo));
        }
        day.push((at, fault));
    }
    day.sort_by_key(|(at, _)| *at);
    day
}

fn fault(drama: &Drama, dice: &mut Dice) -> Option<Fault> {
    let names: Vec<NodeName> = drama.desired().nodes.keys().cloned().collect();
    let feeders: Vec<NodeName> = drama.desired().groups.iter().flat_map(Group::feeders).cloned().collect();
    let root = drama.desired().root()?.members.clone();
    // Half of what happens, happens to those who feed others: there it matters.
    let node = if dice.below(2) == 0 { dice.pick(&names)? } else { dice.pick(&feeders)? }.clone();
    let (other, feeder) = (dice.pick(&feeders)?.clone(), dice.pick(&root)?.clone());
    let zone = ["a", "b", "c"][dice.below(3)].to_owned();
    Some(match dice.below(16) {
        0..=3 => Fault::Kill(node),
        4 => Fault::Freeze(node),
        5 if node != other => Fault::Cut(Place::Node(node), Place::Node(other)),
        6 => Fault::Cut(Place::Operator, Place::Node(node)),
        7 => Fault::CutZone(zone),
        8 => Fault::Pause(node),
        9 => Fault::Reject(node),
        10 => Fault::Lockout(node),
        11 => Fault::Slow(node, 100_000),
        12 if !root.contains(&node) => Fault::Repoint(node, feeder),
        13 if node != other => Fault::DropSlot(node, other),
        14 => Fault::OperatorStop,
        15 => Fault::OperatorDiesAfter(1 + dice.below(6)),
        _ => return None,
    })
}

fn live_through(drama: &mut Drama, day: &[Scene], look_closely: bool) -> Result<(), String> {
    let began = drama.now();
    for (at, fault) in day {
        let due = began.plus(*at);
        drama.pass_quietly(due.since(drama.now()));
        drama.strike(fault);
    }
    // Whatever order a day's mending came in: in the end everything runs.
    drama.mend();
    settle(drama, look_closely)
}

/// The tree comes to rest and is as declared.
fn settle(drama: &mut Drama, look_closely: bool) -> Result<(), String> {
    let rested = drama.rest(REST_MILLISECONDS);
    drama.take_told();
    if let Some(Told { what, .. }) = drama.take_violations().into_iter().next() {
        return Err(what);
    }
    let plan = drama.plan();
    let world = drama.cluster().world();
    let mut broken = laws::at_rest(&world, drama.desired(), &plan);
    if broken.is_empty() && look_closely {
        broken = laws::after_any_one_loss(&world, drama.desired());
    }
    match broken.into_iter().next() {
        Some(what) => Err(what),
        None if !rested => Err(format!("no rest within {} s", REST_MILLISECONDS / 1000)),
        None => Ok(()),
    }
}

/// The same day without what it can do without: each thing is left out that still leaves a law broken.
fn shorten(shape: &Shape, seed: u64, mut day: Vec<Scene>) -> Vec<Scene> {
    let breaks = |day: &[Scene]| begin(shape, seed).is_ok_and(|mut drama| live_through(&mut drama, day, true).is_err());
    let mut at = 0;
    while at < day.len() {
        let mut without = day.clone();
        without.remove(at);
        if breaks(&without) {
            day = without;
        } else {
            at += 1;
        }
    }
    day
}

fn script(shape: &Shape, day: &[Scene]) -> String {
    let mut text = shape.to_string();
    text.push_str("> begin\n> quietly rest\n");
    let mut now = 0;
    for (at, fault) in day {
        let _ = write!(text, "> tick {}ms\n> {fault}\n", at - now);
        now = *at;
    }
    text.push_str("> mend all\n> rest 30m\n> show\n");
    text
}
