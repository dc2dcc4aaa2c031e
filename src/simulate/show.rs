//! A world as a picture: who really receives from whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::server::{Process, Server};
use super::world::World;
use crate::model::NodeName;

/// The tree as it is, the primary first; those that receive from nobody after it. In brackets each node's route.
pub fn show(world: &World) -> String {
    let mut children: BTreeMap<&NodeName, Vec<&NodeName>> = BTreeMap::new();
    for (name, server) in world.servers.iter().filter(|(_, server)| server.process != Process::Down) {
        if let Some(upstream) = server.upstream() {
            children.entry(upstream).or_default().push(name);
        }
    }
    let mut picture = Picture { world, children, drawn: BTreeSet::new(), text: String::new() };
    let (primaries, others): (Vec<_>, Vec<_>) =
        world.servers.iter().partition(|(_, server)| !server.in_recovery && server.process != Process::Down);
    for (name, _) in primaries.iter().chain(others.iter().filter(|(_, server)| is_alone(server))).copied() {
        picture.draw(name, "", "");
    }
    // What is left is in a ring.
    for name in world.servers.keys() {
        picture.draw(name, "", "");
    }
    picture.text
}

fn is_alone(server: &Server) -> bool {
    server.upstream().is_none() || server.process == Process::Down
}

struct Picture<'a> {
    world: &'a World,
    children: BTreeMap<&'a NodeName, Vec<&'a NodeName>>,
    drawn: BTreeSet<&'a NodeName>,
    text: String,
}

impl<'a> Picture<'a> {
    fn draw(&mut self, name: &'a NodeName, own: &str, below: &str) {
        let Some(server) = self.world.servers.get(name).filter(|_| self.drawn.insert(name)) else { return };
        let marks = self.marks(server);
        let hosts = server.running.conninfo.hosts();
        let route: Vec<_> = hosts.iter().filter_map(|(host, port)| self.world.node_at(host, *port)).collect();
        let route = route.iter().map(|node| node.as_str()).collect::<Vec<_>>().join(" ");
        let route = if server.in_recovery { format!("  [{route}]") } else { String::new() };
        let _ = writeln!(self.text, "{own}{name}{marks}{route}");
        let children = self.children.get(name).cloned().unwrap_or_default();
        for (i, child) in children.iter().enumerate() {
            let (branch, bar) = if i + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.draw(child, &format!("{below}{branch}"), &format!("{below}{bar}"));
        }
    }

    fn marks(&self, server: &Server) -> String {
        let mut marks = Vec::new();
        match server.process {
            Process::Up => {}
            Process::Frozen => marks.push("frozen".to_owned()),
            Process::Down => marks.push("down".to_owned()),
        }
        if !server.in_recovery {
            marks.push("primary".to_owned());
        }
        if server.paused {
            marks.push("replay is paused".to_owned());
        }
        if server.in_recovery && server.upstream().is_none() && server.process == Process::Up {
            marks.push("receives from nobody".to_owned());
        }
        let primaries = self.world.servers.values().filter(|server| !server.in_recovery && server.is_up());
        let behind = primaries.map(|primary| primary.received.bytes_since(server.replayed)).max().unwrap_or(0);
        if behind >= 1 << 20 && server.process != Process::Down {
            marks.push(format!("{} MiB behind", behind >> 20));
        }
        if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) }
    }
}
