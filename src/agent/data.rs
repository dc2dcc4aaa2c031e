//! The data directory: what is there, and how it comes to be. It appears whole or not at all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tracing::{error, info, warn};

use super::configure::{rename, replace};
use super::programs::{Failed, run};
use crate::model::orders::{BadOrders, Data, Orders, Role, Source};

/// The superuser that every server of a tree has.
pub(super) const SUPERUSER: &str = "postgres";

/// Why there are no data that could be started.
#[derive(Debug, thiserror::Error)]
pub enum NoData {
    /// A program.
    #[error(transparent)]
    Program(#[from] Failed),
    /// The orders.
    #[error(transparent)]
    Orders(#[from] BadOrders),
    /// The disk.
    #[error("cannot {0} {1}")]
    Disk(&'static str, PathBuf, #[source] io::Error),
    /// Something else is there.
    #[error(
        "{0} holds files that are no PostgreSQL data; nothing is removed. Empty it, or give the node another volume"
    )]
    Foreign(PathBuf),
    /// Another cluster's data are there.
    #[error(
        "{place} holds the data of another PostgreSQL (system identifier {found}, and this tree has {wanted}); it is not started, and nothing is removed. Give the node another volume"
    )]
    Stranger {
        /// Where.
        place: PathBuf,
        /// Whose.
        found: String,
        /// Whose they should be.
        wanted: String,
    },
    /// The one that writes has none, and its tree has.
    #[error(
        "{0} is empty, and this tree has rows: no new cluster is made in their place, and whoever writes is cloned from \
         nobody. Bring its data back, or promote a standby"
    )]
    Lost(PathBuf),
    /// Nobody can be cloned from.
    #[error("none of the {0} servers could be cloned from; it is tried again")]
    NoSource(usize),
}

/// Looks at the data directory.
///
/// # Errors
/// When it cannot be read, or holds what is nobody's data.
pub(super) async fn look(place: &Path) -> Result<Data, NoData> {
    let disk = |error| NoData::Disk("look at", place.to_owned(), error);
    let mut entries = match fs::read_dir(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Data::None),
        read => read.map_err(disk)?,
    };
    if entries.next().is_none() {
        return Ok(Data::None);
    }
    if !place.join("PG_VERSION").exists() {
        return Err(NoData::Foreign(place.to_owned()));
    }
    let said = run("pg_controldata", &["-D".into(), place.as_os_str().to_owned()]).await?;
    let line = said.lines().find_map(|line| line.strip_prefix("Database system identifier:"));
    match line {
        Some(identifier) => Ok(Data::Of(identifier.trim().to_owned())),
        None => Err(Failed::Said { program: "pg_controldata".to_owned(), said }.into()),
    }
}

/// What a standby may not have less of than its primary has, by their names in `pg_controldata` (postgres-facts.md 8).
const FLOORS: &[(&str, &str)] = &[
    ("max_connections setting:", "max_connections"),
    ("max_worker_processes setting:", "max_worker_processes"),
    ("max_wal_senders setting:", "max_wal_senders"),
    ("max_prepared_xacts setting:", "max_prepared_transactions"),
    ("max_locks_per_xact setting:", "max_locks_per_transaction"),
];

/// What the data say that a server needs to start on them.
///
/// # Errors
/// When they cannot be read.
pub(super) async fn floors(place: &Path) -> Result<BTreeMap<String, u64>, NoData> {
    let said = run("pg_controldata", &["-D".into(), place.as_os_str().to_owned()]).await?;
    let value = |begin: &str| said.lines().find_map(|line| line.strip_prefix(begin)?.trim().parse().ok());
    Ok(FLOORS.iter().filter_map(|(begin, name)| Some(((*name).to_owned(), value(begin)?))).collect())
}

/// Sees to it that there are data of this tree. A new cluster is only made for a primary while the tree has no system
/// identifier: a tree that has one has rows somewhere, and an empty volume must not take their place.
///
/// # Errors
/// When there are none yet, and why.
pub(super) async fn ensure(place: &Path, orders: &Orders) -> Result<Data, NoData> {
    match (look(place).await?, &orders.system_identifier) {
        (Data::Of(found), Some(wanted)) if found != *wanted => {
            return Err(NoData::Stranger { place: place.to_owned(), found, wanted: wanted.clone() });
        }
        (there @ Data::Of(_), _) => return Ok(there),
        (_, None) if orders.role == Role::Primary && orders.sources.is_empty() => {
            let part = part(place)?;
            info!("making a new cluster of databases");
            run("initdb", &initdb(&part)).await?;
            put_in_place(&part, place)?;
        }
        _ if orders.role == Role::Primary => return Err(NoData::Lost(place.to_owned())),
        _ => clone(place, orders).await?,
    }
    look(place).await
}

/// Without a locale the order of texts does not change with the image, under whose indexes it would.
fn initdb(part: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), part.into(), "-U".into(), SUPERUSER.into()];
    arguments.extend(["--data-checksums", "--encoding=UTF8", "--locale=C", "--auth=reject"].map(OsString::from));
    arguments
}

/// From the first source that lets us. Its slot of our name keeps the WAL until we stream; it may be there already.
async fn clone(place: &Path, orders: &Orders) -> Result<(), NoData> {
    let node = orders.name()?;
    for source in &orders.sources {
        if !is_ours(source, orders).await {
            continue;
        }
        for create in [true, false] {
            let part = part(place)?;
            info!(source = source.node, "cloning");
            match run("pg_basebackup", &backup(source, &part, node.slot(), create)).await {
                Ok(_) => {
                    // The source's own route and whatever else was set on it by ALTER SYSTEM.
                    let settings = part.join("postgresql.auto.conf");
                    replace(&settings, "").map_err(|error| NoData::Disk("write", settings, error))?;
                    info!(source = source.node, "cloned");
                    return put_in_place(&part, place);
                }
                Err(why) if create => {
                    info!(source = source.node, %why, "not with a new slot; trying with the one of our name");
                }
                Err(why) => warn!(source = source.node, %why, "cannot be cloned from"),
            }
        }
    }
    Err(NoData::NoSource(orders.sources.len()))
}

fn backup(source: &Source, part: &Path, slot: &str, create: bool) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-d".into(), source.conninfo.clone().into(), "-D".into(), part.into()];
    // A checkpoint that is spread takes half a minute even on an idle server (postgres-facts.md 8).
    arguments.extend(["-w", "-c", "fast", "-X", "stream", "-S", slot].map(OsString::from));
    arguments.extend(create.then(|| "-C".into()));
    arguments
}

/// Asked before anything is left on it: an address may lead to a server of somebody else.
async fn is_ours(source: &Source, orders: &Orders) -> bool {
    let Some(wanted) = &orders.system_identifier else { return true };
    let conninfo = format!("{} replication=true", source.conninfo);
    match run("psql", &["-XAtw", "-d", &conninfo, "-c", "IDENTIFY_SYSTEM"]).await {
        Ok(said) if said.split('|').next() == Some(wanted) => true,
        Ok(said) => {
            let found = said.split('|').next().unwrap_or_default();
            error!(
                source = source.node,
                found, wanted, "is another PostgreSQL than this tree's, and is not cloned from"
            );
            false
        }
        Err(why) => {
            warn!(source = source.node, %why, "cannot be cloned from");
            false
        }
    }
}

/// Where data are made: beside their place, so that they take it in one step. What an earlier attempt left is removed.
fn part(place: &Path) -> Result<PathBuf, NoData> {
    let mut part = place.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    match fs::remove_dir_all(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(NoData::Disk("remove", part, error)),
        _ => {}
    }
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&part)
        .map_err(|error| NoData::Disk("make", part.clone(), error))?;
    Ok(part)
}

/// An empty directory may be there.
fn put_in_place(part: &Path, place: &Path) -> Result<(), NoData> {
    rename(part, place).map_err(|error| NoData::Disk("put the data in place at", place.to_owned(), error))
}
