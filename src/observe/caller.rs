//! The line to the agent of one node: HTTP over mutual TLS. It is kept open, and opened anew when it was lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::tls::{self, BadTls};
use super::{Credentials, SslMode};
use crate::model::NodeName;
use crate::model::orders::{Account, Orders};

/// How long a call may take, with the greeting before it.
const CALL: Duration = Duration::from_secs(5);
/// Longest answer: an account holds orders, with the parameters of users.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why an agent was not heard, or did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The network, or its certificate.
    #[error("it cannot be reached")]
    Unreachable(#[source] io::Error),
    /// What it speaks.
    #[error("the line to it was lost")]
    Lost(#[source] hyper::Error),
    /// The request.
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    /// What it said.
    #[error("its answer cannot be read")]
    Answer(#[source] axum::Error),
    /// What it said.
    #[error("its answer makes no sense")]
    Nonsense(#[source] serde_json::Error),
    /// It said nothing.
    #[error("no answer within {CALL:?}")]
    Overdue,
    /// It said no.
    #[error("it says {0}: {1}")]
    Refused(StatusCode, String),
}

/// One agent, and our credentials with it.
pub struct Caller {
    name: ServerName<'static>,
    at: SocketAddr,
    tls: Arc<ClientConfig>,
    line: Mutex<Option<SendRequest<Body>>>,
}

impl Caller {
    /// A line that is not open yet.
    ///
    /// # Errors
    /// When the credentials are no certificates.
    pub fn new(node: &NodeName, at: SocketAddr, credentials: &Credentials) -> Result<Self, BadTls> {
        let tls = Arc::new(tls::client(SslMode::VerifyFull, credentials)?);
        let name = ServerName::try_from(node.to_string()).map_err(|_| BadTls::BadName)?;
        Ok(Self { name, at, tls, line: Mutex::default() })
    }

    /// What the agent says of its node.
    ///
    /// # Errors
    /// When it does not.
    pub async fn account(&self) -> Result<Account, NoAnswer> {
        let answer = self.call(Method::GET, "/status", Bytes::new()).await?;
        serde_json::from_slice(&answer).map_err(NoAnswer::Nonsense)
    }

    /// Has it follow these orders.
    ///
    /// # Errors
    /// When it does not take them.
    pub async fn order(&self, orders: &Orders) -> Result<(), NoAnswer> {
        let text = serde_json::to_vec(orders).map_err(NoAnswer::Nonsense)?;
        self.call(Method::PUT, "/orders", text.into()).await.map(drop)
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, NoAnswer> {
        let request = Request::builder().method(method).uri(path).header(header::HOST, "agent");
        let request = request.body(Body::from(body)).map_err(NoAnswer::Request)?;
        timeout(CALL, self.answer(request)).await.map_err(|_| NoAnswer::Overdue)?
    }

    async fn answer(&self, request: Request<Body>) -> Result<Bytes, NoAnswer> {
        // Not put back unless all went well: what is half said is no line for the next.
        let mut place = self.line.lock().await;
        let kept = place.take().filter(|line| !line.is_closed());
        let mut line = if let Some(line) = kept { line } else { self.open().await? };
        let answer = line.send_request(request).await.map_err(NoAnswer::Lost)?;
        let status = answer.status();
        let said = to_bytes(Body::new(answer.into_body()), ANSWER_BYTES_MAX).await.map_err(NoAnswer::Answer)?;
        *place = Some(line);
        if status.is_success() {
            Ok(said)
        } else {
            Err(NoAnswer::Refused(status, String::from_utf8_lossy(&said).into_owned()))
        }
    }

    async fn open(&self) -> Result<SendRequest<Body>, NoAnswer> {
        let stream = TcpStream::connect(self.at).await.map_err(NoAnswer::Unreachable)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(self.name.clone(), stream).await.map_err(NoAnswer::Unreachable)?;
        let (line, connection) = handshake(TokioIo::new(stream)).await.map_err(NoAnswer::Lost)?;
        // It ends with the line; what ended it is said to whoever calls next.
        tokio::spawn(async move { drop(connection.await) });
        Ok(line)
    }
}
