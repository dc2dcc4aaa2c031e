//! A network namespace for one server of a tree, with two links into it: one for everybody, and one on which only its
//! upstream is. On that one WAL can be made slow, and every packet can be lost. Only root can make one, also
//! root of a namespace of its own.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::owner::owner;
use super::postgres::Tree;

/// Removes the namespace and its links when its input ends: with the test, or with the test process.
const KEEPER: &str = "trap '' INT TERM HUP; cat >/dev/null; ip netns del $1; ip link del $2; ip link del $3";
/// What 198.18.0.0/15, which is for tests of networks (RFC 2544), holds of our blocks of eight addresses.
const BLOCKS: u32 = 1 << 14;
/// Who may come from outside 127.0.0.1.
const HBA: &str = "
host    all          postgres  198.18.0.0/15  trust
host    all          waltree   198.18.0.0/15  scram-sha-256
host    replication  repl      198.18.0.0/15  scram-sha-256
";

/// A namespace and its two links: one for everybody, and one for the upstream of whoever lives there.
pub struct Uplink {
    name: String,
    links: [Link; 2],
    keeper: Child,
}

struct Link {
    outside: String,
    outside_address: String,
    inside: String,
    inside_address: String,
}

impl Uplink {
    /// Makes one. Where we are not root there is none, and it is said what is not tested then.
    pub fn new(what: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if owner().is_none() {
            // Past the capture of tests, so that it is read.
            let mut stderr = std::io::stderr();
            writeln!(
                stderr,
                "NOT TESTED: {what}: only root can make a network namespace; see `unshare -Urnm` in tests/run"
            )
            .unwrap();
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let (pid, block) = (std::process::id(), (std::process::id() * 4 + count) % BLOCKS);
        let name = format!("waltree-{pid}-{count}");
        let links = [0, 1].map(|i| {
            let base = (198 << 24) + (18 << 16) + block * 8 + i * 4;
            let address = |at: u32| std::net::Ipv4Addr::from(base + at).to_string();
            let device = |side: &str| format!("wt{}{side}{pid}-{count}", ["a", "b"][i as usize]);
            let (outside, inside) = (device("o"), device("i"));
            Link { outside, outside_address: address(1), inside, inside_address: address(2) }
        });
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper", &name, &links[0].outside, &links[1].outside]);
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let this = Self { name, links, keeper };
        ip(&["netns", "add", &this.name]);
        this.inside(&["link", "set", "lo", "up"]);
        this.links.iter().for_each(|link| this.join(link));
        Some(this)
    }

    /// Each end knows the other's hardware address for ever: that asking for it is lost too is another fault.
    fn join(&self, link: &Link) {
        let (ours, theirs) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        let peer = ["peer", "name", &link.inside, "address", theirs, "netns", &self.name];
        ip(&[&["link", "add", &link.outside, "address", ours, "type", "veth"][..], &peer].concat());
        ip(&["addr", "add", &format!("{}/30", link.outside_address), "dev", &link.outside]);
        ip(&["link", "set", &link.outside, "up"]);
        self.inside(&["addr", "add", &format!("{}/30", link.inside_address), "dev", &link.inside]);
        self.inside(&["link", "set", &link.inside, "up"]);
        let known = ["nud", "permanent", "dev"];
        ip(&[&["neigh", "replace", &link.inside_address, "lladdr", theirs][..], &known, &[&link.outside]].concat());
        let back = ["neigh", "replace", &link.outside_address, "lladdr", ours];
        self.inside(&[&back[..], &known, &[&link.inside]].concat());
    }

    fn inside(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// Moves `node` into the namespace, its upstream to the other end of its link, and the others of the tree to the end
    /// of the link for everybody. All are restarted, the primary first.
    pub async fn lead(&self, tree: &mut Tree, node: &str, upstream: &str, primary_first: &[&str]) {
        for server in primary_first {
            tree.stop(server);
            let [everybody, own] = &self.links;
            if *server == node {
                tree.place(server, &everybody.inside_address, Some(&self.name));
            } else {
                let link = if *server == upstream { own } else { everybody };
                tree.place(server, &link.outside_address, None);
            }
            tree.write_hba(server, HBA);
        }
        restart(tree, primary_first).await;
    }

    /// Moves a zone into the namespace. It and the others reach each other over the link on which packets can be lost, and we
    /// see it over the one for everybody. All are restarted, the primary, which is not in it, first.
    pub async fn enclose(&self, tree: &mut Tree, zone: &[String], primary_first: &[&str]) {
        let [everybody, between] = &self.links;
        for server in primary_first {
            tree.stop(server);
            if zone.iter().any(|inside| inside == server) {
                tree.place(server, &everybody.inside_address, Some(&self.name));
                tree.configure(server, "listen_addresses = '*'");
            } else {
                tree.place(server, &between.outside_address, None);
            }
            tree.write_hba(server, HBA);
        }
        restart(tree, primary_first).await;
    }

    /// Where those outside reach an enclosed zone.
    pub fn zone_address(&self) -> &str {
        &self.links[1].inside_address
    }

    /// From now on so many bytes a second come from the upstream, and no more.
    pub fn slow(&self, bytes_per_second: u64) {
        let rate = format!("{}bit", bytes_per_second * 8);
        let most = ["tbf", "rate", &rate, "burst", "16k", "latency", "200ms"];
        tc(&[&["qdisc", "replace", "dev", &self.links[1].outside, "root"][..], &most].concat());
    }

    /// From now on every packet between the node and its upstream, or between the zone and the others, is lost: none is as
    /// small as what may pass.
    pub fn cut(&self) {
        let [_, own] = &self.links;
        let nothing = ["root", "tbf", "rate", "8kbit", "burst", "32", "limit", "32"];
        tc(&[&["qdisc", "replace", "dev", &own.outside][..], &nothing].concat());
        tc(&[&["-n", &self.name, "qdisc", "replace", "dev", &own.inside][..], &nothing].concat());
    }

    /// Everything passes again.
    pub fn mend(&self) {
        let [_, own] = &self.links;
        // Whatever was never limited has nothing to remove.
        let _ = Command::new("tc").args(["qdisc", "del", "dev", &own.outside, "root"]).output();
        let _ = Command::new("tc").args(["-n", &self.name, "qdisc", "del", "dev", &own.inside, "root"]).output();
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Starts servers that were stopped, all below the first.
async fn restart(tree: &mut Tree, primary_first: &[&str]) {
    for server in primary_first {
        let conninfo = tree.conninfo(server, primary_first[0]).replace('\'', "''");
        let settings = tree.data(server).join("postgresql.auto.conf");
        std::fs::write(settings, format!("primary_conninfo = '{conninfo}'\n")).unwrap();
        tree.start_node(server).await;
    }
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn tc(arguments: &[&str]) {
    run("tc", arguments);
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}
