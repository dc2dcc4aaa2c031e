//! What we log in with, from Secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::Mutex;

use crate::model::Millis;

/// User where the Secret has no `username`; `deploy/sql/operator-role.sql` creates it.
const DEFAULT_USER: &str = "waltree";
/// Database where the Secret has no `dbname`.
const DEFAULT_DATABASE: &str = "postgres";
/// A Secret is read again after this time at the latest.
const STALE_AFTER_MILLISECONDS: u64 = 60_000;
/// A rejected login reads its Secret again, but a fleet of rejected logins not more often than this.
const FRESH_FOR_MILLISECONDS: u64 = 1_000;
/// Deadline of one read.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// What we log in with. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The role.
    pub username: String,
    /// Its password.
    pub password: Option<String>,
    /// The database that the session is in.
    pub dbname: String,
    /// Client certificate chain and its key, PEM.
    pub client_certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// Certificates that may sign a server's, PEM.
    pub ca: Option<Vec<u8>>,
}

/// Why there is nothing to log in with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissingCredentials {
    /// There is no such Secret.
    #[error("Secret {0:?} does not exist; create it with the keys username and password")]
    NoSecret(String),
    /// The Secret lacks a key.
    #[error("Secret {secret:?} has no key {key:?}")]
    NoKey {
        /// Which Secret.
        secret: String,
        /// Which key.
        key: &'static str,
    },
    /// A value is no text.
    #[error("the key {key:?} of Secret {secret:?} is no UTF-8 text")]
    NotText {
        /// Which Secret.
        secret: String,
        /// Which key.
        key: &'static str,
    },
    /// The API server did not give it.
    #[error("Secret {secret:?} could not be read: {reason}")]
    Unreadable {
        /// Which Secret.
        secret: String,
        /// What the API server or the client said.
        reason: String,
    },
}

impl Default for Credentials {
    /// The user `waltree` in the database `postgres`, with neither password nor certificate.
    fn default() -> Self {
        Self {
            username: DEFAULT_USER.to_owned(),
            password: None,
            dbname: DEFAULT_DATABASE.to_owned(),
            client_certificate: None,
            ca: None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("dbname", &self.dbname)
            .field("client_certificate", &self.client_certificate.as_ref().map(|_| "***"))
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the keys `username`, `password`, `dbname`, `tls.crt`, `tls.key` and `ca.crt`.
    ///
    /// # Errors
    /// [`MissingCredentials`] names the Secret and the key.
    pub fn from_secret(secret: &str, data: &BTreeMap<String, ByteString>) -> Result<Self, MissingCredentials> {
        let bytes = |key| data.get(key).map(|ByteString(bytes)| bytes.clone()).filter(|b| !b.is_empty());
        let text = |key| match bytes(key).map(String::from_utf8) {
            None => Ok(None),
            // `kubectl create secret --from-file` keeps the newline that an editor puts at the end.
            Some(Ok(text)) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Some(Err(_)) => Err(MissingCredentials::NotText { secret: secret.to_owned(), key }),
        };
        let no_key = |key| MissingCredentials::NoKey { secret: secret.to_owned(), key };
        let password = text("password")?;
        let client_certificate = match (bytes("tls.crt"), bytes("tls.key")) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (Some(_), None) => return Err(no_key("tls.key")),
            (None, Some(_)) => return Err(no_key("tls.crt")),
            (None, None) if password.is_none() => return Err(no_key("password")),
            (None, None) => None,
        };
        Ok(Self {
            username: text("username")?.unwrap_or_else(|| DEFAULT_USER.to_owned()),
            password,
            dbname: text("dbname")?.unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
            client_certificate,
            ca: bytes("ca.crt"),
        })
    }
}

/// Where credentials come from.
pub struct Wallet(Source);

enum Source {
    Fixed(Credentials),
    Secrets { api: Api<Secret>, read: Mutex<BTreeMap<String, Read>> },
}

struct Read {
    at: Millis,
    credentials: Result<Credentials, MissingCredentials>,
}

impl Wallet {
    /// The same for every server, whatever Secret it names.
    pub fn fixed(credentials: Credentials) -> Self {
        Self(Source::Fixed(credentials))
    }

    /// The Secrets of one namespace.
    pub fn secrets(api: Api<Secret>) -> Self {
        Self(Source::Secrets { api, read: Mutex::default() })
    }

    /// The credentials of a Secret, at most a minute old, or a second when the last ones were `rejected`. When the API
    /// server is away the last ones that were read go on (law 11).
    pub(super) async fn credentials(
        &self,
        secret: Option<&str>,
        rejected: bool,
        now: Millis,
    ) -> Result<Credentials, MissingCredentials> {
        let (api, read, secret) = match (&self.0, secret) {
            (Source::Fixed(credentials), _) => return Ok(credentials.clone()),
            (Source::Secrets { .. }, None) => return Ok(Credentials::default()),
            (Source::Secrets { api, read }, Some(secret)) => (api, read, secret),
        };
        // Held while reading, so that a whole group makes one request and not one each.
        let mut read = read.lock().await;
        if let Some(last) = read.get(secret) {
            let good = last.credentials.is_ok() && !rejected;
            let limit = if good { STALE_AFTER_MILLISECONDS } else { FRESH_FOR_MILLISECONDS };
            if now.since(last.at) < limit {
                return last.credentials.clone();
            }
        }
        let fresh = read_secret(api, secret).await;
        let kept = read.get(secret).and_then(|last| last.credentials.clone().ok());
        let credentials = match (fresh, kept) {
            (Err(MissingCredentials::Unreadable { .. }), Some(kept)) => Ok(kept),
            (fresh, _) => fresh,
        };
        read.insert(secret.to_owned(), Read { at: now, credentials: credentials.clone() });
        credentials
    }
}

async fn read_secret(api: &Api<Secret>, name: &str) -> Result<Credentials, MissingCredentials> {
    let unreadable = |reason| MissingCredentials::Unreadable { secret: name.to_owned(), reason };
    match tokio::time::timeout(READ_DEADLINE, api.get_opt(name)).await {
        Err(_) => Err(unreadable(format!("no answer within {READ_DEADLINE:?}"))),
        Ok(Err(error)) => Err(unreadable(error.to_string())),
        Ok(Ok(None)) => Err(MissingCredentials::NoSecret(name.to_owned())),
        Ok(Ok(Some(secret))) => Credentials::from_secret(name, &secret.data.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(pairs: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn a_password_alone_is_enough_and_its_last_newline_is_not_part_of_it() {
        let credentials = Credentials::from_secret("sql", &secret(&[("password", "pw\n")])).unwrap();
        assert_eq!((credentials.username.as_str(), credentials.dbname.as_str()), ("waltree", "postgres"));
        assert_eq!(credentials.password.as_deref(), Some("pw"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |pairs| Credentials::from_secret("sql", &secret(pairs)).unwrap_err().to_string();
        assert_eq!(missing(&[("username", "me")]), "Secret \"sql\" has no key \"password\"");
        assert_eq!(missing(&[("tls.crt", "x")]), "Secret \"sql\" has no key \"tls.key\"");
        assert_eq!(missing(&[("tls.key", "x")]), "Secret \"sql\" has no key \"tls.crt\"");
    }

    #[test]
    fn debug_shows_no_secret() {
        let pairs = [("password", "s3cret"), ("tls.crt", "chain"), ("tls.key", "s3cret")];
        let shown = format!("{:?}", Credentials::from_secret("sql", &secret(&pairs)).unwrap());
        assert!(!shown.contains("s3cret") && !shown.contains("115, 51"), "{shown}");
    }
}
