//! Whether PostgreSQL answers: asked all the time, and told to whoever asks, at `/readyz` on a port of its own. There is no TLS
//! on it, as a kubelet has no certificate to show; nothing else is told there.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;
use tracing::error;

use super::Place;
use super::server::connect;

/// Between two questions.
const TICK: Duration = Duration::from_millis(500);
/// How long an answer may take: readers do not wait for longer either.
const PATIENCE: Duration = Duration::from_secs(1);
/// An answer counts so long: two questions may be on their way.
const GOOD_FOR: Duration = Duration::from_millis(1_500);

/// Answers until it is aborted.
pub(super) async fn answer(listener: TcpListener, place: Place) {
    let (tell, answered) = watch::channel(None);
    tokio::spawn(ask(place, tell));
    let routes = Router::new().route("/readyz", get(ready)).with_state(answered);
    if let Err(error) = axum::serve(listener, routes).await {
        error!(%error, "nobody is told any more whether PostgreSQL answers");
    }
}

async fn ready(State(answered): State<watch::Receiver<Option<Instant>>>) -> (StatusCode, &'static str) {
    match *answered.borrow() {
        Some(at) if at.elapsed() < GOOD_FOR => (StatusCode::OK, "it answers\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "it does not answer\n"),
    }
}

async fn ask(place: Place, tell: watch::Sender<Option<Instant>>) {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session = None;
    loop {
        tick.tick().await;
        let asked = Instant::now();
        session = timeout(PATIENCE, asked_once(&place, session.take())).await.unwrap_or_default();
        if session.is_some() {
            tell.send_replace(Some(asked));
        }
    }
}

/// The session, where it answered; a new one where there was none.
async fn asked_once(place: &Place, session: Option<Client>) -> Option<Client> {
    let session = match session {
        Some(session) => session,
        None => connect(place).await.ok()?,
    };
    session.simple_query("SELECT 1").await.ok()?;
    Some(session)
}
