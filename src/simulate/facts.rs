//! What a simulated server answers to the question of every tick: the same facts as a real one, its lies included.

use std::collections::BTreeMap;

use super::server::{Process, Receiver, Server};
use super::world::{Place, World};
use crate::model::observed::{self, InstalledRoute, Slot};
use crate::model::{Facts, NodeName, Unseen, WhyUnseen};

impl World {
    /// What the operator sees of a server.
    ///
    /// # Errors
    /// [`Unseen`] says why it sees nothing.
    pub fn look(&self, name: &NodeName) -> Result<Facts, Unseen> {
        let unseen = |why: WhyUnseen| Unseen { why, detail: format!("{name}: simulated") };
        let Some(server) = self.servers.get(name) else { return Err(unseen(WhyUnseen::AddressUnknown)) };
        if self.is_cut(&Place::Operator, &Place::Node(name.clone())) {
            return Err(unseen(WhyUnseen::Timeout));
        }
        match server.process {
            Process::Down => Err(unseen(WhyUnseen::Refused)),
            Process::Frozen => Err(unseen(WhyUnseen::Timeout)),
            Process::Up if server.rejects_operator => Err(unseen(WhyUnseen::CredentialsRejected)),
            Process::Up => Ok(self.facts(server)),
        }
    }

    fn facts(&self, server: &Server) -> Facts {
        let receiver = match &server.receiver {
            Receiver::Streaming { from, pid, silent_since } if server.in_recovery => {
                self.address_of(from).map(|(host, port)| observed::Receiver {
                    pid: *pid,
                    status: "streaming".to_owned(),
                    host: host.to_owned(),
                    port,
                    slot: Some(server.running.slot.clone()),
                    timeline: server.timeline,
                    silent_for_milliseconds: silent_since.map_or(0, |since| self.now.since(since)),
                })
            }
            _ => None,
        };
        let sender = |sender: &super::server::Sender| observed::Sender {
            pid: sender.pid,
            application_name: sender.application_name.clone(),
            state: "streaming".to_owned(),
            sync: Some(false),
            slot: (!sender.slot.is_empty()).then(|| sender.slot.clone()),
            client: Some(sender.child.to_string()),
            replied: i64::try_from(sender.silent_since.unwrap_or(self.now).0).ok(),
        };
        let slot = |name: &str, slot: &super::server::SlotAt| Slot {
            active_pid: server.holder(name).map(|holder| holder.pid),
            restart_lsn: (!slot.lost).then_some(slot.restart),
            xmin: slot.holds_xmin.then_some(700),
            lost: slot.lost,
        };
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
            history: server.history.clone(),
            redo: server.redo,
            oldest_wal: Some(server.oldest),
            segment_bytes: server.segment_bytes,
            replay_paused: server.paused,
            startup_wait: server.paused.then(|| "RecoveryPause".to_owned()),
            receiver,
            connecting: server.in_recovery && matches!(server.receiver, Receiver::Connecting { .. }),
            route: InstalledRoute {
                conninfo: server.running.conninfo.clone(),
                slot: server.running.slot.clone(),
                nudged: server.running.nudged,
                has_password: told.is_some_and(|told| told.route.has_password),
                unreadable: told.is_some_and(|told| told.route.unreadable),
                pending: (server.file.conninfo != server.running.conninfo).then(|| server.file.conninfo.clone()),
            },
            senders: server.senders.iter().map(sender).collect(),
            slots: server.slots.iter().map(|(name, state)| (name.clone(), slot(name, state))).collect(),
            synchronous_standby_names: told.map(|told| told.synchronous_standby_names.clone()).unwrap_or_default(),
            alter_system_allowed: told.is_none_or(|told| told.alter_system_allowed),
            disk_full: false,
            missing_grants: told.map(|told| told.missing_grants.clone()).unwrap_or_default(),
            may_end_senders: told.is_none_or(|told| told.may_end_senders),
            parameters: parameters(server),
        }
    }
}

fn parameters(server: &Server) -> BTreeMap<String, u64> {
    let mut parameters = server.told.as_ref().map(|told| told.parameters.clone()).unwrap_or_default();
    parameters.insert("max_wal_senders".to_owned(), server.senders_max as u64);
    parameters
}
