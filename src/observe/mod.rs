//! Reads: what every server says, as [`crate::model::Facts`], or why it says nothing, as [`crate::model::Unseen`].
//!
//! One task a server ([`Fleet`]) keeps one SQL session and asks one question a tick over it ([`query`], [`decode`]). The
//! same session carries that server's writes, so that the right to write ([`Fence`]) and the session end together; what
//! is written is none of this folder's business ([`Writer`]).

mod access;
mod agents;
mod caller;
mod crawl;
mod credentials;
mod decode;
mod fence;
mod fleet;
mod objects;
mod query;
mod replication;
mod rights;
mod server;
mod session;
mod tls;
mod unseen;

pub use access::{ServerAccess, ServerSpec, SslMode, Timing};
pub use agents::Agents;
pub use caller::{Caller, NoAnswer};
pub use crawl::{Crawl, Listener, crawl};
pub use credentials::{Credentials, MissingCredentials, Wallet};
pub use decode::read;
pub use fence::{Fence, NoRight};
pub use fleet::{Clock, Fleet};
pub use objects::Objects;
pub use replication::{NoReplication, Replication};
pub use session::Writer;
pub use tls::BadTls;
