//! PostgreSQL's own programs, found where the image has them: on the PATH.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

/// A program that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It is not there, or may not be run.
    #[error("cannot run {0}")]
    Start(String, #[source] io::Error),
    /// It said no.
    #[error("{program} ended with {status}: {said}")]
    Ended {
        /// Which.
        program: String,
        /// How.
        status: ExitStatus,
        /// The last lines that it said.
        said: String,
    },
    /// It said something else than it says.
    #[error("{program} said what cannot be understood: {said:?}")]
    Said {
        /// Which.
        program: String,
        /// The words.
        said: String,
    },
}

/// What a program prints. Its messages are in English whatever the image speaks. Where this is not waited for to its end it
/// is killed, with whatever it has started; and where this process ends, the guard does so.
///
/// # Errors
/// When it cannot be run, or fails.
pub(super) async fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<String, Failed> {
    let start = |error| Failed::Start(program.to_owned(), error);
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn().map_err(start)?;
    let _group = child.id().map(Group);
    let output = child.wait_with_output().await.map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let lines = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = lines.lines().collect();
    let said = lines[lines.len().saturating_sub(5)..].join(" / ");
    Err(Failed::Ended { program: program.to_owned(), status: output.status, said })
}

/// The processes of a program, ended with this. `pg_basebackup` has a child that does not notice the end of its parent and keeps
/// the slot busy.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        // None is left where it has ended in order.
        let _ = killpg(Pid::from_raw(self.0.cast_signed()), Signal::SIGKILL);
    }
}

/// What PostgreSQL says against the settings in a data directory, whether it runs or not; nothing where it takes them.
///
/// # Errors
/// When it cannot be asked.
pub(super) async fn faults(data: &Path) -> Result<Option<String>, Failed> {
    // Any setting that no running server is needed for: to tell it, it reads all of them.
    let arguments = [OsStr::new("-D"), data.as_os_str(), OsStr::new("-C"), OsStr::new("config_file")];
    match run("postgres", &arguments).await {
        Ok(_) => Ok(None),
        Err(Failed::Ended { said, .. }) => Ok(Some(said)),
        Err(failed) => Err(failed),
    }
}

/// The major version of the PostgreSQL of this image.
///
/// # Errors
/// When there is none.
pub(super) async fn version() -> Result<u32, Failed> {
    // "postgres (PostgreSQL) 17.10 (Debian ...)"
    let said = run("postgres", &["--version"]).await?;
    let number = said.split_once("(PostgreSQL) ").map_or("", |(_, rest)| rest);
    let major: String = number.chars().take_while(char::is_ascii_digit).collect();
    major.parse().map_err(|_| Failed::Said { program: "postgres".to_owned(), said })
}
