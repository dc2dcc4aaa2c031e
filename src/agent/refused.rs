//! What PostgreSQL does not take of what users ask for. It is left out of the files, so that a server starts whatever was
//! asked of it, and it is told.

use std::collections::BTreeMap;

use crate::model::orders::Orders;

/// Parameters and lines of pg_hba.conf, each with what PostgreSQL says of it.
#[derive(Debug, Default)]
pub(super) struct Refused {
    parameters: BTreeMap<String, String>,
    hba: BTreeMap<String, String>,
}

impl Refused {
    /// The orders without them.
    pub(super) fn without(&self, orders: &Orders) -> Orders {
        let mut left = orders.clone();
        left.parameters.retain(|name, _| !self.parameters.contains_key(name));
        left.hba.retain(|line| !self.hba.contains_key(line));
        left
    }

    /// Takes in what PostgreSQL said of a file; false where none of users' parameters is named that was not before.
    pub(super) fn learn_parameters(&mut self, said: &str, users: &BTreeMap<String, String>) -> bool {
        let before = self.parameters.len();
        for line in said.split(" / ") {
            let named = line.split_once("parameter \"").and_then(|(_, rest)| rest.split('"').next());
            let users = users.keys().find(|name| named.is_some_and(|named| name.eq_ignore_ascii_case(named)));
            if let Some(name) = users {
                // "LOG:  invalid value for ...", with or without a time before it.
                let words = line.split_once(":  ").map_or(line, |(_, words)| words);
                self.parameters.entry(name.clone()).or_insert_with(|| words.to_owned());
            }
        }
        self.parameters.len() > before
    }

    /// The same of lines of users.
    pub(super) fn learn_lines(&mut self, faults: Vec<(String, String)>, users: &[String]) -> bool {
        let before = self.hba.len();
        self.hba.extend(faults.into_iter().filter(|(line, _)| users.contains(line)));
        self.hba.len() > before
    }

    /// For people; empty where there is nothing.
    pub(super) fn told(&self) -> String {
        let parameters = self.parameters.iter().map(|(name, why)| format!("postgres.parameters.{name}: {why}"));
        let lines = self.hba.iter().map(|(line, why)| format!("postgres.hba: {line:?}: {why}"));
        let all: Vec<String> = parameters.chain(lines).collect();
        if all.is_empty() { String::new() } else { format!("{}. It is left out until it is corrected", all.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_users_parameters_is_known_and_of_others_is_not() {
        let users: BTreeMap<String, String> = [("Work_Mem".to_owned(), "x".to_owned())].into();
        let mut refused = Refused::default();
        let said = "LOG:  invalid value for parameter \"work_mem\": \"x\" / FATAL:  configuration file \"/d/w\" contains errors";
        assert!(refused.learn_parameters(said, &users));
        assert!(!refused.learn_parameters(said, &users), "there is nothing new in it");
        assert!(!refused.learn_parameters("LOG:  invalid value for parameter \"port\": \"x\"", &users));
        assert_eq!(
            refused.told(),
            "postgres.parameters.Work_Mem: invalid value for parameter \"work_mem\": \"x\". It is left out until it is \
             corrected"
        );
    }
}
