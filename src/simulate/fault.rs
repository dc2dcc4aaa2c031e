//! What can be done to a world, each with the words for it in a script.

use std::fmt;
use std::str::FromStr;

use super::cluster::reload;
use super::server::{Process, SENDERS_MAX};
use super::world::{Place, World};
use crate::model::{Desired, NodeName};

/// One thing that happens to servers, to the network, or to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `kill NODE`: its processes end.
    Kill(NodeName),
    /// `start NODE`: it starts as what it was.
    Start(NodeName),
    /// `freeze NODE`: its processes stop where they are (SIGSTOP).
    Freeze(NodeName),
    /// `thaw NODE`
    Thaw(NodeName),
    /// `cut A B`: packets between them vanish. `operator` is a place too.
    Cut(Place, Place),
    /// `mend A B`
    Mend(Place, Place),
    /// `cut zone Z`: packets between a zone and everything outside it vanish, the operator's too.
    CutZone(String),
    /// `mend zone Z`
    MendZone(String),
    /// `pause NODE`: replay is paused.
    Pause(NodeName),
    /// `resume NODE`
    Resume(NodeName),
    /// `reject NODE`: its pg_hba.conf has no line for replication any more.
    Reject(NodeName),
    /// `accept NODE`
    Accept(NodeName),
    /// `lockout NODE`: it rejects the operator's password.
    Lockout(NodeName),
    /// `admit NODE`
    Admit(NodeName),
    /// `senders NODE COUNT`: its max_wal_senders.
    Senders(NodeName, usize),
    /// `slow NODE BYTES`: it takes so many bytes of WAL a second.
    Slow(NodeName, u64),
    /// `fast NODE`
    Fast(NodeName),
    /// `repoint NODE UPSTREAM`: somebody sets its primary_conninfo by hand.
    Repoint(NodeName, NodeName),
    /// `drop-slot NODE ON`: somebody drops the slot of NODE on ON, if nobody holds it.
    DropSlot(NodeName, NodeName),
    /// `lose-slot NODE ON`: the slot of NODE on ON is invalidated, and its WAL is removed.
    LoseSlot(NodeName, NodeName),
    /// `promote NODE`
    Promote(NodeName),
    /// `reclone NODE`: somebody makes it anew from the primary of the newest timeline, as pg_basebackup does: a standby of
    /// that primary, without slots.
    Reclone(NodeName),
    /// `operator stop`: it ends between two passes.
    OperatorStop,
    /// `operator dies-after STEPS`: it is killed in the midst of a plan.
    OperatorDiesAfter(usize),
    /// `operator start`: one begins that knows what the status says.
    OperatorStart,
}

impl Fault {
    /// Lets it happen to servers or network. The operator is the drama's.
    pub fn strike(&self, world: &mut World, desired: &Desired) {
        let place = |node: &NodeName| Place::Node(node.clone());
        match self {
            Self::Kill(node) => world.kill(node),
            Self::Start(node) => world.start(node),
            Self::Freeze(node) => set_process(world, node, Process::Up, Process::Frozen),
            Self::Thaw(node) => set_process(world, node, Process::Frozen, Process::Up),
            Self::Cut(a, b) => world.cut(a, b, true),
            Self::Mend(a, b) => world.cut(a, b, false),
            Self::CutZone(zone) | Self::MendZone(zone) => {
                let inside = |node: &&NodeName| desired.nodes[*node].zone.as_deref() == Some(zone);
                let (inside, outside): (Vec<_>, Vec<_>) = desired.nodes.keys().partition(inside);
                for one in inside {
                    for other in outside.iter().map(|node| place(node)).chain([Place::Operator]) {
                        world.cut(&place(one), &other, matches!(self, Self::CutZone(_)));
                    }
                }
            }
            Self::Repoint(node, upstream) => repoint(world, node, upstream),
            Self::Promote(node) => world.promote(node),
            Self::Reclone(node) => world.reclone(node),
            Self::OperatorStop | Self::OperatorDiesAfter(_) | Self::OperatorStart => {}
            _ => self.set(world),
        }
    }

    /// The faults that only set something on one server.
    fn set(&self, world: &mut World) {
        let (Self::Pause(node)
        | Self::Resume(node)
        | Self::Reject(node)
        | Self::Accept(node)
        | Self::Lockout(node)
        | Self::Admit(node)
        | Self::Senders(node, _)
        | Self::Slow(node, _)
        | Self::Fast(node)
        | Self::DropSlot(_, node)
        | Self::LoseSlot(_, node)) = self
        else {
            return;
        };
        let Some(server) = world.servers.get_mut(node) else { return };
        match self {
            Self::Pause(_) | Self::Resume(_) => server.paused = matches!(self, Self::Pause(_)),
            Self::Reject(_) | Self::Accept(_) => server.rejects_replication = matches!(self, Self::Reject(_)),
            Self::Lockout(_) | Self::Admit(_) => server.rejects_operator = matches!(self, Self::Lockout(_)),
            Self::Senders(_, most) => server.senders_max = *most,
            Self::Slow(_, rate) => server.receive_bytes_per_second = Some(*rate),
            Self::Fast(_) => server.receive_bytes_per_second = None,
            Self::DropSlot(owner, _) if server.holder(owner.slot()).is_none() => {
                server.slots.remove(owner.slot());
            }
            Self::LoseSlot(owner, _) if server.holder(owner.slot()).is_none() => {
                if let Some(slot) = server.slots.get_mut(owner.slot()) {
                    slot.lost = true;
                }
            }
            _ => {}
        }
    }

    /// The servers that it names.
    pub fn nodes(&self) -> Vec<&NodeName> {
        match self {
            Self::Kill(node)
            | Self::Start(node)
            | Self::Freeze(node)
            | Self::Thaw(node)
            | Self::Pause(node)
            | Self::Resume(node)
            | Self::Reject(node)
            | Self::Accept(node)
            | Self::Lockout(node)
            | Self::Admit(node)
            | Self::Senders(node, _)
            | Self::Slow(node, _)
            | Self::Fast(node)
            | Self::Promote(node)
            | Self::Reclone(node) => vec![node],
            Self::Repoint(node, other) | Self::DropSlot(node, other) | Self::LoseSlot(node, other) => vec![node, other],
            Self::Cut(a, b) | Self::Mend(a, b) => [a, b].into_iter().filter_map(Place::node).collect(),
            Self::CutZone(_)
            | Self::MendZone(_)
            | Self::OperatorStop
            | Self::OperatorDiesAfter(_)
            | Self::OperatorStart => Vec::new(),
        }
    }

    /// What undoes it; `None` for what is not to be undone.
    pub fn undo(&self) -> Option<Self> {
        Some(match self.clone() {
            Self::Kill(node) => Self::Start(node),
            Self::Freeze(node) => Self::Thaw(node),
            Self::Cut(a, b) => Self::Mend(a, b),
            Self::CutZone(zone) => Self::MendZone(zone),
            Self::Pause(node) => Self::Resume(node),
            Self::Reject(node) => Self::Accept(node),
            Self::Lockout(node) => Self::Admit(node),
            Self::Senders(node, _) => Self::Senders(node, SENDERS_MAX),
            Self::Slow(node, _) => Self::Fast(node),
            Self::OperatorStop | Self::OperatorDiesAfter(_) => Self::OperatorStart,
            _ => return None,
        })
    }
}

fn set_process(world: &mut World, node: &NodeName, from: Process, to: Process) {
    if let Some(server) = world.servers.get_mut(node).filter(|server| server.process == from) {
        server.process = to;
    }
}

fn repoint(world: &mut World, node: &NodeName, upstream: &NodeName) {
    let address = world.address_of(upstream).map(|(host, port)| (host.to_owned(), port));
    let Some((host, port)) = address else { return };
    if let Some(server) = world.servers.get_mut(node) {
        server.file.conninfo.set("host", &host);
        server.file.conninfo.set("port", &port.to_string());
        if server.is_up() {
            reload(server);
        }
    }
}

impl Place {
    /// The server whose machine it is.
    fn node(&self) -> Option<&NodeName> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Node(node) => write!(f, "{node}"),
        }
    }
}

impl FromStr for Place {
    type Err = NotAFault;

    fn from_str(text: &str) -> Result<Self, NotAFault> {
        if text == "operator" { Ok(Self::Operator) } else { Ok(Self::Node(node(text)?)) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(node) => write!(f, "kill {node}"),
            Self::Start(node) => write!(f, "start {node}"),
            Self::Freeze(node) => write!(f, "freeze {node}"),
            Self::Thaw(node) => write!(f, "thaw {node}"),
            Self::Cut(a, b) => write!(f, "cut {a} {b}"),
            Self::Mend(a, b) => write!(f, "mend {a} {b}"),
            Self::CutZone(zone) => write!(f, "cut zone {zone}"),
            Self::MendZone(zone) => write!(f, "mend zone {zone}"),
            Self::Pause(node) => write!(f, "pause {node}"),
            Self::Resume(node) => write!(f, "resume {node}"),
            Self::Reject(node) => write!(f, "reject {node}"),
            Self::Accept(node) => write!(f, "accept {node}"),
            Self::Lockout(node) => write!(f, "lockout {node}"),
            Self::Admit(node) => write!(f, "admit {node}"),
            Self::Senders(node, most) => write!(f, "senders {node} {most}"),
            Self::Slow(node, rate) => write!(f, "slow {node} {rate}"),
            Self::Fast(node) => write!(f, "fast {node}"),
            Self::Repoint(node, upstream) => write!(f, "repoint {node} {upstream}"),
            Self::DropSlot(node, on) => write!(f, "drop-slot {node} {on}"),
            Self::LoseSlot(node, on) => write!(f, "lose-slot {node} {on}"),
            Self::Promote(node) => write!(f, "promote {node}"),
            Self::Reclone(node) => write!(f, "reclone {node}"),
            Self::OperatorStop => f.write_str("operator stop"),
            Self::OperatorDiesAfter(steps) => write!(f, "operator dies-after {steps}"),
            Self::OperatorStart => f.write_str("operator start"),
        }
    }
}

/// Words that name no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not understood")]
pub struct NotAFault(pub String);

fn node(text: &str) -> Result<NodeName, NotAFault> {
    NodeName::new(text).map_err(|_| NotAFault(text.to_owned()))
}

fn number<T: FromStr>(text: &str) -> Result<T, NotAFault> {
    text.parse().map_err(|_| NotAFault(text.to_owned()))
}

impl FromStr for Fault {
    type Err = NotAFault;

    fn from_str(text: &str) -> Result<Self, NotAFault> {
        Ok(match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["cut", "zone", zone] => Self::CutZone((*zone).to_owned()),
            ["mend", "zone", zone] => Self::MendZone((*zone).to_owned()),
            ["operator", "stop"] => Self::OperatorStop,
            ["operator", "start"] => Self::OperatorStart,
            ["operator", "dies-after", steps] => Self::OperatorDiesAfter(number(steps)?),
            ["kill", name] => Self::Kill(node(name)?),
            ["start", name] => Self::Start(node(name)?),
            ["freeze", name] => Self::Freeze(node(name)?),
            ["thaw", name] => Self::Thaw(node(name)?),
            ["cut", a, b] => Self::Cut(a.parse()?, b.parse()?),
            ["mend", a, b] => Self::Mend(a.parse()?, b.parse()?),
            ["pause", name] => Self::Pause(node(name)?),
            ["resume", name] => Self::Resume(node(name)?),
            ["reject", name] => Self::Reject(node(name)?),
            ["accept", name] => Self::Accept(node(name)?),
            ["lockout", name] => Self::Lockout(node(name)?),
            ["admit", name] => Self::Admit(node(name)?),
            ["senders", name, most] => Self::Senders(node(name)?, number(most)?),
            ["slow", name, rate] => Self::Slow(node(name)?, number(rate)?),
            ["fast", name] => Self::Fast(node(name)?),
            ["repoint", name, upstream] => Self::Repoint(node(name)?, node(upstream)?),
            ["drop-slot", name, on] => Self::DropSlot(node(name)?, node(on)?),
            ["lose-slot", name, on] => Self::LoseSlot(node(name)?, node(on)?),
            ["promote", name] => Self::Promote(node(name)?),
            ["reclone", name] => Self::Reclone(node(name)?),
            _ => return Err(NotAFault(text.to_owned())),
        })
    }
}
