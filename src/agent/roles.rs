//! The roles that every tree has: that of the operator, and that as which servers stream from each other. The standbys get
//! them by replication. Neither has a password: they log in with certificates.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::server::NotOpen;
use crate::model::orders::STANDBY_ROLE;

/// The same file that people run on servers of their own.
const OPERATOR_ROLE: &str = include_str!("../../deploy/sql/operator-role.sql");
/// How long it may take: an ordinary primary does it in milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes them where they are not, and gives them exactly the rights that they have to have.
///
/// # Errors
/// When the server refuses, or does not answer in time.
pub(super) async fn ensure(primary: &Client) -> Result<(), NotOpen> {
    let script = script();
    timeout(PATIENCE, primary.batch_execute(&script))
        .await
        .map_err(|_| NotOpen::Roles(None))?
        .map_err(|error| NotOpen::Roles(Some(error)))
}

/// Nobody is waited for: standbys that have to acknowledge cannot, before they are let in.
fn script() -> String {
    let of_psql = |line: &&str| !line.starts_with('\\');
    let operator: String = OPERATOR_ROLE.lines().filter(of_psql).flat_map(|line| [line, "\n"]).collect();
    format!(
        "SET synchronous_commit = local;
         DO $$ BEGIN
             IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{STANDBY_ROLE}') THEN
                 CREATE ROLE {STANDBY_ROLE};
             END IF;
         END $$;
         ALTER ROLE {STANDBY_ROLE} LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
         {operator}"
    )
}

#[cfg(test)]
mod tests {
    use super::script;

    #[test]
    fn what_only_psql_understands_is_left_out_and_nothing_else() {
        let script = script();
        assert!(!script.lines().any(|line| line.starts_with('\\')));
        assert!(script.contains("GRANT pg_monitor TO waltree;") && script.trim_end().ends_with("COMMIT;"));
    }
}
