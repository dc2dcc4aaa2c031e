//! A script of a simulated fleet, read for what its commands led to, so that the same can be asked of real servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use waltree::simulate::script::play;
use waltree::simulate::shape::Shape;

/// A diagnosis that the simulator takes back sooner than this, in milliseconds, may be missed or not: it is less than an
/// operator's tick.
const BRIEF_MILLISECONDS: u128 = 500;

/// A script, and what the simulator tells when it plays it.
pub struct Script {
    /// Its name.
    pub name: String,
    /// The topology.
    pub shape: Shape,
    /// The settings of PostgreSQL, lines of postgresql.conf.
    pub settings: String,
    /// The tree before the first command.
    pub formed: Picture,
    /// What is done, with what came of it.
    pub acts: Vec<(String, Course)>,
}

/// What one command led to.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// From whom each node came to receive, one after the other; only of those that changed.
    pub moves: BTreeMap<String, Vec<String>>,
    /// What was diagnosed: `DIAGNOSIS NODE`.
    pub told: BTreeSet<String>,
    /// What the simulator diagnosed for so short a time that nothing follows from whether it is seen.
    pub brief: BTreeSet<String>,
    /// When it came to each of these first, in milliseconds: `NODE receives from UPSTREAM`, or `DIAGNOSIS NODE`.
    pub first: BTreeMap<String, u128>,
    /// The tree then.
    pub tree: Picture,
}

/// What holds while a script is told: from whom each node received last, and what was diagnosed of it last, and when.
#[derive(Default)]
struct Now {
    last: BTreeMap<String, String>,
    diagnosed: BTreeMap<String, (u128, String)>,
}

/// Who receives from whom, and the route of each standby.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// From whom each node receives; a server that does not go on receives from nobody.
    pub streams: BTreeMap<String, String>,
    /// The upstreams of each standby in their order.
    pub routes: BTreeMap<String, Vec<String>>,
}

impl Course {
    /// Notes that a node receives from another, which is a move when it received from somebody else before.
    pub fn receives(&mut self, node: &str, from: &str, at: u128, last: &mut BTreeMap<String, String>) {
        self.first.entry(format!("{node} receives from {from}")).or_insert(at);
        if last.insert(node.to_owned(), from.to_owned()).as_deref() != Some(from) {
            self.moves.entry(node.to_owned()).or_default().push(from.to_owned());
        }
    }

    /// Notes a diagnosis.
    pub fn is_told(&mut self, diagnosis: String, at: u128) {
        self.first.entry(diagnosis.clone()).or_insert(at);
        self.told.insert(diagnosis);
    }
}

impl Script {
    /// Plays a script and reads what it tells. Each command that is no part of the topology is followed by one that lets
    /// time pass and by `show`.
    pub fn read(path: &Path, is_compared: impl Fn(&str) -> bool) -> Self {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (shape, settings) = (Shape::default(), String::new());
        let mut this = Self { name, shape, settings, formed: Picture::default(), acts: Vec::new() };
        let mut now = Now::default();
        let told = play(&std::fs::read_to_string(path).unwrap(), 1);
        for scene in told.split("\n> ").skip(1) {
            let (command, told) = scene.split_once('\n').unwrap_or((scene, ""));
            let told = told.lines().take_while(|line| !line.is_empty());
            match command.split(' ').collect::<Vec<_>>().as_slice() {
                ["group", words @ ..] => this.shape.group(words).unwrap(),
                ["set", words @ ..] => this.shape.set(words).unwrap(),
                ["postgres", setting, value] => writeln!(this.settings, "{setting} = {value}").unwrap(),
                ["begin"] | ["quietly", ..] => {}
                ["rest" | "tick", ..] => {
                    let course = &mut this.acts.last_mut().unwrap().1;
                    now.diagnosed.clear();
                    told.for_each(|line| course.hear(line, &mut now, &this.formed, &is_compared));
                }
                ["show"] => {
                    let tree = this.acts.last_mut().map_or(&mut this.formed, |(_, course)| &mut course.tree);
                    *tree = Picture::read(told);
                    if this.acts.is_empty() {
                        now.last.clone_from(&this.formed.streams);
                    }
                }
                _ => this.acts.push((command.to_owned(), Course::default())),
            }
        }
        let shown = this.acts.iter().all(|(_, course)| !course.tree.streams.is_empty());
        assert!(shown && !this.acts.is_empty(), "{} does not show what each command led to", this.name);
        this
    }
}

impl Course {
    /// One line of what happened: `      2.05 s  eu-3 receives from eu-2`.
    fn hear(&mut self, line: &str, now: &mut Now, formed: &Picture, is_compared: impl Fn(&str) -> bool) {
        let Some((at, what)) = line.split_once(" s  ") else { return };
        // Seconds with two digits after the point.
        let at = at.trim().replace('.', "").parse::<u128>().unwrap() * 10;
        if let Some((node, from)) = what.split_once(" receives from ") {
            self.receives(node, from, at, &mut now.last);
        } else if let Some((node, reason)) = what.split_once(": ").filter(|(node, _)| formed.has(node)) {
            let diagnosis = format!("{reason} {node}");
            if let Some((since, before)) = now.diagnosed.insert(node.to_owned(), (at, diagnosis.clone()))
                && at - since < BRIEF_MILLISECONDS
                && self.told.remove(&before)
            {
                self.first.remove(&before);
                self.brief.insert(before);
            }
            if is_compared(reason) {
                self.is_told(diagnosis, at);
            }
        }
    }
}

impl Picture {
    fn has(&self, node: &str) -> bool {
        self.routes.contains_key(node) || self.streams.values().any(|upstream| upstream == node)
    }

    /// The picture that `show` draws.
    fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let (mut this, mut above) = (Self::default(), Vec::new());
        for line in lines {
            let text = line.trim_start_matches(['│', '├', '└', '─', ' ']);
            let depth = (line.chars().count() - text.chars().count()) / 3;
            let (node, rest) = text.split_once(' ').unwrap_or((text, ""));
            above.truncate(depth);
            if let Some(upstream) = above.last().filter(|_| !rest.starts_with("(frozen")) {
                this.streams.insert(node.to_owned(), String::clone(upstream));
            }
            above.push(node.to_owned());
            if let Some((_, route)) = rest.trim_end_matches(']').rsplit_once('[') {
                this.routes.insert(node.to_owned(), route.split(' ').map(str::to_owned).collect());
            }
        }
        this
    }
}
