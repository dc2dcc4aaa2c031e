//! Going from server to server: from those that are given up to the primary and down to every standby, each asked as the
//! operator asks it.

mod census;

use std::collections::{BTreeMap, BTreeSet};

use census::Census;

use super::{Clock, Fleet, ServerAccess, ServerSpec, Timing, Wallet};
use crate::model::{Found, NodeName, NodeView, WhyUnseen};

/// How often the first answers of one round are waited for: hundreds at once log in one after the other.
const WAITS_MAX: usize = 20;

/// Where a server listens: name or IP, and port.
pub type Listener = (String, u16);

/// A fleet as far as it could be found.
#[derive(Debug, Default)]
pub struct Crawl {
    /// Every server of the fleet that answered.
    pub found: Vec<Found>,
    /// What could not be reached or understood, a sentence each.
    pub remarks: Vec<String>,
    /// Why servers that were asked are not seen.
    pub unseen: BTreeSet<WhyUnseen>,
}

/// Why a server is asked, the weakest reason first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// A walsender's client comes from there.
    Sender,
    /// The `primary_conninfo` of that server names it.
    Route(String),
    /// That server receives from it.
    Upstream(String),
    /// By us.
    Given,
}

/// One place where a server may listen.
#[derive(Debug, Clone)]
struct Entry {
    listener: Listener,
    origin: Origin,
    view: Option<NodeView>,
}

impl Entry {
    fn is_tried(&self) -> bool {
        let why = self.view.as_ref().map(|view| view.unseen.as_ref().map(|unseen| unseen.why));
        why.is_some_and(|why| why != Some(WhyUnseen::NotYet))
    }

    /// One that did not answer is not asked again: a wrong password must not be tried for ever.
    fn is_wanted(&self) -> bool {
        !self.is_tried() || self.view.as_ref().is_some_and(|view| view.seen().is_some())
    }
}

/// Crawls a fleet. A standby's port is not told by its upstream: beside the upstream's own, `ports` are tried.
pub async fn crawl(wallet: Wallet, access: &ServerAccess, clock: Clock, given: &[Listener], ports: &[u16]) -> Crawl {
    let fleet = Fleet::new(wallet, Timing::default(), clock);
    let mut entries: Vec<Entry> = Vec::new();
    let mut next: Vec<(Listener, Origin)> = given.iter().map(|listener| (listener.clone(), Origin::Given)).collect();
    while add(&mut entries, std::mem::take(&mut next)) {
        for _ in 0..WAITS_MAX {
            look(&fleet, access, &mut entries).await;
            if entries.iter().all(Entry::is_tried) {
                break;
            }
        }
        next = Census::of(&entries).to_ask(ports);
    }
    Census::of(&entries).tell(ports)
}

/// Takes in what is to be asked. Whether any of it is new.
fn add(entries: &mut Vec<Entry>, next: Vec<(Listener, Origin)>) -> bool {
    let before = entries.len();
    for (listener, origin) in next {
        match entries.iter_mut().find(|entry| entry.listener == listener) {
            Some(entry) => entry.origin = entry.origin.clone().max(origin),
            None => entries.push(Entry { listener, origin, view: None }),
        }
    }
    entries.len() > before
}

async fn look(fleet: &Fleet, access: &ServerAccess, entries: &mut [Entry]) {
    let name = |place: usize| NodeName::new(&format!("s{place}")).ok();
    let spec = |(address, port): &Listener| ServerSpec {
        address: address.clone(),
        hostaddr: None,
        port: *port,
        access: access.clone(),
        // Without a fence nothing can be written, whatever is asked.
        fence: None,
    };
    let wanted = entries.iter().enumerate().filter(|(_, entry)| entry.is_wanted());
    let specs: BTreeMap<_, _> = wanted.filter_map(|(i, entry)| Some((name(i)?, spec(&entry.listener)))).collect();
    fleet.watch(&specs);
    fleet.tried().await;
    let mut views = fleet.views();
    for (i, entry) in entries.iter_mut().enumerate() {
        entry.view = name(i).and_then(|name| views.swap_remove(&name)).or(entry.view.take());
    }
}
