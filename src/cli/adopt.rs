//! `kubectl waltree adopt HOST...`: a manifest of a fleet that runs already, as it is connected now.

mod login;
mod manifest;

use std::io::Write;

use anyhow::{Context as _, bail};
use clap::Args;

use super::proposal::counted;
use super::{DEGRADED, OK, REFUSED};
use crate::api::ReplicaTopology;
use crate::model::{Desired, Management};
use crate::observe::{Listener, ServerAccess, Wallet, crawl};
use crate::operator::clock;
use crate::plan::adopt;
use login::Login;
use manifest::Manifest;

/// PostgreSQL's own.
const PORT: u16 = 5432;

/// Arguments of `kubectl waltree adopt`.
#[derive(Debug, Args)]
pub(super) struct Adopt {
    /// Servers to begin with, as NAME, IP, NAME:PORT or [IPv6]:PORT: one of the fleet is enough, whichever it is.
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    /// Ports at which standbys may listen, as PORT or FROM-TO, separated by commas: an upstream knows the address of its
    /// child, not its port. Its own port and those that were found are tried too. The first is also that of a HOST
    /// without one. Default: 5432.
    #[arg(long, short, env = "PGPORT", value_delimiter = ',', value_parser = ports)]
    port: Vec<Ports>,
    /// Name of the topology.
    #[arg(long, default_value = "adopted")]
    name: String,
    /// Name of the Secret from which the operator is to take what it logs in with. Default: NAME-sql.
    #[arg(long)]
    secret: Option<String>,
    /// Another manager, such as Patroni or repmgr, keeps the primary and its standbys: the root group is declared with
    /// `management: Observe`, so that no setting of its servers is ever changed.
    #[arg(long)]
    observe_root: bool,
    #[command(flatten)]
    login: Login,
}

/// Ports from one to another.
#[derive(Debug, Clone)]
struct Ports(std::ops::RangeInclusive<u16>);

fn ports(text: &str) -> Result<Ports, String> {
    let one = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (one(from), one(to)) {
        (Some(from), Some(to)) if from <= to => Ok(Ports(from..=to)),
        _ => Err("write a TCP port, or two with '-' between them, the lower first".to_owned()),
    }
}

/// Crawls and prints. The exit code is 0, 2 when something could not be reached or understood or would be moved, 3 when
/// what was found cannot be declared.
pub(super) async fn run(what: &Adopt, namespace: Option<&str>, out: &mut impl Write) -> anyhow::Result<u8> {
    let ports: Vec<u16> = what.port.iter().flat_map(|ports| ports.0.clone()).collect();
    let default = ports.first().copied().unwrap_or(PORT);
    let hosts: Vec<Listener> = what.hosts.iter().map(|host| listener(host, default)).collect::<Result<_, _>>()?;
    let credentials = what.login.credentials(&hosts)?;
    let access = ServerAccess { secret: None, ssl_mode: what.login.ssl_mode() };
    let mut crawled = crawl(Wallet::fixed(credentials.clone()), &access, clock::now, &hosts, &ports).await;
    // Where all that was found was reached otherwise, there is nothing to cure.
    if !crawled.remarks.is_empty() {
        crawled.remarks.extend(crawled.unseen.iter().filter_map(|why| what.login.cure(*why)));
    }
    let root = if what.observe_root { Management::Observe } else { Management::Routes };
    let Some(adoption) = adopt(&crawled.found, root) else {
        bail!("none of the servers could be asked:\n{}", crawled.remarks.join("\n"));
    };
    let manifest = Manifest {
        name: &what.name,
        namespace,
        secret: what.secret.clone().unwrap_or_else(|| format!("{}-sql", what.name)),
        ssl_mode: what.login.ssl_mode_as_declared(),
        credentials: &credentials,
        hosts: &what.hosts,
    };
    let text = manifest.text(&adoption, &crawled.remarks);
    out.write_all(text.as_bytes())?;
    let written: ReplicaTopology = serde_yaml::from_str(&text).context("what was written cannot be read")?;
    let rejections = Desired::try_from(&written.spec).err().unwrap_or_default();
    let mut said = std::io::stderr().lock();
    for remark in crawled.remarks.iter().chain(&adoption.remarks) {
        writeln!(said, "{remark}")?;
    }
    for rejection in &rejections {
        writeln!(said, "This is not accepted as it is: {rejection}")?;
    }
    let servers = adoption.desired.nodes.len();
    writeln!(said, "{}, {}.", counted(servers, "server"), counted(adoption.moves.len(), "move"))?;
    let unclear = !crawled.remarks.is_empty() || !adoption.moves.is_empty() || servers < crawled.found.len();
    Ok(match (rejections.is_empty(), unclear) {
        (false, _) => REFUSED,
        (true, true) => DEGRADED,
        (true, false) => OK,
    })
}

/// A host with its port, as people write them.
fn listener(text: &str, default: u16) -> anyhow::Result<Listener> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, port.strip_prefix(':').or(Some(port))),
        // More than one colon is an IPv6 address.
        None if text.matches(':').count() == 1 => text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p))),
        None => (text, None),
    };
    let port = port.map_or(Ok(default), str::parse).with_context(|| format!("the port in {text:?}"))?;
    if host.is_empty() || host.contains('/') {
        bail!("{text:?} is no host: write a name or an IP, with a port behind a colon where it is another");
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_with_and_without_its_port() {
        let read = |text: &str| listener(text, 5433).unwrap();
        assert_eq!(read("db-1"), ("db-1".into(), 5433));
        assert_eq!(read("10.0.0.1:6000"), ("10.0.0.1".into(), 6000));
        assert_eq!(read("fd00::1"), ("fd00::1".into(), 5433));
        assert_eq!(read("[fd00::1]:6000"), ("fd00::1".into(), 6000));
        for bad in ["db-1:x", "", ":6000", "/tmp", "[fd00::1]x"] {
            assert!(listener(bad, 5432).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_read_one_by_one_and_as_a_range() {
        let read = |text: &str| ports(text).map(|ports| ports.0.collect::<Vec<u16>>());
        assert_eq!(read("6000"), Ok(vec![6000]));
        assert_eq!(read("6000-6002"), Ok(vec![6000, 6001, 6002]));
        for bad in ["", "0", "6002-6000", "70000", "a-b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
