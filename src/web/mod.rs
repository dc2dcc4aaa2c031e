//! What the operator's port answers: `/livez`, `/readyz`, `/metrics`. It only reads.

mod metrics;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use metrics::{Metrics, Tree};

/// Content type of the OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the port tells.
#[derive(Clone)]
pub struct Shown {
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Whether the API server was ever heard.
    pub answered: watch::Receiver<bool>,
    /// Whether every topology is known, or need not be: a follower has nothing to wait for.
    pub synced: watch::Receiver<bool>,
}

/// Begins to listen.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) -> io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .with_state(shown);
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn ready(State(shown): State<Shown>) -> Response {
    let wait = |why| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    match (*shown.answered.borrow(), *shown.synced.borrow()) {
        (false, _) => wait("the API server was not heard yet\n"),
        (true, false) => wait("the topologies are not listed yet\n"),
        (true, true) => "ok\n".into_response(),
    }
}

async fn figures(State(shown): State<Shown>) -> Response {
    match shown.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
