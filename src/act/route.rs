//! The route of a node, as PostgreSQL settings.

use tokio_postgres::Client;

use super::NotDone;
use crate::model::Conninfo;
use crate::model::conninfo::{MASK, SECRETS};

const RELOAD: &str = "SELECT pg_reload_conf()";

/// Writes the settings, and reloads when both were taken: with one alone the node would be led to an upstream that has no
/// slot of the name that it asks for.
pub(super) async fn set(session: &Client, conninfo: &Conninfo, nudge: bool, slot: Option<&str>) -> Result<(), NotDone> {
    let text = writable(conninfo)?;
    // Only a changed string reconnects (postgres-facts.md 1.1), and a blank at the end changes nothing else.
    let text = if nudge { text + " " } else { text };
    let slot = slot.map(|slot| format!("ALTER SYSTEM SET primary_slot_name = {}", literal(slot)));
    let conninfo = format!("ALTER SYSTEM SET primary_conninfo = {}", literal(&text));
    session.batch_execute("SELECT 1").await?;
    // The slot's name is first, once in the life of a node: a plan that is cut here leaves the old route with a right slot
    // name. Only when it was taken is there anything for the new one.
    if let Some(slot) = slot {
        session.batch_execute(&slot).await?;
    }
    session.batch_execute(&conninfo).await?;
    session.batch_execute(RELOAD).await?;
    Ok(())
}

/// Reloads the configuration.
pub(super) async fn reload(session: &Client) -> Result<(), NotDone> {
    session.batch_execute("SELECT 1").await?;
    session.batch_execute(RELOAD).await?;
    Ok(())
}

/// The text of a connection string that holds no secret and none that was masked: the server would keep it in clear,
/// and log it at every reload (postgres-facts.md 13).
fn writable(conninfo: &Conninfo) -> Result<String, NotDone> {
    if let Some(keyword) = SECRETS.iter().find(|secret| conninfo.get(secret).is_some()) {
        return Err(NotDone::Password((*keyword).to_owned()));
    }
    let text = conninfo.to_string();
    if text.contains(MASK) { Err(NotDone::Password(MASK.to_owned())) } else { Ok(text) }
}

/// A literal that reads the same whatever `standard_conforming_strings` is. ALTER SYSTEM takes no parameters.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_written() {
        let secrets = SECRETS.map(|secret| format!("host=a {secret}=x"));
        for bad in secrets.iter().map(String::as_str).chain(["host=a user=***", "host=a password=***"]) {
            assert!(matches!(writable(&Conninfo::parse(bad).unwrap()), Err(NotDone::Password(_))), "{bad}");
        }
        assert_eq!(writable(&Conninfo::parse("host=a passfile=/p").unwrap()).unwrap(), "host=a passfile=/p");
    }
}
