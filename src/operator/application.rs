//! The Secret that an application logs in with: made once, with a password that nobody has thought of. Whoever changes the
//! password in it, or deletes it, has the server's changed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::{Client, Resource as _, ResourceExt as _};
use postgres_protocol::password::scram_sha_256;
use rustls::crypto::ring::default_provider;
use tokio::time::Instant;

use super::FIELD_MANAGER;
use crate::act::pods::{NotMade, amend, secret};
use crate::api::ReplicaTopology;
use crate::model::orders::Application;
use crate::render::clients;
use crate::render::pods::metadata;

/// How old what is known of it may be.
const STALE_AFTER: Duration = Duration::from_secs(60);
/// Its key in the Secret.
const PASSWORD: &str = "password";

/// Why nobody can log in with it yet.
#[derive(Debug, thiserror::Error)]
pub enum NoLogin {
    /// The Secret.
    #[error(transparent)]
    Object(#[from] NotMade),
    /// Chance.
    #[error("no password can be made: the machine gives no random numbers")]
    NoChance,
    /// What is in it.
    #[error("Secret {0:?} has no text in \"password\": write one, or delete it, and it is made anew")]
    NoPassword(String),
}

/// What is known of the Secret of one topology.
#[derive(Default)]
pub(super) struct Login(Mutex<Option<Known>>);

struct Known {
    at: Instant,
    application: Application,
}

impl Login {
    /// What the primary is to let in; `None` where that is not known yet.
    pub(super) fn application(&self) -> Option<Application> {
        self.known().as_ref().map(|known| known.application.clone())
    }

    /// Whether it has to be looked at.
    pub(super) fn is_due(&self) -> bool {
        self.known().as_ref().is_none_or(|known| known.at.elapsed() >= STALE_AFTER)
    }

    /// Looks at the Secret, and makes it where it is not there. `authority` is whose signature servers show.
    ///
    /// # Errors
    /// [`NoLogin`]; what was known stays so.
    pub(super) async fn look(
        &self,
        client: &Client,
        topology: &ReplicaTopology,
        authority: &str,
    ) -> Result<(), NoLogin> {
        let name = clients::application_name(topology);
        let described = metadata(topology, &name, None);
        let content = bytes(clients::secret(topology, &password()?, authority));
        let there = secret(client, FIELD_MANAGER, &described, content).await?;
        let is = there.data.clone().unwrap_or_default();
        let text = |key: &str| is.get(key).and_then(|value| std::str::from_utf8(&value.0).ok());
        let password = text(PASSWORD).map(|text| text.trim_end_matches(['\r', '\n'])).filter(|text| !text.is_empty());
        let password = password.ok_or_else(|| NoLogin::NoPassword(name.clone()))?;
        let mut rest = clients::secret(topology, password, authority);
        rest.remove(PASSWORD);
        if rest.iter().any(|(key, value)| text(key) != Some(value)) {
            // It is another writing of it then, and looked at once more.
            return Ok(amend(client, FIELD_MANAGER, &described, &bytes(rest)).await?);
        }
        let (database, owner) = clients::database_and_owner(topology);
        let secret_version =
            [there.meta().uid.clone(), there.resource_version()].map(Option::unwrap_or_default).join("/");
        let mut known = self.known();
        let application = match known.take() {
            Some(same) if same.application.secret_version == secret_version => same.application,
            _ => Application { database, owner, verifier: scram_sha_256(password.as_bytes()), secret_version },
        };
        *known = Some(Known { at: Instant::now(), application });
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(content: BTreeMap<String, String>) -> BTreeMap<String, Vec<u8>> {
    content.into_iter().map(|(key, text)| (key, text.into_bytes())).collect()
}

fn password() -> Result<String, NoLogin> {
    // Nobody guesses it, and whoever has to type its 32 digits can.
    let mut bytes = [0; 16];
    default_provider().secure_random.fill(&mut bytes).map_err(|_| NoLogin::NoChance)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_passwords_are_alike() {
        let (one, other) = (password().unwrap(), password().unwrap());
        assert!(one != other && one.len() == 32, "{one} {other}");
    }
}
