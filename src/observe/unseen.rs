//! Which kind of "unseen" an error is.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

use tokio_postgres::error::SqlState;

use super::MissingCredentials;
use super::tls::BadTls;
use crate::model::{Unseen, WhyUnseen};

/// Longest detail in characters; it goes into a status.
const DETAIL_CHARACTERS_MAX: usize = 300;

/// An unseen server with a detail of bounded length.
pub(super) fn unseen(why: WhyUnseen, detail: impl AsRef<str>) -> Unseen {
    Unseen { why, detail: detail.as_ref().chars().take(DETAIL_CHARACTERS_MAX).collect() }
}

/// What an error of the client says about the server. A message of the server never holds the password it was given.
pub(super) fn of_error(error: &tokio_postgres::Error) -> Unseen {
    if let Some(said) = error.as_db_error() {
        return unseen(of_sqlstate(said.code()), format!("{} ({})", said.message(), said.code().code()));
    }
    unseen(of_chain(error), text(error))
}

fn of_sqlstate(code: &SqlState) -> WhyUnseen {
    match code.code() {
        // The class "invalid authorization", and no CONNECT on the database.
        code if code.starts_with("28") => WhyUnseen::CredentialsRejected,
        // Starting up, shutting down, or recovering and not yet consistent; or replay ends whatever is in its way, a login
        // and a session too.
        "57P03" | "40001" => WhyUnseen::Starting,
        "53300" => WhyUnseen::TooManyConnections,
        // Our session was ended: by an administrator, by a crash of another backend, with the database.
        "57P01" | "57P02" | "57P04" => WhyUnseen::Refused,
        _ => WhyUnseen::BadAnswer,
    }
}

fn of_chain(error: &tokio_postgres::Error) -> WhyUnseen {
    // tokio-postgres keeps its kinds to itself and says them in its first words.
    let kind = error.to_string();
    let chain = text(error);
    let of_tls = kind == "error performing TLS handshake" || sources(error).into_iter().any(is_rustls);
    let io = sources(error).into_iter().find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind);
    match io {
        Some(ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => WhyUnseen::Refused,
        Some(ErrorKind::UnexpectedEof | ErrorKind::ConnectionAborted) if !of_tls => WhyUnseen::Refused,
        Some(ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => WhyUnseen::Timeout,
        _ if of_tls => WhyUnseen::TlsFailed,
        _ if chain.contains("password missing") => WhyUnseen::CredentialsMissing,
        _ if kind == "authentication error" => WhyUnseen::CredentialsRejected,
        _ if error.is_closed() || io.is_some() => WhyUnseen::Refused,
        _ => WhyUnseen::BadAnswer,
    }
}

fn is_rustls(error: &(dyn StdError + 'static)) -> bool {
    let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.is::<rustls::Error>() || inside.and_then(|e| e.downcast_ref::<rustls::Error>()).is_some()
}

fn sources(error: &tokio_postgres::Error) -> Vec<&(dyn StdError + 'static)> {
    let mut all = Vec::new();
    let mut next = error.source();
    while let Some(source) = next {
        all.push(source);
        next = source.source();
    }
    all
}

/// The words of an error and of its sources.
pub(super) fn text(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return said.message().to_owned();
    }
    std::iter::once(error.to_string())
        .chain(sources(error).iter().map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}

impl From<MissingCredentials> for Unseen {
    fn from(missing: MissingCredentials) -> Self {
        unseen(WhyUnseen::CredentialsMissing, missing.to_string())
    }
}

impl From<BadTls> for Unseen {
    fn from(bad: BadTls) -> Self {
        let why = if matches!(bad, BadTls::Setup(_)) { WhyUnseen::TlsFailed } else { WhyUnseen::CredentialsMissing };
        let cause = bad.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        unseen(why, format!("{bad}{cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replay_ends_says_nothing_against_a_server() {
        assert_eq!(of_sqlstate(&SqlState::T_R_SERIALIZATION_FAILURE), WhyUnseen::Starting);
        assert_eq!(of_sqlstate(&SqlState::UNDEFINED_COLUMN), WhyUnseen::BadAnswer);
    }
}
