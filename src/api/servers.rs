//! What is written of the servers that waltree runs, checked.

use super::topology::{HBA_LINE_BYTES_MAX, HBA_LINES_MAX, PARAMETERS_MAX, PostgresSpec, SQL_NAME_BYTES_MAX};
use crate::model::check::Rejection;
use crate::model::parameters::{check, hba_fault};

/// Every PostgreSQL has these.
const DATABASES: &[&str] = &["postgres", "template0", "template1"];
/// Roles that are somebody's already, and words that SQL does not take for one.
const ROLES: &[&str] = &["none", "postgres", "public", "waltree", "waltree_standby"];

/// What is wrong with it.
pub(super) fn faults(spec: &PostgresSpec) -> Vec<Rejection> {
    let mut found = Vec::new();
    let mut reject =
        |field: &str, message: String| found.push(Rejection::new(format!("spec.postgres.{field}"), message));
    let counts = [("parameters", spec.parameters.len(), PARAMETERS_MAX), ("hba", spec.hba.len(), HBA_LINES_MAX)];
    for (field, count, most) in counts.into_iter().filter(|(_, count, most)| count > most) {
        reject(field, format!("{count} are more than the {most} that are possible: leave some out"));
    }
    for (name, value) in &spec.parameters {
        if let Err(bad) = check(name, value) {
            reject(&format!("parameters.{name}"), bad.to_string());
        }
    }
    for (place, line) in spec.hba.iter().enumerate() {
        let length = (line.len() > HBA_LINE_BYTES_MAX)
            .then(|| format!("has more than {HBA_LINE_BYTES_MAX} bytes: make two lines of it"));
        if let Some(fault) = length.or_else(|| hba_fault(line)) {
            reject(&format!("hba[{place}]"), format!("{line:?} {fault}"));
        }
    }
    let bootstrap = spec.bootstrap.clone().unwrap_or_default();
    for (field, name, taken) in [("database", bootstrap.database, DATABASES), ("owner", bootstrap.owner, ROLES)] {
        let Some(name) = name else { continue };
        if !is_sql_name(&name) {
            let cure =
                format!("use 1 to {SQL_NAME_BYTES_MAX} lower-case letters, digits and '_', beginning with a letter");
            reject(&format!("bootstrap.{field}"), format!("{name:?} is no name here: {cure}"));
        } else if taken.contains(&name.as_str()) || field == "owner" && name.starts_with("pg_") {
            reject(&format!("bootstrap.{field}"), format!("{name:?} is somebody else's already: choose another name"));
        }
    }
    found
}

fn is_sql_name(text: &str) -> bool {
    let begin = |c: char| c.is_ascii_lowercase();
    let inner = |c: char| begin(c) || c.is_ascii_digit() || c == '_';
    text.len() <= SQL_NAME_BYTES_MAX && text.starts_with(begin) && text.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        faults(&serde_yaml::from_str(text).unwrap()).into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn each_fault_names_its_field_and_what_is_right_has_none() {
        let right = "{parameters: {shared_buffers: 1GB}, hba: ['host all all all scram-sha-256'],
            bootstrap: {database: shop, owner: shop_1}}";
        assert_eq!(fields(right), [""; 0]);
        let wrong = "{parameters: {port: '1', work_mem: 1MB}, hba: ['host all all all md5', 'local all all trust'],
            bootstrap: {database: Shop, owner: pg_shop}}";
        let named = ["parameters.port", "hba[1]", "bootstrap.database", "bootstrap.owner"];
        assert_eq!(fields(wrong), named.map(|field| format!("spec.postgres.{field}")));
        assert_eq!(fields("{bootstrap: {database: template1, owner: waltree}}").len(), 2);
    }
}
