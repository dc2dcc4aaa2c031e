//! What a simulated server answers to the question of every tick: the same facts as a real one, its lies included.

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use super::server::{Process, Receiver, Sender, Server};
use super::world::{Place, World};
use crate::model::observed::{self, InstalledRoute, Slot};
use crate::model::{Facts, Lsn, NodeName, NodeView, Timeline, Unseen, WhyUnseen};

impl World {
    /// What the operator sees of a server.
    ///
    /// # Errors
    /// [`Unseen`] says why it sees nothing.
    pub fn look(&self, name: &NodeName) -> Result<Facts, Unseen> {
        self.answering(name).map(|server| self.facts(server, Texts::default()))
    }

    /// The same, by one who knows what it said last.
    pub(super) fn look_again(&self, name: &NodeName, last: Option<Arc<Facts>>) -> NodeView {
        match self.answering(name) {
            Err(unseen) => NodeView { last, unseen: Some(unseen) },
            Ok(server) => {
                let mut last = last.unwrap_or_else(|| Arc::new(self.facts(server, Texts::default())));
                match Arc::get_mut(&mut last) {
                    Some(facts) => *facts = self.facts(server, Texts::of(facts)),
                    // Somebody still looks at it.
                    None => last = Arc::new(self.facts(server, Texts::default())),
                }
                NodeView { last: Some(last), unseen: None }
            }
        }
    }

    /// Whether the operator sees it.
    pub(super) fn answers(&self, name: &NodeName) -> bool {
        self.answering(name).is_ok()
    }

    fn answering(&self, name: &NodeName) -> Result<&Server, Unseen> {
        let unseen = |why: WhyUnseen| Unseen { why, detail: format!("{name}: simulated") };
        let Some(server) = self.servers.get(name) else { return Err(unseen(WhyUnseen::AddressUnknown)) };
        if self.is_cut(&Place::Operator, &Place::Node(name.clone())) {
            return Err(unseen(WhyUnseen::Timeout));
        }
        match server.process {
            Process::Down => Err(unseen(WhyUnseen::Refused)),
            Process::Frozen => Err(unseen(WhyUnseen::Timeout)),
            Process::Up if server.rejects_operator => Err(unseen(WhyUnseen::CredentialsRejected)),
            Process::Up => Ok(server),
        }
    }

    fn facts(&self, server: &Server, mut texts: Texts) -> Facts {
        texts.slot.clone_from(&server.running.slot);
        texts.history.clone_from(&server.history);
        let told = server.told.as_deref();
        Facts {
            asked_at: self.now,
            at: self.now,
            system_identifier: server.system_identifier,
            cluster_name: String::new(),
            version_num: told.map_or(150_018, |told| told.version_num),
            started: server.starts,
            in_recovery: server.in_recovery,
            position: server.received,
            replay: server.replayed,
            timeline: Some(server.timeline),
            timeline_at_least: Some(server.timeline),
            history: texts.history,
            redo: server.redo,
            oldest_wal: Some(server.oldest),
            segment_bytes: server.segment_bytes,
            replay_paused: server.paused,
            startup_wait: startup_wait(server).map(str::to_owned),
            receiver: self.receiver(server, texts.receiver),
            connecting: server.in_recovery && matches!(server.receiver, Receiver::Connecting { .. }),
            route: InstalledRoute {
                conninfo: server.running.conninfo.clone(),
                slot: texts.slot,
                nudged: server.running.nudged,
                has_password: told.is_some_and(|told| told.route.has_password),
                unreadable: told.is_some_and(|told| told.route.unreadable),
                pending: (server.file.conninfo != server.running.conninfo).then(|| server.file.conninfo.clone()),
            },
            senders: self.senders(server, texts.senders),
            slots: slots(server, texts.slots),
            synchronous_standby_names: told.map(|told| told.synchronous_standby_names.clone()).unwrap_or_default(),
            alter_system_allowed: told.is_none_or(|told| told.alter_system_allowed),
            disk_full: false,
            missing_grants: told.map(|told| told.missing_grants.clone()).unwrap_or_default(),
            may_end_senders: told.is_none_or(|told| told.may_end_senders),
            parameters: parameters(server, texts.parameters),
        }
    }

    fn receiver(&self, server: &Server, before: Option<observed::Receiver>) -> Option<observed::Receiver> {
        let Receiver::Streaming { from, pid, silent_since } = &server.receiver else { return None };
        let (host, port) = self.address_of(from).filter(|_| server.in_recovery)?;
        let slot = server.running.slot.as_str();
        let same = |known: &observed::Receiver| known.host == host && known.slot.as_deref() == Some(slot);
        let new = || observed::Receiver {
            pid: *pid,
            status: "streaming".to_owned(),
            host: host.to_owned(),
            port,
            slot: Some(slot.to_owned()),
            timeline: server.timeline,
            silent_for_milliseconds: 0,
        };
        Some(observed::Receiver {
            pid: *pid,
            port,
            timeline: server.timeline,
            silent_for_milliseconds: silent_since.map_or(0, |since| self.now.since(since)),
            ..before.filter(same).unwrap_or_else(new)
        })
    }

    fn senders(&self, server: &Server, mut senders: Vec<observed::Sender>) -> Vec<observed::Sender> {
        let same = |(known, sender): (&observed::Sender, &Sender)| {
            known.pid == sender.pid
                && known.application_name == sender.application_name
                && known.slot.as_deref().unwrap_or_default() == sender.slot
                && known.client.as_deref() == Some(sender.child.as_str())
        };
        let new = |sender: &Sender| observed::Sender {
            pid: sender.pid,
            application_name: sender.application_name.clone(),
            state: "streaming".to_owned(),
            sync: Some(false),
            slot: (!sender.slot.is_empty()).then(|| sender.slot.clone()),
            client: Some(sender.child.to_string()),
            replied: None,
        };
        if senders.len() != server.senders.len() || !senders.iter().zip(&server.senders).all(same) {
            senders = server.senders.iter().map(new).collect();
        }
        for (known, sender) in senders.iter_mut().zip(&server.senders) {
            known.replied = i64::try_from(sender.silent_since.unwrap_or(self.now).0).ok();
        }
        senders
    }
}

/// What of an answer takes memory of its own. Servers say the same of it for hours, so it is used again where it is so.
#[derive(Default)]
struct Texts {
    receiver: Option<observed::Receiver>,
    senders: Vec<observed::Sender>,
    slots: BTreeMap<String, Slot>,
    /// `primary_slot_name`.
    slot: String,
    history: Vec<(Timeline, Lsn)>,
    parameters: BTreeMap<String, u64>,
}

impl Texts {
    fn of(before: &mut Facts) -> Self {
        Self {
            receiver: before.receiver.take(),
            senders: take(&mut before.senders),
            slots: take(&mut before.slots),
            slot: take(&mut before.route.slot),
            history: take(&mut before.history),
            parameters: take(&mut before.parameters),
        }
    }
}

/// Waiting for more of a stream is not told apart from replaying it.
fn startup_wait(server: &Server) -> Option<&'static str> {
    let receives = matches!(server.receiver, Receiver::Streaming { .. });
    if server.paused {
        return Some("RecoveryPause");
    }
    let at_the_end = server.in_recovery && !receives && server.replayed >= server.received;
    at_the_end.then_some("RecoveryRetrieveRetryInterval")
}

fn slots(server: &Server, mut slots: BTreeMap<String, Slot>) -> BTreeMap<String, Slot> {
    if !slots.keys().eq(server.slots.keys()) {
        let empty = Slot { active_pid: None, restart_lsn: None, xmin: None, lost: false };
        slots = server.slots.keys().map(|name| (name.clone(), empty.clone())).collect();
    }
    let mut holders: Vec<_> = server.senders.iter().map(|sender| (sender.slot.as_str(), sender.pid)).collect();
    // Stable: of two with one slot the first is its holder, as in `Server::holder`.
    holders.sort_by_key(|(slot, _)| *slot);
    let holder =
        |name: &str| holders.get(holders.partition_point(|(slot, _)| *slot < name)).filter(|(slot, _)| *slot == name);
    for ((name, known), slot) in slots.iter_mut().zip(server.slots.values()) {
        *known = Slot {
            active_pid: holder(name).map(|(_, pid)| *pid),
            restart_lsn: (!slot.lost).then_some(slot.restart),
            xmin: slot.holds_xmin.then_some(700),
            lost: slot.lost,
        };
    }
    slots
}

fn parameters(server: &Server, mut parameters: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    const SENDERS: &str = "max_wal_senders";
    if let Some(told) = &server.told {
        parameters.clone_from(&told.parameters);
    }
    match parameters.get_mut(SENDERS) {
        Some(most) => *most = server.senders_max as u64,
        None => drop(parameters.insert(SENDERS.to_owned(), server.senders_max as u64)),
    }
    parameters
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::operator::Cluster as _;
    use crate::simulate::Drama;
    use crate::simulate::shape::Shape;

    #[test]
    fn who_looks_again_sees_what_one_sees_who_looks_for_the_first_time() {
        let mut shape = Shape::default();
        shape.group(&["core", "3"]).unwrap();
        shape.group(&["eu", "5", "relays=2", "upstreams=core"]).unwrap();
        let first = NodeName::new("core-1").unwrap();
        let mut drama = Drama::new(shape.spec().unwrap(), 1, |_| first.clone()).unwrap();
        let faults = [
            "pause eu-3",
            "kill eu-1",
            "start eu-1",
            "repoint eu-4 core-1",
            "drop-slot eu-5 eu-2",
            "senders eu-2 3",
            "freeze eu-2",
            "promote core-2",
        ];
        for fault in faults {
            drama.strike(&fault.parse().unwrap());
            for _ in 0..40 {
                drama.pass(100);
                let observed = drama.cluster().observe(drama.desired()).now_or_never().unwrap();
                let world = drama.cluster().world();
                for (name, view) in &observed.nodes {
                    assert_eq!(view.seen(), world.look(name).ok().as_ref(), "{name} after {fault}");
                }
            }
        }
    }
}
