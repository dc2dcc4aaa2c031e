//! A replication connection: to the same server, as the same role, with the same proof of each other as a session.
//!
//! tokio-postgres has no word for it: neither the startup parameter `replication` nor the copy in both directions that
//! follows `START_REPLICATION`. What is needed of the protocol is little, so it is said here.

use std::io;
use std::net::IpAddr;

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect as _};

use super::{Credentials, ServerSpec, SslMode, tls};
use crate::model::{NodeName, Unseen};

/// Longest message that is taken from a server, in bytes; a walsender's are at most 128 KiB.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Why there is no replication connection, or none any more. Holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum NoReplication {
    /// The server said no: pg_hba.conf has no line for us, all walsenders are taken, the slot is in use.
    #[error("{message} ({code})")]
    Refused {
        /// What it said.
        message: String,
        /// Its SQLSTATE.
        code: String,
    },
    /// There is no way to it, or nothing to log in with.
    #[error("{}: {}", .0.why, .0.detail)]
    Unseen(Unseen),
    /// It and we have no way of logging in in common.
    #[error("{0}")]
    NoLogin(&'static str),
    /// It leads to another server than the session beside which it is opened: a name or an address that moved.
    #[error("{0}:{1} leads to another server now than the one that is watched there")]
    OtherServer(String, u16),
    /// The connection was lost.
    #[error("the replication connection was lost")]
    Lost(#[from] io::Error),
}

impl From<Unseen> for NoReplication {
    fn from(unseen: Unseen) -> Self {
        Self::Unseen(unseen)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection on which `START_REPLICATION` can be asked for. It ends when it is dropped.
pub struct Replication {
    stream: Box<dyn Stream>,
    /// The process id of its walsender, as the server tells it.
    pid: Option<i32>,
}

impl Replication {
    /// Connects and logs in.
    pub(super) async fn open(
        (node, spec): (&NodeName, &ServerSpec),
        credentials: &Credentials,
        addresses: &[IpAddr],
    ) -> Result<Self, NoReplication> {
        let listeners: Vec<_> = addresses.iter().map(|address| (*address, spec.port).into()).collect();
        let socket = TcpStream::connect(&listeners[..]).await?;
        let mut this = Self { stream: encrypted(spec, credentials, socket).await?, pid: None };
        // The name of a node it must not be: whoever is asked for an edge would take us for that node.
        let name = spec.application_name(node);
        let parameters = [
            ("user", credentials.username.as_str()),
            ("replication", "true"),
            ("application_name", &name),
            // It holds a slot for a moment: were we lost in that moment, its node could not use it for so long.
            ("options", "-c wal_sender_timeout=5s"),
        ];
        let mut buffer = BytesMut::new();
        frontend::startup_message(parameters, &mut buffer)?;
        this.send(&buffer).await?;
        this.log_in(credentials).await?;
        Ok(this)
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), NoReplication> {
        self.stream.write_all(message).await?;
        Ok(self.stream.flush().await?)
    }

    async fn answer(&mut self, password: &[u8]) -> Result<(), NoReplication> {
        let mut buffer = BytesMut::new();
        frontend::password_message(password, &mut buffer)?;
        self.send(&buffer).await
    }

    /// The process id of the walsender at its other end.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// The system identifier of the cluster whose data is at its other end.
    pub(super) async fn system_identifier(&mut self) -> Result<String, NoReplication> {
        self.command("IDENTIFY_SYSTEM").await?;
        let row = loop {
            let (tag, body) = self.receive().await?;
            if tag == b'D' {
                break body;
            }
        };
        self.wait_for(b'Z').await?;
        // How many values there are, the length of the first, and the first.
        let (length, rest) = row.get(2..).and_then(<[u8]>::split_first_chunk).ok_or_else(garbled)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| garbled())?;
        let value = rest.get(..length).ok_or_else(garbled)?;
        Ok(String::from_utf8_lossy(value).into_owned())
    }

    /// Sends a command.
    ///
    /// # Errors
    /// [`NoReplication::Lost`].
    pub async fn command(&mut self, command: &str) -> Result<(), NoReplication> {
        let mut buffer = BytesMut::new();
        frontend::query(command, &mut buffer)?;
        self.send(&buffer).await
    }

    /// Sends one message inside the copy in both directions, and ends our side of it.
    ///
    /// # Errors
    /// [`NoReplication::Lost`].
    pub async fn say_last(&mut self, message: &[u8]) -> Result<(), NoReplication> {
        let mut buffer = BytesMut::new();
        frontend::CopyData::new(message)?.write(&mut buffer);
        frontend::copy_done(&mut buffer);
        self.send(&buffer).await
    }

    /// Takes leave.
    ///
    /// # Errors
    /// [`NoReplication::Lost`].
    pub async fn end(mut self) -> Result<(), NoReplication> {
        let mut buffer = BytesMut::new();
        frontend::terminate(&mut buffer);
        self.send(&buffer).await
    }

    /// The next message: its tag and what is in it. An error is one here too.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), NoReplication> {
        let tag = self.stream.read_u8().await?;
        let length = usize::try_from(self.stream.read_i32().await?).ok().and_then(|length| length.checked_sub(4));
        let length = length.filter(|length| *length <= MESSAGE_BYTES_MAX);
        let mut body = vec![0; length.ok_or_else(garbled)?];
        self.stream.read_exact(&mut body).await?;
        if tag == b'E' { Err(refused(&body)) } else { Ok((tag, body)) }
    }

    /// Reads on until a message of this tag.
    ///
    /// # Errors
    /// [`NoReplication::Refused`] when an error comes before it.
    pub async fn wait_for(&mut self, tag: u8) -> Result<(), NoReplication> {
        while self.receive().await?.0 != tag {}
        Ok(())
    }

    /// Answers what the server asks for until it is ready, as tokio-postgres does for a session. The one difference: SCRAM
    /// is not bound to the TLS channel, which tokio-postgres does not show. Who stands in the middle could ask for the
    /// password itself then as now, so it is the certificate that keeps him out (`VerifyFull`).
    async fn log_in(&mut self, credentials: &Credentials) -> Result<(), NoReplication> {
        let none = "the server asks for a password, and the Secret has none";
        let password = || credentials.password.as_deref().map(str::as_bytes).ok_or(NoReplication::NoLogin(none));
        let mut scram = None;
        loop {
            let (tag, body) = self.receive().await?;
            match tag {
                b'R' => {}
                b'Z' => return Ok(()),
                b'K' => {
                    self.pid = body.first_chunk().map(|pid| i32::from_be_bytes(*pid));
                    continue;
                }
                _ => continue,
            }
            let (kind, rest) = body.split_at_checked(4).ok_or_else(garbled)?;
            match (kind.last(), &mut scram) {
                (Some(0), _) => {}
                (Some(3), _) => self.answer(password()?).await?,
                (Some(5), _) => {
                    let salt = rest.try_into().map_err(|_| garbled())?;
                    self.answer(md5_hash(credentials.username.as_bytes(), password()?, salt).as_bytes()).await?;
                }
                (Some(10), _) if rest.split(|byte| *byte == 0).any(|name| name == sasl::SCRAM_SHA_256.as_bytes()) => {
                    let first = sasl::ScramSha256::new(password()?, sasl::ChannelBinding::unsupported());
                    let mut buffer = BytesMut::new();
                    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, first.message(), &mut buffer)?;
                    self.send(&buffer).await?;
                    scram = Some(first);
                }
                (Some(11), Some(scram)) => {
                    scram.update(rest)?;
                    let mut buffer = BytesMut::new();
                    frontend::sasl_response(scram.message(), &mut buffer)?;
                    self.send(&buffer).await?;
                }
                (Some(12), Some(scram)) => scram.finish(rest)?,
                _ => return Err(NoReplication::NoLogin("the server asks for a kind of login that is not known here")),
            }
        }
    }
}

/// TLS as the spec asks for it, begun as libpq begins it.
async fn encrypted(
    spec: &ServerSpec,
    credentials: &Credentials,
    mut socket: TcpStream,
) -> Result<Box<dyn Stream>, NoReplication> {
    if spec.access.ssl_mode == SslMode::Disable {
        return Ok(Box::new(socket));
    }
    let mut connector = tls::connector(spec.access.ssl_mode, credentials).map_err(Unseen::from)?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    if socket.read_u8().await? != b'S' {
        return Err(NoReplication::NoLogin("the server has no TLS"));
    }
    let Ok(connect) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, &spec.address);
    Ok(Box::new(connect.connect(socket).await.map_err(io::Error::other)?))
}

fn garbled() -> NoReplication {
    NoReplication::Lost(io::ErrorKind::InvalidData.into())
}

/// What an error says: fields of a letter and a text, each ended by a zero byte.
fn refused(body: &[u8]) -> NoReplication {
    let field = |letter: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&letter));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    NoReplication::Refused { message: field(b'M'), code: field(b'C') }
}
