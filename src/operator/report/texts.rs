//! Sentences for people: what to do about a server that is not seen, and lists of names.

use crate::model::{Unseen, WhyUnseen};

/// Why a server is not seen, and what to do about it.
pub(super) fn unseen(unseen: &Unseen) -> String {
    let what = match unseen.why {
        WhyUnseen::NotYet => "It was not tried yet",
        WhyUnseen::Refused => "It refuses connections",
        WhyUnseen::Timeout => "It does not answer",
        WhyUnseen::AddressUnknown => "Its address cannot be resolved",
        WhyUnseen::CredentialsRejected => "It rejects the operator's credentials",
        WhyUnseen::CredentialsMissing => "The credentials for it are missing",
        WhyUnseen::TlsFailed => "TLS with it failed",
        WhyUnseen::Starting => "It lets nobody in yet",
        WhyUnseen::TooManyConnections => "All its connections are taken",
        WhyUnseen::BadAnswer => "It gave an answer that makes no sense",
    };
    let cure = match unseen.why {
        WhyUnseen::NotYet => "Nothing to do.",
        WhyUnseen::Refused => "Start it, or correct its address and port in the spec.",
        WhyUnseen::Timeout => "See whether it hangs, and whether firewalls let the operator through.",
        WhyUnseen::AddressUnknown => "Correct its address in the spec, or the DNS.",
        WhyUnseen::CredentialsRejected => {
            "Correct username and password in the Secret, or give the role a line in pg_hba.conf."
        }
        WhyUnseen::CredentialsMissing => "Create the Secret that credentialsSecretRef names, with its keys.",
        WhyUnseen::TlsFailed => "Put the CA of its certificate into ca.crt of the Secret, or choose another sslMode.",
        WhyUnseen::Starting => "Wait; if it lasts, read its log.",
        WhyUnseen::TooManyConnections => "Raise max_connections, or end idle sessions.",
        WhyUnseen::BadAnswer => "See whether it is PostgreSQL 15 or later, and read its log.",
    };
    let detail = unseen.detail.trim().trim_end_matches('.');
    if detail.is_empty() { format!("{what}. {cure}") } else { format!("{what}: {detail}. {cure}") }
}

/// The first names and how many more.
pub(super) fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    const NAMED: usize = 5;
    let all: Vec<&str> = all.into_iter().collect();
    let first = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// The text with one full stop at its end.
pub(super) fn sentence(text: &str) -> String {
    format!("{}.", text.trim().trim_end_matches('.'))
}
