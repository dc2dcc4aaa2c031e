//! How a server is reached.

use std::net::IpAddr;
use std::time::Duration;

use super::Fence;
use crate::model::NodeName;

/// What TLS has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// Encrypt, check nothing: safe from listening, not from a server in the middle.
    #[default]
    Require,
    /// The certificate is signed by `ca.crt` of the Secret.
    VerifyCa,
    /// That, and it names the address that we dial.
    VerifyFull,
}

/// What is needed to log in to one server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerAccess {
    /// Name of the Secret with user, password or certificate; `None`: the user `waltree` without either.
    pub secret: Option<String>,
    /// What TLS has to prove.
    pub ssl_mode: SslMode,
}

/// One server to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// Name or IP.
    pub address: String,
    /// The IP that is dialled in place of looking the name up, where it is known.
    pub hostaddr: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// How to log in.
    pub access: ServerAccess,
    /// The right to write that is taken with the session; `None`: nothing is ever written.
    pub fence: Option<Fence>,
}

impl ServerSpec {
    /// What our connections to the server of this node are called there.
    pub(super) fn application_name(&self, node: &NodeName) -> String {
        self.fence.as_ref().map_or("waltree".to_owned(), |fence| fence.application_name(node))
    }
}

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two questions.
    pub tick: Duration,
    /// Deadline of a login, which is up to six round trips. A frozen server accepts TCP and says nothing.
    pub login: Duration,
    /// Deadline of one answer.
    pub answer: Duration,
    /// Between the first attempts to reach a server that is away ...
    pub retry_soon: Duration,
    /// ... of which there are so many ...
    pub retries_soon: u32,
    /// ... and between the later ones.
    pub retry_later: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(1),
            login: Duration::from_secs(2),
            answer: Duration::from_secs(1),
            retry_soon: Duration::from_millis(250),
            retries_soon: 8,
            retry_later: Duration::from_secs(1),
        }
    }
}
