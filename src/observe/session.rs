//! One SQL session with one server: logging in, asking, and being lent to a writer.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join3;
use tokio::sync::{Mutex as Gate, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::config::SslMode as WireSslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Json, ToSql, Type};
use tokio_postgres::{Client, Config, Statement};
use tokio_util::sync::CancellationToken;

use super::decode::{self, Answer, Asked, Before};
use super::replication::{NoReplication, Replication};
use super::rights::{self, Rights};
use super::unseen::{self, unseen};
use super::{Clock, Credentials, Fence, NoRight, ServerSpec, SslMode, Timing, fence, query, tls};
use crate::model::{Facts, NodeName, Unseen, WhyUnseen};

/// The server notices within this time that we are gone, and we that it is.
const VANISHED_AFTER: Duration = Duration::from_secs(5);
/// Settings of our sessions, whatever the role, the database or the server has set. Nobody else's function can stand for
/// one that we call; a backslash in the pattern that masks passwords is a backslash; a question that hangs is ended by
/// the server too; a question of a few milliseconds is not compiled. What does not fit into little memory is written to the
/// disk of the data, so that [`query::DISK`] tries that one.
const SETTINGS: &str = "-c search_path=pg_catalog -c standard_conforming_strings=on -c statement_timeout=5000 -c jit=off \
                        -c work_mem=64kB -c temp_tablespaces=";
/// Deadline of a segment of zeroes on the server's disk. A disk that is slower tells nothing; writes wait for it.
const DISK_DEADLINE: Duration = Duration::from_secs(1);
/// The server ends it before that: the next look would wait behind it, and a slow disk be taken for a server that is gone.
const DISK_BOUND: &str = "SET statement_timeout = 800";
/// SQLSTATEs of a question that is simply asked again: the server was promoted while it answered, and it no longer fits; or
/// replay had to go on. Once queries have held that up for longer than max_standby_streaming_delay it cancels whatever is in its
/// way, ours too, until it has caught up.
const PASSING: [&str; 2] = ["(55000)", "(40001)"];
/// Between two such questions: replay removes thousands of rows in this time.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// A session. It ends when it is dropped, when the server ends it, or when [`Session::ended`] is cancelled.
pub(super) struct Session {
    client: Client,
    driver: JoinHandle<()>,
    ended: CancellationToken,
    why_ended: Arc<Mutex<Option<Unseen>>>,
    version_num: u32,
    asking: Gate<(Rights, Option<Statement>)>,
    /// Questions and writes go one at a time, so that the deadline of one is not spent on another.
    gate: Arc<Gate<()>>,
    right: Mutex<Result<(), NoRight>>,
    disk_doubted: AtomicBool,
    /// How it was come by, for a second connection beside it.
    way: (NodeName, ServerSpec, Credentials),
}

impl Drop for Session {
    fn drop(&mut self) {
        // Not left to finish: a frozen server never answers what is under way.
        self.driver.abort();
    }
}

impl Session {
    /// Logs in, takes the right to write where there is a fence, and learns what our role may do.
    pub(super) async fn open(
        (node, spec): (&NodeName, &ServerSpec),
        credentials: &Credentials,
        timing: &Timing,
    ) -> Result<Self, Unseen> {
        let addresses = within(timing.login, "the name was not resolved", resolve(spec)).await?;
        let config = config((node, spec), credentials, &addresses);
        let connector = tls::connector(spec.access.ssl_mode, credentials)?;
        let login = async { config.connect(connector).await.map_err(|error| unseen::of_error(&error)) };
        let (client, connection) = within(timing.login, "the login was not answered", login).await?;
        let version_num = version_num(connection.parameter("server_version").unwrap_or_default());
        let (ended, why_ended) = (CancellationToken::new(), Arc::new(Mutex::new(None)));
        let (guard, why) = (ended.clone().drop_guard(), Arc::clone(&why_ended));
        let driver = tokio::spawn(async move {
            let _ends_with_this_task = guard;
            if let Err(error) = connection.await {
                *why.lock().unwrap_or_else(PoisonError::into_inner) = Some(unseen::of_error(&error));
            }
        });
        let this = Self {
            client,
            driver,
            ended,
            why_ended,
            version_num,
            asking: Gate::default(),
            gate: Arc::default(),
            right: Mutex::new(Err(NoRight::ObserveOnly)),
            disk_doubted: AtomicBool::new(false),
            way: (node.clone(), spec.clone(), credentials.clone()),
        };
        this.take_right(spec.fence.as_ref()).await;
        within(timing.answer, "the first question was not answered", this.learn_rights()).await?;
        Ok(this)
    }

    /// Takes the right to write, where there is a fence and we have it not.
    pub(super) async fn take_right(&self, fence: Option<&Fence>) {
        let Some(fence) = fence.filter(|_| self.right().is_err()) else { return };
        let _one_at_a_time = self.gate.lock().await;
        let right = fence::take(&self.client, fence, &self.way.0).await;
        *self.right.lock().unwrap_or_else(PoisonError::into_inner) = right;
    }

    fn right(&self) -> Result<(), NoRight> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks what our role may do, and prepares the question of every tick accordingly.
    pub(super) async fn learn_rights(&self) -> Result<(), Unseen> {
        let _one_at_a_time = self.gate.lock().await;
        let rights = rights::probe(&self.client, self.version_num).await.map_err(|error| unseen::of_error(&error))?;
        let mut asking = self.asking.lock().await;
        if asking.1.is_none() || asking.0 != rights {
            let statement = self.client.prepare(&query::tick(self.version_num, &rights)).await;
            *asking = (rights, Some(statement.map_err(|error| unseen::of_error(&error))?));
        }
        Ok(())
    }

    /// Whether our role lacks something that it will be asked about again soon.
    pub(super) async fn lacks_rights(&self) -> bool {
        let rights = &self.asking.lock().await.0;
        !rights.missing_grants.is_empty() || !rights.end_senders
    }

    /// Asks, and what was in the way of replay once more for as long as an answer may take. Waits for a write that is under
    /// way; the deadline counts from then.
    pub(super) async fn ask(&self, clock: Clock, timing: &Timing, before: Before) -> Result<Facts, Unseen> {
        let _one_at_a_time = self.gate.lock().await;
        let until = Instant::now() + timing.answer;
        loop {
            let answer = within(timing.answer, "no answer", self.ask_once(clock, before)).await;
            let passing = |unseen: &Unseen| {
                let momentary = [WhyUnseen::BadAnswer, WhyUnseen::Starting].contains(&unseen.why);
                momentary && PASSING.iter().any(|state| unseen.detail.contains(state))
            };
            if Instant::now() >= until || self.ended.is_cancelled() || !answer.as_ref().is_err_and(passing) {
                return answer;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask_once(&self, clock: Clock, before: Before) -> Result<Facts, Unseen> {
        let asking = self.asking.lock().await;
        let Some(statement) = &asking.1 else { return Err(unseen(WhyUnseen::NotYet, "")) };
        let known = before.received().and_then(|timeline| i32::try_from(timeline.0).ok()).unwrap_or(0);
        let at = clock();
        let row = self.client.query_one(statement, &[&known]).await.map_err(|error| self.denied(&error, &asking.0))?;
        let answered = clock();
        let Json(answer) =
            row.try_get::<_, Json<Answer>>(0).map_err(|e| unseen(WhyUnseen::BadAnswer, unseen::text(&e)))?;
        decode::facts(answer, &asking.0, Asked { at, answered }, before)
            .map_err(|e| unseen(WhyUnseen::BadAnswer, e.to_string()))
    }

    /// Whether the disk is to be tried now; asked once, it is not any more.
    pub(super) fn disk_is_doubted(&self) -> bool {
        self.disk_doubted.swap(false, Ordering::Relaxed)
    }

    /// Whether a segment of WAL would find no place on the disk of the data; `None` when it cannot be told.
    pub(super) async fn disk_is_full(&self, segment_bytes: u64) -> Option<bool> {
        let _one_at_a_time = self.gate.lock().await;
        let rows = i64::try_from(segment_bytes / query::DISK_ROW_BYTES).ok()?;
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&rows, Type::INT8)];
        // Polled in this order, which is the order in which they are sent, all at once: whatever becomes of the one in the
        // middle and of us, the last one follows it.
        let bounded = join3(
            self.client.batch_execute(DISK_BOUND),
            self.client.query_typed(query::DISK, &parameters),
            self.client.batch_execute("RESET statement_timeout"),
        );
        match tokio::time::timeout(DISK_DEADLINE, bounded).await.ok()?.1 {
            Ok(_) => Some(false),
            Err(error) => (error.code() == Some(&SqlState::DISK_FULL)).then_some(true),
        }
    }

    /// What an error says; for a missing right also the cure.
    fn denied(&self, error: &tokio_postgres::Error, rights: &Rights) -> Unseen {
        let mut said = unseen::of_error(error);
        if error.code().is_some_and(|code| code.code() == "42501") {
            said = unseen(said.why, format!("{}; run: {}", said.detail, rights.missing_grants.join(" ")));
        }
        self.why_ended().filter(|_| error.is_closed()).unwrap_or(said)
    }

    /// Returns when the session has ended, with what is known about why.
    pub(super) async fn ended(&self) -> Unseen {
        self.ended.cancelled().await;
        self.why_ended().unwrap_or_else(|| unseen(WhyUnseen::Refused, "the session was closed"))
    }

    fn why_ended(&self) -> Option<Unseen> {
        self.why_ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lends the session for writing, one writer at a time.
    pub(super) async fn writer(self: Arc<Self>) -> Result<Writer, NoRight> {
        self.right()?;
        let turn = Arc::clone(&self.gate).lock_owned().await;
        if self.ended.is_cancelled() {
            let detail = self.why_ended().unwrap_or_else(|| unseen(WhyUnseen::Refused, "the session was closed"));
            return Err(NoRight::Unseen(detail));
        }
        Ok(Writer { session: self, _turn: turn })
    }
}

/// A session with the right to write, as long as it lasts: the lock and the writes are of the same session.
pub struct Writer {
    session: Arc<Session>,
    _turn: OwnedMutexGuard<()>,
}

impl Writer {
    /// Ends the session, because an answer is overdue: what was sent last may or may not have been done, and nothing
    /// may be sent after it.
    pub fn give_up(self) {
        self.session.driver.abort();
    }

    /// Has the disk tried at the next look: whether a segment of WAL finds a place there.
    pub fn doubt_disk(&self) {
        self.session.disk_doubted.store(true, Ordering::Relaxed);
    }

    /// A replication connection beside the session, to the same server: its cluster is the session's, and the session sees
    /// its walsender. It has no right of its own: before it changes anything the session has to be seen to last.
    ///
    /// # Errors
    /// [`NoReplication`] says why there is none.
    pub async fn replication(&self) -> Result<Replication, NoReplication> {
        let (node, spec, credentials) = &self.session.way;
        let mut replication = Replication::open((node, spec), credentials, &resolve(spec).await?).await?;
        let cluster = replication.system_identifier().await?;
        // A standby has the identifier of its primary, so that alone does not tell the two apart.
        let sql = "SELECT (SELECT system_identifier::text FROM pg_control_system()) = $1 AND EXISTS (SELECT FROM \
                   pg_stat_activity WHERE pid = $2 AND backend_type = 'walsender' AND application_name = $3)";
        let name = spec.application_name(node);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&cluster, Type::TEXT), (&replication.pid(), Type::INT4), (&name, Type::TEXT)];
        let rows = self.query_typed(sql, &parameters).await.map_err(|error| unseen::of_error(&error))?;
        let same = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or(false);
        let other = || NoReplication::OtherServer(spec.address.clone(), spec.port);
        if same { Ok(replication) } else { Err(other()) }
    }
}

impl Deref for Writer {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.session.client
    }
}

async fn within<T>(deadline: Duration, what: &str, work: impl Future<Output = Result<T, Unseen>>) -> Result<T, Unseen> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(unseen(WhyUnseen::Timeout, format!("{what} within {deadline:?}"))),
    }
}

/// By ourselves, so that a name that does not resolve is not taken for a server that refuses.
async fn resolve(spec: &ServerSpec) -> Result<Vec<IpAddr>, Unseen> {
    if let Some(address) = spec.hostaddr.or_else(|| spec.address.parse().ok()) {
        return Ok(vec![address]);
    }
    let unknown = |reason: &str| unseen(WhyUnseen::AddressUnknown, format!("{:?}: {reason}", spec.address));
    let found = tokio::net::lookup_host((spec.address.as_str(), spec.port)).await;
    let addresses: Vec<_> = found.map_err(|error| unknown(&error.to_string()))?.map(|a: SocketAddr| a.ip()).collect();
    if addresses.is_empty() { Err(unknown("it has no address")) } else { Ok(addresses) }
}

fn config((node, spec): (&NodeName, &ServerSpec), credentials: &Credentials, addresses: &[IpAddr]) -> Config {
    let mut config = Config::new();
    for address in addresses {
        config.host(&spec.address).hostaddr(*address);
    }
    config
        .port(spec.port)
        .user(&credentials.username)
        .dbname(&credentials.dbname)
        .options(SETTINGS)
        .application_name(spec.application_name(node))
        .tcp_user_timeout(VANISHED_AFTER)
        .keepalives_idle(VANISHED_AFTER)
        .keepalives_interval(Duration::from_secs(1))
        .keepalives_retries(3)
        .ssl_mode(if spec.access.ssl_mode == SslMode::Disable { WireSslMode::Disable } else { WireSslMode::Require });
    if let Some(password) = &credentials.password {
        config.password(password);
    }
    config
}

/// `server_version_num` from `server_version`, such as "15.18 (Debian 15.18-0+deb12u1)" or "18beta1"; 0 for nonsense.
fn version_num(version: &str) -> u32 {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    major.saturating_mul(10_000).saturating_add(minor)
}

#[cfg(test)]
mod tests {
    use super::version_num;

    #[test]
    fn a_version_is_read_from_its_text() {
        assert_eq!(version_num("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_num("18beta1") / 10_000, 18);
        assert_eq!(version_num("nonsense"), 0);
    }
}
