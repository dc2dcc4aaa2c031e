//! The files of a data directory that are ours: configuration, who is let in, and that it starts as a standby.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Place;
use crate::model::orders::{BadOrders, Orders};
use crate::model::parameters::BadParameter;
use crate::render::{self, Server};

/// Who is let in.
const HBA: &str = "pg_hba.conf";
/// Our file, which `postgresql.conf` includes at its end.
const FILE: &str = "waltree.conf";

/// Why the configuration is not written.
#[derive(Debug, thiserror::Error)]
pub enum NotConfigured {
    /// The disk.
    #[error("cannot write {0}")]
    Disk(PathBuf, #[source] io::Error),
    /// Parameters of users.
    #[error("postgres.parameters: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Parameters(Vec<BadParameter>),
    /// PostgreSQL, and it is not for users to mend.
    #[error("PostgreSQL does not take its configuration: {0}")]
    Refused(String),
    /// The orders.
    #[error(transparent)]
    Orders(#[from] BadOrders),
}

/// Writes what differs. True when something did: a reload takes it in.
///
/// Every start is that of a standby, the primary's too: a server that was away does not know whether it still is what it was,
/// and only an order opens it (postgres-facts.md 10).
///
/// # Errors
/// When it cannot be written, or parameters are refused.
pub(super) fn write(
    place: &Place,
    orders: &Orders,
    version: u32,
    floors: &BTreeMap<String, u64>,
) -> Result<bool, NotConfigured> {
    let node = orders.name()?;
    let socket = place.socket.to_string_lossy();
    let certificates = place.certificates.as_ref().map(|folder| folder.to_string_lossy());
    let server = Server {
        node: &node,
        version,
        port: place.port,
        socket: &socket,
        children_max: orders.children_max,
        floors,
        route: &orders.route,
        certificates: certificates.as_deref(),
    };
    let settings = render::settings(&server, &orders.parameters).map_err(NotConfigured::Parameters)?;
    let hba = render::hba(&orders.hba, certificates.is_some());
    let data = &place.data;
    let main = data.join("postgresql.conf");
    let text = fs::read_to_string(&main).map_err(|error| NotConfigured::Disk(main.clone(), error))?;
    let include = format!("include '{FILE}'");
    let included = text.lines().any(|line| line.trim() == include);
    let text = if included { text } else { format!("{}\n{include}\n", text.trim_end()) };
    let mut changed = false;
    // Included last: until it is there nothing names it.
    let ours = [(FILE, settings), (HBA, hba), ("pg_ident.conf", render::ident())];
    for (file, text) in ours.into_iter().chain([("postgresql.conf", text)]) {
        changed |= written(&data.join(file), &text)?;
    }
    Ok(changed)
}

/// The lines of pg_hba.conf that are there.
pub(super) fn lines_there(data: &Path) -> Vec<String> {
    let text = fs::read_to_string(data.join(HBA)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// To be called before every start.
///
/// # Errors
/// When it cannot be written.
pub(super) fn as_standby(data: &Path) -> Result<(), NotConfigured> {
    // Kubernetes gives a volume to a group by letting the group write everywhere, and PostgreSQL refuses to begin then.
    let own = fs::Permissions::from_mode(0o700);
    fs::set_permissions(data, own).map_err(|error| NotConfigured::Disk(data.to_owned(), error))?;
    written(&data.join("standby.signal"), "").map(drop)
}

/// True when it was not so before.
fn written(file: &Path, text: &str) -> Result<bool, NotConfigured> {
    if fs::read_to_string(file).is_ok_and(|have| have == text) {
        return Ok(false);
    }
    replace(file, text).map_err(|error| NotConfigured::Disk(file.to_owned(), error))?;
    Ok(true)
}

/// In one step, so that whoever reads meanwhile, or after a crash of the machine, sees the one or the other.
///
/// # Errors
/// When the disk refuses.
pub(super) fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let mut part = File::create(&new)?;
    part.write_all(text.as_bytes())?;
    part.sync_all()?;
    rename(Path::new(&new), file)
}

/// A rename that outlives a crash of the machine.
///
/// # Errors
/// When the disk refuses.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    File::open(to.parent().unwrap_or(Path::new("/")))?.sync_all()
}
