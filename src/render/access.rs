//! Who is let in, as PostgreSQL reads it.

use crate::model::orders::{OPERATOR, STANDBY_ROLE};

/// How the certificate of an operator is mapped to its role.
const OPERATOR_MAP: &str = "waltree_operator";
/// How the certificate of a node is mapped to the role that servers stream as.
const NODE_MAP: &str = "waltree_node";
/// The operator's role, of `deploy/sql/operator-role.sql`.
const OPERATOR_ROLE: &str = "waltree";

/// The text of `pg_hba.conf`: ours, then the lines of users; the first that fits decides. With certificates the operator and
/// the servers log in by them and by nothing else, and whoever no line fits by a password over TLS. Without, the lines of
/// users say all of it.
pub fn hba(users: &[String], certificates: bool) -> String {
    // Only our own user reaches the socket's folder, and a name in the image's list of users is not needed.
    let own = ["local all all trust".to_owned()];
    let by_certificate = [
        format!("hostssl all,replication {OPERATOR_ROLE} all cert map={OPERATOR_MAP}"),
        format!("hostssl replication {STANDBY_ROLE} all cert map={NODE_MAP}"),
        format!("host all,replication {OPERATOR_ROLE},{STANDBY_ROLE} all reject"),
    ];
    let others = ["hostssl all all all scram-sha-256".to_owned()];
    let (by_certificate, others) = if certificates { (&by_certificate[..], &others[..]) } else { (&[][..], &[][..]) };
    lines(own.iter().chain(by_certificate).chain(users).chain(others))
}

/// The text of `pg_ident.conf`: whoever has the operator's certificate is its role, and every node is a server that streams.
/// The authority signs for nobody else.
pub fn ident() -> String {
    let operator = format!("{OPERATOR_MAP} {OPERATOR} {OPERATOR_ROLE}");
    // No points: the operator's has.
    let node = format!("{NODE_MAP} /^[-a-z0-9]+$ {STANDBY_ROLE}");
    lines([&operator, &node].into_iter())
}

fn lines<'a>(all: impl Iterator<Item = &'a String>) -> String {
    all.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_say_stands_between_ours_and_what_is_left() {
        let users = ["host all all 192.0.2.0/24 trust".to_owned()];
        let place = |text: &str, begin: &str| text.lines().position(|line| line.starts_with(begin));
        let text = hba(&users, true);
        let order = [
            "local all",
            "hostssl all,replication waltree ",
            "host all,replication",
            "host all all 192",
            "hostssl all all",
        ];
        let places: Vec<_> = order.iter().map(|begin| place(&text, begin).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
        assert_eq!(hba(&users, false), "local all all trust\nhost all all 192.0.2.0/24 trust\n");
    }

    #[test]
    fn no_node_is_taken_for_the_operator() {
        assert_eq!(
            ident(),
            "waltree_operator operator.waltree.dev waltree\nwaltree_node /^[-a-z0-9]+$ waltree_standby\n"
        );
    }
}
