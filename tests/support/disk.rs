//! A small disk for one server of a tree: a tmpfs below its data directory. Only root can mount one, also root of a namespace of its own.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::owner::{makes, owner};
use super::postgres::Tree;

/// Unmounts when it is told to; when its input ends before, because the test process did, it removes the tree's folder
/// too, which nobody else can while something is mounted in it.
const KEEPER: &str = r#"trap '' INT TERM HUP
read word || word=gone
umount -l "$1"
[ "$word" != gone ] || rm -rf "$2""#;

/// A mounted disk. It is unmounted when dropped.
pub struct Disk {
    at: PathBuf,
    keeper: Child,
}

impl Disk {
    /// Moves a server's data to a disk that has so much space left. Where we are not root there is none, and the
    /// test fails or is run elsewhere.
    pub async fn below(tree: &mut Tree, node: &str, spare_mib: u64) -> Option<Self> {
        if !makes(&format!("a full disk of {node}")) {
            return None;
        }
        let (uid, gid) = owner()?;
        tree.stop(node);
        let at = tree.data(node).to_owned();
        let away = at.with_extension("away");
        fs::rename(&at, &away).unwrap();
        fs::create_dir(&at).unwrap();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&at).arg(at.parent().unwrap());
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let used = run(Command::new("du").args(["-sm"]).arg(&away));
        let used: u64 = used.split_whitespace().next().unwrap().parse().unwrap();
        let options = format!("size={}m,mode=700,uid={uid},gid={gid}", used + spare_mib);
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at));
        run(Command::new("cp").arg("-a").arg(away.join(".")).arg(&at));
        fs::remove_dir_all(&away).unwrap();
        tree.start_node(node).await;
        Some(Self { at, keeper })
    }

    /// Gives it more space.
    pub fn grow(&self, size_mib: u64) {
        // All said: else the options of before are repeated, with an owner that a namespace does not know.
        let options = format!("remount,size={size_mib}m");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.stdin.take().map(|mut input| writeln!(input, "unmount"));
        let _ = self.keeper.wait();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
