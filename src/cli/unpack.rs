//! `waltree unpack`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::OK;

/// Where to, and for whom.
#[derive(Debug, Args)]
pub struct Unpack {
    /// The folder, which is there.
    folder: PathBuf,
    /// The number of the user that a server runs as.
    #[arg(long)]
    user: u32,
}

/// Puts this program into a folder, with a list of users in which the server's has a name: PostgreSQL's own programs want to
/// know it, and images call their users what they like.
///
/// # Errors
/// When it cannot be written.
pub(super) fn run(what: &Unpack) -> anyhow::Result<u8> {
    let Unpack { folder, user } = what;
    let own = std::env::current_exe().context("where this program is")?;
    let [program, users] = ["waltree", "passwd"].map(|name| folder.join(name));
    // A container that is started again finds what the first has left.
    let part = folder.join("waltree.part");
    fs::copy(&own, &part).with_context(|| format!("copy it to {}", part.display()))?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).context("make it a program")?;
    fs::rename(&part, &program).with_context(|| format!("copy it to {}", program.display()))?;
    let list = format!("root:x:0:0::/:/sbin/nologin\npostgres:x:{user}:{user}::/tmp:/sbin/nologin\n");
    fs::write(&users, list).with_context(|| format!("write {}", users.display()))?;
    Ok(OK)
}
