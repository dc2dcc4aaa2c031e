//! Where the operator gives its orders and asks how the node is, over mutual TLS: `PUT /orders`, `GET /status`. Whoever shows
//! no certificate with the operator's name, signed by the authority of this tree, is not heard.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, info, warn};

use super::orders::{self, NoOrders};
use crate::model::orders::{Account, OPERATOR};

/// How long a caller may take to show who it is.
const GREETING: Duration = Duration::from_secs(5);
/// Callers that are known and not yet heard.
const WAITING_MAX: usize = 8;
/// Callers that are asked at a time who they are.
const GREETED_MAX: usize = 64;

/// Why no caller can be heard. All of it is tried again with the next one.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTls {
    #[error("cannot read {0}")]
    File(PathBuf, #[source] io::Error),
    #[error("{0} holds nothing that can be used")]
    Pem(PathBuf),
    #[error("the certificates cannot be used")]
    Certificates(#[source] rustls::Error),
    #[error("the authority cannot be used")]
    Authority(#[source] rustls::server::VerifierBuilderError),
    #[error("it does not show who it is within {GREETING:?}")]
    Silent,
    #[error("it does not greet as it has to")]
    Greeting(#[source] io::Error),
    #[error("it is not the operator")]
    Nobody(#[source] Option<rustls::Error>),
}

/// What the port passes on and tells.
#[derive(Clone)]
pub(super) struct Desk {
    /// The file of the orders.
    pub(super) orders: PathBuf,
    /// That there are new ones.
    pub(super) news: Arc<Notify>,
    /// How the node is.
    pub(super) account: watch::Receiver<Account>,
}

/// Answers until it is aborted. The certificates are read anew for each caller: they change while this runs.
pub(super) async fn answer(listener: TcpListener, certificates: PathBuf, desk: Desk) {
    let (greeted, callers) = mpsc::channel(WAITING_MAX);
    let local = listener.local_addr();
    tokio::spawn(greet(listener, certificates, greeted));
    let routes = Router::new().route("/orders", put(take)).route("/status", get(tell)).with_state(desk);
    if let Err(error) = axum::serve(Callers { callers, local }, routes).await {
        error!(%error, "the port is not answered any more");
    }
}

async fn take(State(desk): State<Desk>, text: String) -> Response {
    let kept = orders::understood(&text).and_then(|given| orders::keep(&desk.orders, &given));
    let why = match kept {
        Ok(()) => {
            desk.news.notify_one();
            return StatusCode::NO_CONTENT.into_response();
        }
        Err(why) => why,
    };
    let said = super::chain(&why);
    warn!("orders are refused: {said}");
    let code = match why {
        NoOrders::Outdated { .. } => StatusCode::CONFLICT,
        NoOrders::Text(_) | NoOrders::Bad(_) => StatusCode::BAD_REQUEST,
        NoOrders::File(..) | NoOrders::Unwritable(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, said).into_response()
}

async fn tell(State(desk): State<Desk>) -> Json<Account> {
    Json(desk.account.borrow().clone())
}

/// Each caller in a task of its own: one that says nothing keeps nobody from being heard.
async fn greet(
    listener: TcpListener,
    certificates: PathBuf,
    greeted: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let turns = Arc::new(Semaphore::new(GREETED_MAX));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(caller) => caller,
            Err(error) => {
                // No file descriptors left, most likely: the next moment may have one.
                debug!(%error, "nobody can be heard now");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (certificates, greeted) = (certificates.clone(), greeted.clone());
        tokio::spawn(async move {
            let _turn = turn;
            match known(stream, &certificates).await {
                Ok(stream) => drop(greeted.send((stream, from)).await),
                Err(why) => info!(%from, "a caller is not heard: {}", super::chain(&why)),
            }
        });
    }
}

async fn known(stream: TcpStream, certificates: &Path) -> Result<TlsStream<TcpStream>, NoTls> {
    let acceptor = acceptor(certificates)?;
    let stream = timeout(GREETING, acceptor.accept(stream)).await.map_err(|_| NoTls::Silent)?;
    let stream = stream.map_err(NoTls::Greeting)?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or(NoTls::Nobody(None))?;
    let nobody = |error| NoTls::Nobody(Some(error));
    let shown = ParsedCertificate::try_from(shown).map_err(nobody)?;
    let operator = ServerName::try_from(OPERATOR).map_err(|_| NoTls::Nobody(None))?;
    rustls::client::verify_server_name(&shown, &operator).map_err(nobody)?;
    Ok(stream)
}

fn acceptor(directory: &Path) -> Result<TlsAcceptor, NoTls> {
    let [ca, chain, key] = ["ca.crt", "tls.crt", "tls.key"].map(|name| directory.join(name));
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&ca)? {
        roots.add(certificate).map_err(NoTls::Certificates)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let own = PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|_| NoTls::Pem(key))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(NoTls::Certificates)?
        .with_client_cert_verifier(verifier.map_err(NoTls::Authority)?)
        .with_single_cert(certificates(&chain)?, own)
        .map_err(NoTls::Certificates)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(file: &Path) -> Result<Vec<u8>, NoTls> {
    fs::read(file).map_err(|error| NoTls::File(file.to_owned(), error))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, NoTls> {
    let read = read(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| NoTls::Pem(file.to_owned()))
}

/// Callers who have shown who they are.
struct Callers {
    callers: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: io::Result<SocketAddr>,
}

impl axum::serve::Listener for Callers {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.callers.recv().await {
            Some(caller) => caller,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local.as_ref().copied().map_err(|error| error.kind().into())
    }
}
