//! What to log in with, as libpq's programs take it: from flags, from the environment and from the password file. A
//! password is never taken from the command line, which every user of the machine can read.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::model::WhyUnseen;
use crate::observe::{Credentials, Listener, SslMode};

/// How to log in.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// The role to log in as. Its password comes from PGPASSWORD or the password file.
    #[arg(long, short = 'U', env = "PGUSER", default_value = "waltree")]
    user: String,
    /// The database to log in to.
    #[arg(long, short, env = "PGDATABASE", default_value = "postgres")]
    dbname: String,
    /// A file with passwords, as libpq reads it: HOST:PORT:DATABASE:USER:PASSWORD, of mode 0600. Default: ~/.pgpass.
    #[arg(long, env = "PGPASSFILE")]
    passfile: Option<PathBuf>,
    /// TLS between here and the servers, and in the manifest between the operator and them.
    #[arg(long, env = "PGSSLMODE", default_value = "verify-full")]
    sslmode: Mode,
    /// A file with the certificates that the servers' are checked against, for verify-ca and verify-full.
    #[arg(long, env = "PGSSLROOTCERT")]
    sslrootcert: Option<PathBuf>,
    /// A file with a client certificate, in place of a password.
    #[arg(long, env = "PGSSLCERT", requires = "sslkey")]
    sslcert: Option<PathBuf>,
    /// The file with its key.
    #[arg(long, env = "PGSSLKEY", requires = "sslcert")]
    sslkey: Option<PathBuf>,
}

/// The later the more is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Mode {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Login {
    pub(super) fn ssl_mode(&self) -> SslMode {
        match self.sslmode {
            Mode::Disable => SslMode::Disable,
            Mode::Require => SslMode::Require,
            Mode::VerifyCa => SslMode::VerifyCa,
            Mode::VerifyFull => SslMode::VerifyFull,
        }
    }

    /// The same in the words of the resource.
    pub(super) fn ssl_mode_as_declared(&self) -> &'static str {
        match self.sslmode {
            Mode::Disable => "Disable",
            Mode::Require => "Require",
            Mode::VerifyCa => "VerifyCa",
            Mode::VerifyFull => "VerifyFull",
        }
    }

    fn sslmode_as_given(&self) -> String {
        self.sslmode.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What to do about a server that is not seen, where it is to be said with the options of this command.
    pub(super) fn cure(&self, why: WhyUnseen) -> Option<String> {
        let user = &self.user;
        let cure = match why {
            WhyUnseen::TlsFailed => format!("with --sslmode {}: {}", self.sslmode_as_given(), self.cures()),
            WhyUnseen::CredentialsMissing => format!(
                "give the password of {user} in PGPASSWORD, or in the file that PGPASSFILE names or ~/.pgpass, or a \
                 certificate with --sslcert and --sslkey"
            ),
            WhyUnseen::CredentialsRejected => format!(
                "correct the password of {user} or name another role with --user; the server's pg_hba.conf needs a line \
                 for it from here to {}",
                self.dbname
            ),
            WhyUnseen::Refused => "start it, or give the port that it listens on with --port".to_owned(),
            _ => return None,
        };
        Some(format!("Where it says {why}: {cure}."))
    }

    /// What helps where a certificate cannot be checked, without what was given.
    fn cures(&self) -> String {
        const LESS: [(Mode, &str); 3] = [
            (Mode::VerifyCa, "--sslmode verify-ca takes any name in a certificate"),
            (Mode::Require, "--sslmode require any certificate"),
            (Mode::Disable, "--sslmode disable uses no TLS"),
        ];
        let ca = "give the certificate of the authority that signed the servers' with --sslrootcert FILE";
        let less: Vec<&str> = LESS.iter().filter(|(mode, _)| *mode < self.sslmode).map(|(_, what)| *what).collect();
        if less.is_empty() { ca.to_owned() } else { format!("{ca}, or check less: {}", less.join(", ")) }
    }

    /// The credentials for a fleet, with the password of the first of these hosts that the password file has.
    pub(super) fn credentials(&self, hosts: &[Listener]) -> anyhow::Result<Credentials> {
        let file = |path: &Option<PathBuf>| {
            let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
            path.as_ref().map(read).transpose()
        };
        if matches!(self.sslmode, Mode::VerifyCa | Mode::VerifyFull) && self.sslrootcert.is_none() {
            let mode = self.sslmode_as_given();
            let cures = self.cures();
            bail!(
                "--sslmode {mode} checks the servers' certificates, and there is nothing to check them with: {cures}"
            );
        }
        let password = match std::env::var("PGPASSWORD") {
            Ok(password) => Some(password),
            Err(_) => self.file_password(hosts)?,
        };
        Ok(Credentials {
            username: self.user.clone(),
            password,
            dbname: self.dbname.clone(),
            client_certificate: file(&self.sslcert)?.zip(file(&self.sslkey)?),
            ca: file(&self.sslrootcert)?,
        })
    }

    fn file_password(&self, hosts: &[Listener]) -> anyhow::Result<Option<String>> {
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass"));
        let Some(path) = self.passfile.clone().or(home) else { return Ok(None) };
        let shown = path.display();
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.passfile.is_none() => return Ok(None),
            metadata => metadata.with_context(|| format!("cannot read {shown}"))?,
        };
        // Libpq passes over what is no file too, as /dev/null, by which one says that there is none.
        if !metadata.is_file() {
            return Ok(None);
        }
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("{shown} can be read by others, as its mode is {:04o}: run chmod 600 {shown}", mode & 0o7777);
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {shown}"))?;
        Ok(hosts.iter().find_map(|host| password(&text, host, &self.dbname, &self.user)))
    }
}

/// The password in the first line that fits, as libpq finds it: `*` fits anything, a backslash takes the next letter as
/// it is.
fn password(text: &str, (host, port): &Listener, dbname: &str, user: &str) -> Option<String> {
    let wanted = [host.as_str(), &port.to_string(), dbname, user];
    let fits = |line: &str| {
        let (fields, password) = fields(line)?;
        let all = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        all.then_some(password)
    };
    text.lines().filter(|line| !line.starts_with('#')).find_map(fits)
}

/// The first four fields of a line and what is left.
fn fields(line: &str) -> Option<([String; 4], String)> {
    let mut parts: [String; 5] = Default::default();
    let mut at = 0;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => parts[at].extend(letters.next()),
            ':' if at < 4 => at += 1,
            letter => parts[at].push(letter),
        }
    }
    let [host, port, dbname, user, password] = parts;
    (at == 4).then_some(([host, port, dbname, user], password))
}

#[cfg(test)]
mod tests {
    use super::password;

    #[test]
    fn the_first_line_of_a_password_file_that_fits_gives_the_password() {
        let text = "# a:1:b:c:no\nother:*:*:*:no\nfd00\\:\\:1:*:*:waltree:one\n*:5432:*:waltree:t\\:w\\\\o:3\n";
        let found = |host: &str, port| password(text, &(host.to_owned(), port), "postgres", "waltree");
        assert_eq!(found("fd00::1", 7).as_deref(), Some("one"));
        assert_eq!(found("10.0.0.1", 5432).as_deref(), Some("t:w\\o:3"));
        assert_eq!(found("10.0.0.1", 5433), None);
        assert_eq!(password("a:b\n", &("a".to_owned(), 1), "b", "c"), None);
    }
}
