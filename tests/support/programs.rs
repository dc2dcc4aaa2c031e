//! Where the programs of PostgreSQL are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs of a major version: given, installed, or brought by `tests/postgres/fetch`; else why there are none.
pub fn binaries(version: Option<u32>) -> Result<PathBuf, String> {
    let given = version.map_or("WALTREE_PG_BIN".to_owned(), |v| format!("WALTREE_PG_BIN_{v}"));
    if let Some(bin) = std::env::var_os(given) {
        return Ok(bin.into());
    }
    let installed = fs::read_dir("/usr/lib/postgresql")
        .map(|dir| dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect::<Vec<u32>>())
        .unwrap_or_default();
    let found = match version {
        None => Some(installed.into_iter().max().ok_or("PostgreSQL is not installed: apt-get install postgresql")?),
        Some(version) => Some(version).filter(|version| installed.contains(version)),
    };
    match (found, version) {
        (Some(found), _) => Ok(PathBuf::from(format!("/usr/lib/postgresql/{found}/bin"))),
        (None, version) => fetch(version.unwrap_or_default()),
    }
}

fn fetch(version: u32) -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres/fetch");
    let output = Command::new(script).arg(version.to_string()).output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}
