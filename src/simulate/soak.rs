//! Thousands of hours of random faults, by seed. The laws are checked at every moment; after each bad day the tree has to
//! be as declared again. What breaks a law is told as a script, with everything left out that it does not need.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::days::{Scene, bad_day};
use super::drama::{Drama, Told};
use super::laws;
use super::shape::Shape;
use super::{Dice, Fault};
use crate::model::{Millis, NodeName};

/// The longest time in which a tree has to be as declared again once everything is mended, in milliseconds: settling
/// times double with each refusal in a row, and moves go a few at a time.
const REST_MILLISECONDS: u64 = 1_800_000;
/// The primary in the beginning.
const FIRST: &str = "core-1";
/// The longest time that a tree is given to heal while faults stand, in milliseconds: longer than a silent server is believed
/// in, and than whoever was lost settles.
const STAND_MILLISECONDS: u64 = 240_000;
/// On one of so many days it is given that.
const STAND_ONE_OF: usize = 3;
/// Leaves of a region; it has two relays.
const LEAVES: usize = 14;
/// The longest calm time between two bad days, in milliseconds.
const CALM_MILLISECONDS: usize = 3_600_000;
/// Of so many calm times one is played in full.
const CALM_IN_FULL_ONE_OF: usize = 20;
/// Whether one day alone broke a law is asked first, then two, up to so many; then twice as many each time.
const DAYS_EACH: usize = 4;
/// A script is made shorter as long as no more days than these were played for it: each takes some milliseconds.
const DAYS_PLAYED_MAX: usize = 5_000;

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
    /// How much of it passed at once, as nothing happened, in milliseconds.
    pub skipped_milliseconds: u64,
    /// Calm time that was played in full although nothing happens in it, and nothing did, in milliseconds.
    pub calm_milliseconds: u64,
    /// Bad days.
    pub days: u64,
    /// Days on which the tree was given time to heal while faults stood.
    pub stood: u64,
    /// On how many of those it came to rest.
    pub rested: u64,
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
        self.skipped_milliseconds += other.skipped_milliseconds;
        self.calm_milliseconds += other.calm_milliseconds;
        self.days += other.days;
        self.stood += other.stood;
        self.rested += other.rested;
        self.passes += other.passes;
        self.moves += other.moves;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}

/// A law that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {what}\n# waltree simulate FILE --seed {seed}\n{script}")]
pub struct Broken {
    /// By which seed.
    pub seed: u64,
    /// Which law and how.
    pub what: String,
    /// What to play to see it again.
    pub script: String,
}

/// A bad day, and the calm before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Day {
    /// Who was the primary when it began.
    primary: NodeName,
    calm_milliseconds: u64,
    /// The calm is played in full.
    calm_in_full: bool,
    scenes: Vec<Scene>,
    /// After those scenes that are due by then the tree is given time to heal, with its faults standing.
    stands_at: Option<u64>,
}

impl Soak {
    /// Plays until the time is over.
    ///
    /// # Errors
    /// The first law that is broken.
    pub fn run(&self) -> Result<Report, Broken> {
        let broken = |what: String, script: String| Broken { seed: self.seed, what, script };
        let shape = shape(self.nodes, self.seed).map_err(|what| broken(what, String::new()))?;
        let mut dice = Dice(self.seed);
        let first = NodeName::new(FIRST).map_err(|bad| broken(bad.to_string(), String::new()))?;
        let mut drama = begin(&shape, self.seed, &first).map_err(|what| broken(what, script(&shape, &[])))?;
        let mut days: Vec<Day> = Vec::new();
        let began = drama.now();
        let end = began.plus(self.hours.saturating_mul(3_600_000));
        let mut report = Report { servers: drama.desired().nodes.len(), ..Report::default() };
        while drama.now() < end {
            let calm_milliseconds = dice.below(CALM_MILLISECONDS) as u64;
            let calm_in_full = dice.below(CALM_IN_FULL_ONE_OF) == 0;
            let Some(primary) = primary(&drama) else { break };
            let stands = dice.below(STAND_ONE_OF) == 0;
            let scenes = bad_day(&drama, &primary, &mut dice);
            for (_, fault) in &scenes {
                let kind = fault.to_string().split(' ').next().unwrap_or_default().to_owned();
                *report.faults.entry(kind).or_default() += 1;
            }
            let stands_at = Some(&mut dice).filter(|_| stands).and_then(|dice| stands_at(&scenes, dice));
            let day = Day { primary, calm_milliseconds, calm_in_full, scenes, stands_at };
            let lived = live_through(&mut drama, &day, dice.below(10) == 0);
            days.push(day);
            report.days += 1;
            report.calm_milliseconds += if calm_in_full { calm_milliseconds } else { 0 };
            report.stood += u64::from(stands_at.is_some());
            report.rested += u64::from(lived.as_ref().is_ok_and(|rested| *rested));
            if let Err(what) = lived {
                let breaks = |days: &[Day]| breaks(&shape, self.seed, days);
                return Err(broken(what, retold(&shape, &days, breaks)));
            }
        }
        report.milliseconds = drama.now().since(began);
        (report.passes, report.moves) = (drama.counts().passes, drama.counts().moves);
        report.skipped_milliseconds = drama.counts().skipped_milliseconds;
        Ok(report)
    }
}

/// A root group of three, and regions of two relays and their leaves, in three zones. By the seed every second region hangs
/// below the one before it, or relays have no more places than their leaves need.
fn shape(nodes: usize, seed: u64) -> Result<Shape, String> {
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
    let (deep, tight) = (seed % 3 == 1, seed % 3 == 2);
    let places = format!("fanOut={}", (2 + 2 * regions.len()).max(8));
    shape.group(&["core", "3", "zones=a,b,c", &places])?;
    for (i, size) in regions.iter().enumerate() {
        let (name, size) = (format!("r{}", i + 1), size.to_string());
        let upstreams = if deep && i % 2 == 1 { format!("upstreams=r{i}") } else { "upstreams=core".to_owned() };
        shape.group(&[&name, &size, "relays=2", &upstreams, &format!("region={name}"), "zones=a,b,c"])?;
    }
    if tight {
        shape.set(&["limits.fanOut", "7"])?;
    }
    shape.set(&["healing.settleSeconds", "20"])?;
    // What is written in two minutes: some of those that are away come back to slots that were given up.
    shape.set(&["limits.retainedWal", "128Mi"])?;
    Ok(shape)
}

fn begin(shape: &Shape, seed: u64, primary: &NodeName) -> Result<Drama, String> {
    let spec = shape.spec()?;
    let first = NodeName::new(FIRST).map_err(|bad| bad.to_string())?;
    let mut drama = Drama::new(spec, seed, |_| first.clone()).map_err(|rejections| rejections[0].to_string())?;
    drama.cluster().world().settings.feedback = true;
    settle(&mut drama, true)?;
    if *primary != first {
        for fault in hand_over(&first, primary) {
            drama.strike(&fault);
        }
        settle(&mut drama, true)?;
    }
    Ok(drama)
}

/// Who takes writes.
fn primary(drama: &Drama) -> Option<NodeName> {
    drama.cluster().world().newest_primary().cloned()
}

/// Makes another the primary.
fn hand_over(from: &NodeName, to: &NodeName) -> [Fault; 3] {
    [Fault::Kill(from.clone()), Fault::Promote(to.clone()), Fault::Reclone(from.clone())]
}

/// When the tree is given time to heal: after one of the first things that happen, as what happens last are mendings.
fn stands_at(scenes: &[Scene], dice: &mut Dice) -> Option<u64> {
    let first = &scenes[..scenes.len().div_ceil(2)];
    dice.pick(first).map(|(at, _)| *at)
}

/// The calm before a bad day. That nothing happens in it, which [`Drama::skip`] relies on, is seen where it is played in full.
fn calm(drama: &mut Drama, day: &Day) -> Result<(), String> {
    if !day.calm_in_full {
        drama.skip(day.calm_milliseconds);
        return Ok(());
    }
    let moves_before = drama.counts().moves;
    // What is told for a while after it is over, as a crash loop is, has its end in no fault.
    let mut left = day.calm_milliseconds;
    while left > 0 && !drama.findings().is_empty() {
        if let Some((node, told)) = drama.findings().iter().next()
            && day.calm_milliseconds - left >= REST_MILLISECONDS
        {
            return Err(format!(
                "no calm: {node} is told {told} after {REST_MILLISECONDS} ms in which nothing happened"
            ));
        }
        let step = left.min(60_000);
        drama.pass(step);
        left -= step;
    }
    let changes_before = drama.counts().status_changes;
    drama.pass(left);
    let now = drama.counts();
    let (moves, changes) = (now.moves - moves_before, now.status_changes - changes_before);
    if moves + changes == 0 {
        return Ok(());
    }
    Err(format!("no calm: {moves} routes set, {changes} other statuses in {} ms of calm", day.calm_milliseconds))
}

/// Whether the tree came to rest while faults stood; `Err` when a law is broken.
fn live_through(drama: &mut Drama, day: &Day, look_closely: bool) -> Result<bool, String> {
    calm(drama, day)?;
    let (before, after): (Vec<_>, Vec<_>) =
        day.scenes.iter().partition(|(at, _)| day.stands_at.is_none_or(|stands_at| *at <= stands_at));
    let mut rested = false;
    let mut began = drama.now();
    strike(drama, began, &before);
    if day.stands_at.is_some() {
        let stood_since = drama.now();
        rested = drama.rest(STAND_MILLISECONDS);
        if let Some(what) = drama.broken_while_faults_stand().into_iter().next() {
            return Err(what);
        }
        began = began.plus(drama.now().since(stood_since));
    }
    strike(drama, began, &after);
    // Whatever order a day's mending came in: in the end everything runs.
    drama.mend();
    settle(drama, look_closely).map(|()| rested)
}

fn strike(drama: &mut Drama, began: Millis, scenes: &[&Scene]) {
    for (at, fault) in scenes {
        let due = began.plus(*at);
        drama.pass_quietly(due.since(drama.now()));
        drama.strike(fault);
    }
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

/// Whether a law is broken by these days in a world that begins anew.
fn breaks(shape: &Shape, seed: u64, days: &[Day]) -> bool {
    let Some(first) = days.first() else { return false };
    begin(shape, seed, &first.primary)
        .is_ok_and(|mut drama| days.iter().any(|day| live_through(&mut drama, day, true).is_err()))
}

/// As few of the last days as break a law, without what they can do without: each thing is left out that still leaves it
/// broken.
fn retold(shape: &Shape, days: &[Day], breaks: impl Fn(&[Day]) -> bool) -> String {
    let all = days.len();
    let more =
        std::iter::successors(Some(2 * DAYS_EACH), |count| count.checked_mul(2)).take_while(|count| *count < all);
    let mut counts = (1..=DAYS_EACH.min(all)).chain(more).chain([all]);
    let Some(count) = counts.find(|count| breaks(&days[all - count..])) else {
        return format!("# The last {all} bad days alone break nothing: only the whole seed shows it.\n");
    };
    let mut days = days[all - count..].to_vec();
    let mut left = DAYS_PLAYED_MAX;
    let mut breaks = |days: &[Day]| {
        left = left.saturating_sub(days.len());
        left > 0 && breaks(days)
    };
    // Of many days most are of no account: half of them go at once, or a quarter, at last one.
    let mut size = days.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < days.len() {
            let mut without = days.clone();
            without.drain(at..days.len().min(at + size));
            if !without.is_empty() && breaks(&without) {
                days = without;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    for day in 0..days.len() {
        let mut at = 0;
        while at < days[day].scenes.len() {
            let mut without = days.clone();
            without[day].scenes.remove(at);
            if breaks(&without) {
                days = without;
            } else {
                at += 1;
            }
        }
    }
    script(shape, &days)
}

/// The tree is given time to heal.
const STAND: &str = "> rest 240s\n";

fn script(shape: &Shape, days: &[Day]) -> String {
    let mut text = shape.to_string();
    text.push_str("> begin\n> postgres hot_standby_feedback on\n> quietly rest\n");
    if let Some((first, day)) = NodeName::new(FIRST).ok().zip(days.first()).filter(|(first, day)| day.primary != *first)
    {
        for fault in hand_over(&first, &day.primary) {
            let _ = writeln!(text, "> {fault}");
        }
        text.push_str("> quietly rest\n");
    }
    for day in days {
        let quietly = if day.calm_in_full { "" } else { "quietly " };
        let _ = writeln!(text, "> {quietly}tick {}ms", day.calm_milliseconds);
        let mut now = 0;
        let mut stands_at = day.stands_at;
        for (at, fault) in &day.scenes {
            if stands_at.take_if(|stands_at| at > stands_at).is_some() {
                text.push_str(STAND);
            }
            let _ = write!(text, "> tick {}ms\n> {fault}\n", at - now);
            now = *at;
        }
        if stands_at.is_some() {
            text.push_str(STAND);
        }
        text.push_str("> mend all\n> rest 30m\n> lose any\n");
    }
    text.push_str("> show\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::script::play;

    fn day(words: &[&str]) -> Day {
        let scenes = words.iter().zip(1..).map(|(words, second)| (second * 1_000, words.parse().unwrap())).collect();
        Day {
            primary: NodeName::new(FIRST).unwrap(),
            calm_milliseconds: 60_000,
            calm_in_full: false,
            scenes,
            stands_at: None,
        }
    }

    #[test]
    fn what_breaks_a_law_is_retold_with_nothing_that_it_does_not_need_as_a_script_that_can_be_played() {
        let shape = shape(8, 0).unwrap();
        let days = [
            day(&["pause r1-3"]),
            day(&["kill r1-1", "start r1-1", "pause r1-4"]),
            day(&["freeze r1-2", "drop-slot r1-3 core-2", "thaw r1-2"]),
        ];
        let has =
            |days: &[Day], words: &str| days.iter().any(|day| day.scenes.iter().any(|(_, f)| f.to_string() == words));
        let told = retold(&shape, &days, |days| has(days, "kill r1-1") && has(days, "drop-slot r1-3 core-2"));
        let faults = ["kill", "start", "freeze", "thaw", "pause", "drop-slot"];
        let is_fault = |line: &&str| faults.iter().any(|fault| line.starts_with(&format!("> {fault} ")));
        assert_eq!(told.lines().filter(is_fault).collect::<Vec<_>>(), ["> kill r1-1", "> drop-slot r1-3 core-2"]);
        let played = play(&told, 1);
        assert!(!played.contains("error: ") && !played.contains("BROKEN"), "{played}");
        assert!(retold(&shape, &days, |_| false).starts_with("# The last 3 bad days alone break nothing"));
    }

    #[test]
    fn what_takes_more_than_the_last_days_is_retold_too_and_by_which_seed_it_is_played_is_said() {
        let shape = shape(8, 0).unwrap();
        let calm = |count: usize| std::iter::repeat_n(day(&["pause r1-3", "resume r1-3"]), count);
        let days: Vec<Day> = calm(50)
            .chain([day(&["kill r1-1"])])
            .chain(calm(20))
            .chain([day(&["freeze r1-2"])])
            .chain(calm(6))
            .collect();
        let is = |day: &Day, words: &str| day.scenes.first().is_some_and(|(_, fault)| fault.to_string() == words);
        let at = |days: &[Day], words: &str| days.iter().position(|day| is(day, words));
        let both = |days: &[Day]| at(days, "kill r1-1").is_some_and(|kill| at(days, "freeze r1-2") > Some(kill));
        let script = retold(&shape, &days, both);
        let faults = ["> kill ", "> freeze ", "> pause ", "> resume "];
        let told: Vec<&str> =
            script.lines().filter(|line| faults.iter().any(|fault| line.starts_with(fault))).collect();
        assert_eq!(told, ["> kill r1-1", "> freeze r1-2"], "{script}");
        let broken = Broken { seed: 7, what: "law 1".to_owned(), script }.to_string();
        assert!(broken.starts_with("seed 7: law 1\n# waltree simulate FILE --seed 7\n> group core "), "{broken}");
        assert!(!play(&broken, 7).contains("error: "), "{broken}");
    }
}
