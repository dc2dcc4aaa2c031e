//! The manifest as text, with what is to be known of it as comments.

use std::fmt::Write as _;

use crate::model::{Desired, Group, GroupName, Management, NodeName};
use crate::observe::Credentials;
use crate::plan::Adoption;

/// Default of `limits.fanOut`, which a group need not repeat.
const FAN_OUT: usize = 8;
/// Default of `limits.depth`.
const DEPTH: usize = 4;
/// Default of a host's port.
const PORT: u16 = 5432;
/// Longest line of a comment.
const WIDTH: usize = 116;

/// What the manifest says beside the fleet itself.
pub(super) struct Manifest<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
    pub(super) secret: String,
    pub(super) ssl_mode: &'a str,
    pub(super) credentials: &'a Credentials,
    pub(super) hosts: &'a [String],
}

impl Manifest<'_> {
    /// The whole text: comments, then one document.
    pub(super) fn text(&self, adoption: &Adoption, crawled: &[String]) -> String {
        let mut text = String::new();
        comment(&mut text, &format!("The fleet of {}, as it is connected now.", self.hosts.join(", ")));
        for remark in crawled.iter().chain(&adoption.remarks) {
            comment(&mut text, remark);
        }
        let ours = |group: &&Group| group.is_root() && group.management == Management::Routes;
        if let Some(group) = adoption.desired.groups.iter().find(ours) {
            let name = &group.name;
            let remark = format!(
                "Where another manager keeps the servers of {name}, such as Patroni: run this with --observe-root."
            );
            comment(&mut text, &remark);
        }
        self.rights(&mut text, adoption);
        comment(&mut text, "The Secret, with what the operator logs in with:");
        let _ = writeln!(text, "#   {}", self.secret_text());
        let namespace = self.namespace.map(|namespace| format!(", namespace: {}", quoted(namespace)));
        let _ = write!(
            text,
            "apiVersion: waltree.dev/v1alpha1\nkind: ReplicaTopology\nmetadata: {{name: {}{}}}\nspec:\n  \
             automation: Observe   # Heal when `kubectl waltree plan` says what you want\n",
            quoted(self.name),
            namespace.unwrap_or_default()
        );
        if adoption.desired.limits.depth != DEPTH {
            let _ = writeln!(text, "  limits: {{depth: {}}}", adoption.desired.limits.depth);
        }
        text.push_str("  groups:\n");
        for group in &adoption.desired.groups {
            self.group(&mut text, &adoption.desired, group);
        }
        text
    }

    fn rights(&self, text: &mut String, adoption: &Adoption) {
        if adoption.missing_grants.is_empty() {
            return;
        }
        let user = &self.credentials.username;
        comment(text, &format!("Rights that {user} lacks. Run on the primary, with psql, as a superuser:"));
        for sql in &adoption.missing_grants {
            let _ = writeln!(text, "#   {sql}");
        }
    }

    fn secret_text(&self) -> String {
        let from = |key: &str, what: &str| format!(" --from-file={key}={what}");
        let mut keys = format!(" --from-literal=username={}", self.credentials.username);
        if self.credentials.dbname != Credentials::default().dbname {
            let _ = write!(keys, " --from-literal=dbname={}", self.credentials.dbname);
        }
        if self.credentials.client_certificate.is_some() {
            keys += &(from("tls.crt", "FILE") + &from("tls.key", "FILE"));
        } else {
            keys += &from("password", "FILE");
        }
        if self.credentials.ca.is_some() {
            keys += &from("ca.crt", "FILE");
        }
        let namespace = self.namespace.map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
        format!("kubectl{namespace} create secret generic {}{keys}", self.secret)
    }

    fn group(&self, text: &mut String, desired: &Desired, group: &Group) {
        let _ = writeln!(text, "  - name: {}", quoted(group.name.as_str()));
        if group.management == Management::Observe {
            text.push_str("    management: Observe\n");
        }
        if group.relays > 0 {
            let _ = writeln!(text, "    relays: {}", group.relays);
        }
        if group.fan_out != FAN_OUT {
            let _ = writeln!(text, "    fanOut: {}", group.fan_out);
        }
        if !group.upstreams.is_empty() {
            let upstreams: Vec<String> = group.upstreams.iter().map(GroupName::as_str).map(quoted).collect();
            let _ = writeln!(text, "    upstreams: [{}]", upstreams.join(", "));
        }
        let _ = write!(
            text,
            "    credentialsSecretRef: {{name: {}}}\n    sslMode: {}\n    hosts:\n",
            quoted(&self.secret),
            self.ssl_mode
        );
        for host in &group.members {
            text.push_str(&host_text(desired, host));
        }
    }
}

fn host_text(desired: &Desired, host: &NodeName) -> String {
    let Some(spec) = desired.nodes.get(host) else { return String::new() };
    let port = if spec.port == PORT { String::new() } else { format!(", port: {}", spec.port) };
    format!("    - {{name: {}, address: {}{port}}}\n", quoted(host.as_str()), quoted(&spec.address))
}

/// A word as YAML reads it, which takes some for numbers or for true and false.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let taken = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&word.to_lowercase().as_str());
    let name = word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(plain) && !taken;
    let address = word.parse::<std::net::Ipv4Addr>().is_ok();
    if name || address { word.to_owned() } else { format!("{word:?}") }
}

/// One remark, over as many lines as it takes. What a server said may hold anything, so nothing of it begins a line.
fn comment(text: &mut String, remark: &str) {
    let (mut line, mut begins) = (String::from("#"), "# ");
    for word in remark.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH && line.len() > begins.len() {
            let _ = writeln!(text, "{line}");
            begins = "#   ";
            line = String::from("#  ");
        }
        line.push(' ');
        line += word;
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_yaml_would_take_for_something_else_is_quoted() {
        for (word, text) in [("eu-1", "eu-1"), ("no", "\"no\""), ("10.0.0.1", "10.0.0.1"), ("fd00::1", "\"fd00::1\"")] {
            assert_eq!(quoted(word), text);
            let read: serde_json::Value = serde_yaml::from_str(text).unwrap();
            assert_eq!(read, serde_json::Value::from(word));
        }
    }

    #[test]
    fn every_line_of_a_remark_is_a_comment() {
        let mut text = String::new();
        comment(&mut text, &format!("a server said:\nkind: Secret\r{}", " word".repeat(60)));
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.starts_with("# ")), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH + 4), "{text}");
    }
}
