//! What the answers say of the fleet: who is who, who receives from whom, whom nobody has asked yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Crawl, Entry, Listener, Origin};
use crate::model::observed::Sender;
use crate::model::{Facts, Found, NodeView, Unseen};

/// One server, wherever it was reached.
struct Server<'a> {
    facts: &'a Arc<Facts>,
    entries: Vec<&'a Entry>,
}

/// All that answered, of one fleet.
pub(super) struct Census<'a> {
    entries: &'a [Entry],
    servers: Vec<Server<'a>>,
    strangers: Vec<&'a Entry>,
}

fn seen(entry: &Entry) -> Option<&Arc<Facts>> {
    entry.view.as_ref().filter(|view| view.seen().is_some()).and_then(|view| view.last.as_ref())
}

impl<'a> Census<'a> {
    /// Two answers are of one server when its postmaster was started in the same microsecond. The fleet is that of the
    /// first server that answered.
    pub(super) fn of(entries: &'a [Entry]) -> Self {
        let mut this = Self { entries, servers: Vec::new(), strangers: Vec::new() };
        let ours = entries.iter().find_map(seen).map(|facts| facts.system_identifier);
        for entry in entries {
            let Some(facts) = seen(entry) else { continue };
            if Some(facts.system_identifier) != ours {
                this.strangers.push(entry);
            } else if let Some(server) = this.servers.iter_mut().find(|s| s.facts.started == facts.started) {
                server.entries.push(entry);
            } else {
                this.servers.push(Server { facts, entries: vec![entry] });
            }
        }
        this
    }

    /// Where nobody may have been asked yet: upstreams, whom a route names, and the clients of walsenders.
    pub(super) fn to_ask(&self, ports: &[u16]) -> Vec<(Listener, Origin)> {
        let mut next = Vec::new();
        for server in &self.servers {
            let name = server.name();
            next.extend(server.receives_from().map(|listener| (listener, Origin::Upstream(name.clone()))));
            if server.facts.in_recovery {
                let named = server.facts.route.conninfo.hosts().into_iter();
                next.extend(named.map(|listener| (server.reachable(listener), Origin::Route(name.clone()))));
            }
        }
        for (place, server) in self.servers.iter().enumerate() {
            for sender in self.unknown_senders(place) {
                let address = server.client_of(sender);
                let tried = self.ports_for(server, ports).into_iter();
                next.extend(tried.map(|port| ((address.clone(), port), Origin::Sender)));
            }
            next.extend(self.as_its_upstream_sees_it(server).map(|listener| (listener, Origin::Sender)));
        }
        next
    }

    /// The upstream's own port, those that were given, and those of all that were found.
    fn ports_for(&self, upstream: &Server<'_>, given: &[u16]) -> Vec<u16> {
        let known = self.servers.iter().flat_map(Server::ports).collect::<BTreeSet<u16>>();
        let mut ports = upstream.ports().collect::<Vec<_>>();
        for port in given.iter().copied().chain(known) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// The address of a server that was only given to us: what its upstream sees is what the others use.
    fn as_its_upstream_sees_it(&self, server: &Server<'_>) -> Option<Listener> {
        let [Entry { origin: Origin::Given, listener, .. }] = server.entries.as_slice() else { return None };
        let upstream = &self.servers[self.upstream(server)?];
        let name = server.found().application_name().to_owned();
        let mut its = upstream.facts.senders.iter().filter(|sender| sender.application_name == name);
        let (sender, None) = (its.next()?, its.next()) else { return None };
        Some((client_address(sender)?.to_owned(), listener.1))
    }

    fn server_at(&self, listener: &Listener) -> Option<usize> {
        self.servers.iter().position(|server| server.entries.iter().any(|entry| &entry.listener == listener))
    }

    /// Whom it receives from; while it receives from nobody, the first that its route names and that was found.
    fn upstream(&self, server: &Server<'_>) -> Option<usize> {
        if !server.facts.in_recovery {
            return None;
        }
        if let Some(listener) = server.receives_from() {
            return self.server_at(&listener);
        }
        let mut named = server.facts.route.conninfo.hosts().into_iter().map(|listener| server.reachable(listener));
        named.find_map(|listener| self.server_at(&listener))
    }

    /// Walsenders of a server whose other end is no server that was found. A base backup is none.
    fn unknown_senders(&self, place: usize) -> Vec<&'a Sender> {
        let mut children: Vec<&Server<'_>> =
            self.servers.iter().filter(|server| self.upstream(server) == Some(place)).collect();
        let server = &self.servers[place];
        let mut unknown: Vec<&Sender> = server.facts.senders.iter().filter(|s| s.state != "backup").collect();
        // First by name and address, then by name alone, as the address may be another one from there.
        for by_address in [true, false] {
            unknown.retain(|sender| {
                let address = server.client_of(sender);
                let its = children.iter().position(|child| {
                    child.found().application_name() == sender.application_name
                        && (!by_address || child.entries.iter().any(|entry| entry.listener.0 == address))
                });
                its.map(|its| children.swap_remove(its)).is_none()
            });
        }
        unknown
    }

    /// The fleet, and what is not known of it.
    pub(super) fn tell(&self, ports: &[u16]) -> Crawl {
        let mut votes: BTreeMap<Listener, usize> = BTreeMap::new();
        for listener in self.servers.iter().filter_map(Server::receives_from) {
            *votes.entry(listener).or_default() += 1;
        }
        let why = |entry: &Entry| entry.view.as_ref()?.unseen.as_ref().map(|unseen| unseen.why);
        let mut crawl = Crawl { unseen: self.entries.iter().filter_map(why).collect(), ..Crawl::default() };
        for server in &self.servers {
            let (address, port) = server.best(&votes);
            crawl.found.push(Found { address, port, upstream: self.upstream(server), ..server.found() });
        }
        self.unreachable(&mut crawl.remarks);
        self.nameless(ports, &mut crawl.remarks);
        for (server, found) in self.servers.iter().zip(&crawl.found) {
            let upstream = found.upstream.map(|place| &crawl.found[place]);
            crawl.remarks.extend(upstream.and_then(|upstream| server.other_word_for(upstream)));
        }
        crawl
    }

    fn unreachable(&self, remarks: &mut Vec<String>) {
        for entry in self.entries {
            let who = match &entry.origin {
                Origin::Sender => continue,
                Origin::Route(child) => format!("which primary_conninfo of {child} names"),
                Origin::Upstream(child) => format!("from which {child} receives"),
                Origin::Given => "which was given".to_owned(),
            };
            let (address, port) = &entry.listener;
            if let Some(NodeView { unseen: Some(Unseen { why, detail }), .. }) = &entry.view {
                remarks.push(format!("{address}:{port}, {who}, cannot be asked: {why} ({detail})."));
            } else if self.strangers.iter().any(|stranger| stranger.listener == entry.listener) {
                remarks.push(format!("{address}:{port}, {who}, has another system identifier: it is another fleet's."));
            }
        }
    }

    fn nameless(&self, ports: &[u16], remarks: &mut Vec<String>) {
        for (place, server) in self.servers.iter().enumerate() {
            for sender in self.unknown_senders(place) {
                let address = server.client_of(sender);
                let tried = self.ports_for(server, ports);
                let why: Vec<String> = tried.iter().map(|port| self.tried(&(address.clone(), *port))).collect();
                remarks.push(format!(
                    "{} sends WAL to {:?} at {address}, and no server of this fleet was found there ({}). Give its port \
                     with --port. It may be no server: pg_receivewal and logical subscribers are shown like one.",
                    server.name(),
                    sender.application_name,
                    why.join(", ")
                ));
            }
        }
    }

    /// What became of one attempt.
    fn tried(&self, listener: &Listener) -> String {
        let view = self.entries.iter().find(|entry| &entry.listener == listener).and_then(|e| e.view.as_ref());
        let unseen = view.and_then(|view| view.unseen.as_ref()).map(|unseen| unseen.why.to_string());
        format!("port {}: {}", listener.1, unseen.as_deref().unwrap_or("another server"))
    }
}

impl Server<'_> {
    fn found(&self) -> Found {
        let (address, port) = self.entries[0].listener.clone();
        Found { address, port, facts: Arc::clone(self.facts), upstream: None }
    }

    fn name(&self) -> String {
        let found = self.found();
        let said = Some(found.application_name()).filter(|name| *name != "walreceiver");
        said.map_or_else(|| found.listener(), |name| format!("{name} ({})", found.listener()))
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        self.entries.iter().map(|entry| entry.listener.1)
    }

    fn receives_from(&self) -> Option<Listener> {
        let receiver = self.facts.receiver.as_ref().filter(|_| self.facts.in_recovery)?;
        Some(self.reachable((receiver.host.clone(), receiver.port)))
    }

    /// What a server calls the folder of a Unix socket is on its own machine.
    fn reachable(&self, (host, port): Listener) -> Listener {
        if host.starts_with(['/', '@']) { (self.entries[0].listener.0.clone(), port) } else { (host, port) }
    }

    /// The address from which a walsender's client comes; over a Unix socket it is the server's own.
    fn client_of(&self, sender: &Sender) -> String {
        client_address(sender).unwrap_or(&self.entries[0].listener.0).to_owned()
    }

    /// Where others know it best: as most of its children write it, else as its upstream sees it, an IP before a name.
    fn best(&self, votes: &BTreeMap<Listener, usize>) -> Listener {
        let worth = |entry: &&&Entry| {
            let known = votes.get(&entry.listener).copied().unwrap_or(0);
            (known, entry.origin == Origin::Sender, entry.listener.0.parse::<IpAddr>().is_ok())
        };
        self.entries.iter().max_by_key(worth).map_or_else(Default::default, |entry| entry.listener.clone())
    }

    /// Says when its upstream is written in another way than it writes it: the two would be taken for two servers.
    fn other_word_for(&self, upstream: &Found) -> Option<String> {
        let receiver = self.facts.receiver.as_ref()?;
        ((&receiver.host, receiver.port) != (&upstream.address, upstream.port)).then(|| {
            format!(
                "{} receives from {}:{}, which is written here as {}, as others write it. Until its primary_conninfo \
                 says so too, it is taken to receive from a stranger.",
                self.name(),
                receiver.host,
                receiver.port,
                upstream.listener()
            )
        })
    }
}

/// Where a walsender's client comes from, without the port that it happens to have got there.
fn client_address(sender: &Sender) -> Option<&str> {
    Some(sender.client.as_deref()?.rsplit_once(':')?.0)
}
