//! Orders over mutual TLS: an agent begins with nothing but its certificate, and its server lets in who has one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use postgres_protocol::password::scram_sha_256;
use support::guarded::Guarded;
use support::owner::{give, own_dir};
use support::postgres::{eventually, free_port, run};
use support::programs::binaries;
use waltree::model::NodeName;
use waltree::model::orders::{Application, Data, Orders, Role, STANDBY_ROLE, Source};
use waltree::observe::{Caller, Credentials, NoAnswer};
use waltree::operator::authority::{Authority, Certified};

/// PostgreSQL 18 is to be had for tests without TLS only.
const VERSION: Option<u32> = Some(17);

/// A tree of nodes that begin without orders.
struct Nodes {
    folder: PathBuf,
    authority: Authority,
}

struct Node {
    name: NodeName,
    folder: PathBuf,
    port: u16,
    agent: SocketAddr,
    guarded: Guarded,
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

impl Nodes {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("waltree-orders-{}-{count}", std::process::id()));
        own_dir(&folder);
        Self { folder, authority: Authority::new("shop/orders", Timestamp::now()).unwrap() }
    }

    /// Writes a certificate as a Secret that is mounted shows it.
    fn keep(&self, folder: &str, certified: &Certified) -> PathBuf {
        let folder = self.folder.join(folder);
        if !folder.exists() {
            own_dir(&folder);
        }
        let ca = &self.authority.own().certificate;
        for (file, text) in [("tls.crt", &certified.certificate), ("tls.key", &certified.key), ("ca.crt", ca)] {
            fs::write(folder.join(file), text).unwrap();
            give(&folder.join(file));
        }
        run(Command::new("chmod").arg("600").arg(folder.join("tls.key")));
        folder
    }

    fn start(&self, node: &str) -> Node {
        let folder = self.folder.join(node);
        own_dir(&folder);
        let name = name(node);
        let certified = self.authority.node(&name, Vec::new(), Timestamp::now()).unwrap();
        let certificates = self.keep(&format!("{node}-tls"), &certified);
        let (port, agent) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let data = folder.join("pg");
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let environment = [
            ("WALTREE_ORDERS", text(&folder.join("orders.json"))),
            ("WALTREE_DATA", text(&data)),
            ("WALTREE_SOCKET", text(&folder)),
            ("WALTREE_PORT", port.to_string()),
            ("WALTREE_CERTIFICATES", text(&certificates)),
            ("WALTREE_LISTEN", agent.to_string()),
        ];
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        let guarded = Guarded::start(&folder, &data, &[], VERSION, &environment);
        Node { name, folder, port, agent, guarded }
    }

    fn credentials(&self, certified: Certified) -> Credentials {
        Credentials {
            client_certificate: Some((certified.certificate.into_bytes(), certified.key.into_bytes())),
            ca: Some(self.authority.own().certificate.clone().into_bytes()),
            ..Credentials::default()
        }
    }

    fn operator(&self) -> Credentials {
        self.credentials(self.authority.operator(Timestamp::now()).unwrap())
    }

    /// The connection string by which servers of the tree reach this one.
    fn way(&self, to: &Node, from: &str) -> String {
        let certificates = self.folder.join(format!("{from}-tls"));
        let certificates = certificates.to_str().unwrap();
        format!(
            "host={} hostaddr=127.0.0.1 port={} user={STANDBY_ROLE} sslmode=verify-full sslcert={certificates}/tls.crt \
             sslkey={certificates}/tls.key sslrootcert={certificates}/ca.crt",
            to.name, to.port
        )
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Node {
    fn caller(&self, credentials: &Credentials) -> Caller {
        Caller::new(&self.name, self.agent, credentials).unwrap()
    }

    fn orders(&self, role: Role) -> Orders {
        Orders {
            node: self.name.to_string(),
            term: 2,
            children_max: 8,
            role,
            system_identifier: None,
            sources: Vec::new(),
            route: String::new(),
            application: None,
            parameters: [].into(),
            hba: Vec::new(),
            restart: None,
        }
    }

    /// Waits until its agent says that all is as ordered.
    async fn is_as_ordered(&self, caller: &Caller) {
        let what = format!("{} is as ordered", self.name);
        eventually(&what, async || caller.account().await.is_ok_and(|account| account.as_ordered)).await;
    }
}

/// What psql prints, or says, for whoever logs in so.
fn psql(conninfo: &str, sql: &str) -> Result<String, String> {
    let mut psql = Command::new(binaries(VERSION).unwrap().join("psql"));
    let done = psql.args(["-XAtqw", "-d", conninfo, "-c", sql]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

/// A primary that has followed its first orders.
async fn primary(nodes: &Nodes) -> (Node, Caller) {
    let node = nodes.start("core-1");
    let caller = node.caller(&nodes.operator());
    eventually("its agent answers", async || caller.account().await.is_ok()).await;
    let before = caller.account().await.unwrap();
    assert_eq!((before.data, before.orders, before.as_ordered), (Data::None, None, false), "nothing was made unasked");
    caller.order(&node.orders(Role::Primary)).await.unwrap();
    node.is_as_ordered(&caller).await;
    (node, caller)
}

#[tokio::test]
async fn with_certificates_alone_a_primary_and_a_standby_begin_and_stream_over_tls() {
    let nodes = Nodes::new();
    let (primary, primarys) = primary(&nodes).await;
    let Data::Of(identifier) = primarys.account().await.unwrap().data else { panic!("it has data") };

    let leaf = nodes.start("eu-1");
    let leafs = leaf.caller(&nodes.operator());
    let way = nodes.way(&primary, "eu-1");
    let orders = Orders {
        system_identifier: Some(identifier.clone()),
        sources: vec![Source { node: primary.name.to_string(), conninfo: way.clone() }],
        route: way,
        ..leaf.orders(Role::Standby)
    };
    eventually("its agent takes orders", async || leafs.order(&orders).await.is_ok()).await;
    leaf.is_as_ordered(&leafs).await;

    let account = leafs.account().await.unwrap();
    assert_eq!((account.data, account.orders), (Data::Of(identifier), Some(orders)));
    let (operators, socket) =
        (nodes.keep("operator", &nodes.authority.operator(Timestamp::now()).unwrap()), &primary.folder);
    let by_socket = format!("host={} port={} user=postgres dbname=postgres", socket.display(), primary.port);
    let streams = "SELECT usename, client_dn IS NOT NULL, state FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)";
    eventually("it streams by its certificate", async || {
        psql(&by_socket, streams) == Ok(format!("{STANDBY_ROLE}|t|streaming"))
    })
    .await;
    // The operator logs in on either by its certificate, and is nobody but the operator.
    let operators = operators.to_str().unwrap();
    for node in [&primary, &leaf] {
        let way = nodes.way(node, "operator").replace(&format!("{operators}-tls"), operators);
        let way = format!("{} dbname=postgres", way.replace(STANDBY_ROLE, "waltree"));
        assert_eq!(psql(&way, "SELECT current_user"), Ok("waltree".to_owned()));
        assert!(psql(&way.replace("user=waltree", "user=postgres"), "SELECT 1").is_err());
    }
    // A server is nobody but a server.
    let way = nodes.way(&primary, "eu-1");
    for user in ["waltree", "postgres", STANDBY_ROLE] {
        let way = format!("{} dbname=postgres", way.replace(STANDBY_ROLE, user));
        assert!(psql(&way, "SELECT 1").is_err(), "{user}");
    }
}

#[tokio::test]
async fn who_is_not_the_operator_is_not_heard() {
    let nodes = Nodes::new();
    let (primary, _) = primary(&nodes).await;
    let orders = primary.orders(Role::Standby);

    let other = Authority::new("shop/orders", Timestamp::now()).unwrap();
    let stranger = other.operator(Timestamp::now()).unwrap();
    let node = nodes.authority.node(&name("eu-1"), Vec::new(), Timestamp::now()).unwrap();
    for (who, certified) in [("another authority's operator", stranger), ("a node", node)] {
        let caller = primary.caller(&nodes.credentials(certified));
        assert!(caller.order(&orders).await.is_err(), "{who} gave orders");
        assert!(caller.account().await.is_err(), "{who} was told");
    }

    let nobody = Credentials { client_certificate: None, ..nodes.operator() };
    assert!(primary.caller(&nobody).account().await.is_err());
    let log = fs::read_to_string(primary.folder.join("log")).unwrap();
    assert!(log.contains("it is not the operator"), "{log}");
}

#[tokio::test]
async fn orders_of_an_operator_that_leads_no_more_and_those_that_hold_a_secret_are_refused() {
    let nodes = Nodes::new();
    let (primary, caller) = primary(&nodes).await;
    let orders = primary.orders(Role::Primary);

    let said = async |orders: Orders| match caller.order(&orders).await {
        Err(NoAnswer::Refused(code, said)) => (code.as_u16(), said),
        other => panic!("{other:?}"),
    };
    let old = said(Orders { term: 1, role: Role::Standby, ..orders.clone() }).await;
    assert_eq!(old, (409, "these are orders of term 1, and those of term 2 are followed".to_owned()));
    let secret = said(Orders { route: "host=a password=s3cret".to_owned(), ..orders.clone() }).await;
    assert_eq!(secret.0, 400);
    assert!(secret.1.contains("password") && !secret.1.contains("s3cret"), "{}", secret.1);

    assert_eq!(caller.account().await.unwrap().orders, Some(orders), "what was followed is followed");
    let newer = Orders {
        term: 3,
        parameters: [("work_mem".to_owned(), "7MB".to_owned())].into(),
        ..primary.orders(Role::Primary)
    };
    caller.order(&newer).await.unwrap();
    eventually("the newer are followed", async || {
        caller.account().await.is_ok_and(|account| account.as_ordered && account.orders.as_ref() == Some(&newer))
    })
    .await;
}

/// Who logs in with a password, over TLS.
fn with_password(primary: &Node, user: &str, password: &str, database: &str) -> String {
    format!(
        "host={} hostaddr=127.0.0.1 port={} user={user} password={password} dbname={database} sslmode=require",
        primary.name, primary.port
    )
}

#[tokio::test]
async fn an_application_gets_its_database_once_and_its_password_whenever_it_is_another() {
    let nodes = Nodes::new();
    let (primary, caller) = primary(&nodes).await;
    let with = |password: &str, version: &str| Orders {
        application: Some(Application {
            database: "shop".to_owned(),
            owner: "clerk".to_owned(),
            verifier: scram_sha_256(password.as_bytes()),
            secret_version: version.to_owned(),
        }),
        ..primary.orders(Role::Primary)
    };
    let follow = async |orders: Orders| {
        caller.order(&orders).await.unwrap();
        eventually("the orders are followed", async || {
            caller.account().await.is_ok_and(|account| account.as_ordered && account.orders.as_ref() == Some(&orders))
        })
        .await;
    };
    follow(with("first", "1")).await;
    let first = with_password(&primary, "clerk", "first", "shop");
    psql(&first, "CREATE TABLE sold AS SELECT 42 AS row").unwrap();
    assert_eq!(psql(&first, "SELECT row FROM sold"), Ok("42".to_owned()));
    assert!(psql(&first, "CREATE ROLE other").unwrap_err().contains("permission denied"));

    follow(with("second", "2")).await;
    assert!(psql(&first, "SELECT 1").unwrap_err().contains("password authentication failed"));
    let second = with_password(&primary, "clerk", "second", "shop");
    assert_eq!(psql(&second, "SELECT row FROM sold"), Ok("42".to_owned()));

    // Whoever took the database away had a reason.
    let by_socket = format!("host={} port={} user=postgres dbname=postgres", primary.folder.display(), primary.port);
    psql(&by_socket, "DROP DATABASE shop").unwrap();
    follow(with("third", "3")).await;
    let databases = psql(&by_socket, "SELECT count(*) FROM pg_database WHERE datname = 'shop'");
    assert_eq!(databases, Ok("0".to_owned()));
    // A role that somebody else has made keeps its password.
    psql(&by_socket, "CREATE ROLE theirs LOGIN PASSWORD 'theirs'").unwrap();
    let mut orders = with("ours", "4");
    orders.application.as_mut().unwrap().owner = "theirs".to_owned();
    follow(orders).await;
    eventually("it is told", async || caller.account().await.unwrap().trouble.contains("COMMENT ON ROLE theirs")).await;
    assert_eq!(psql(&with_password(&primary, "theirs", "theirs", "postgres"), "SELECT 1"), Ok("1".to_owned()));
    let log = fs::read_to_string(primary.folder.join("log")).unwrap();
    assert!(!log.contains("SCRAM-SHA-256$") && log.contains("the application's password is set"), "{log}");
}

#[tokio::test]
async fn what_postgresql_does_not_take_is_left_out_and_told_and_what_it_takes_at_its_start_too() {
    let nodes = Nodes::new();
    let (primary, caller) = primary(&nodes).await;
    let parameters = [("work_mem", "much"), ("max_connections", "150"), ("log_min_messages", "notice"), ("a.b", "c")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let line = "host all all 192.0.2.0/99 trust";
    let orders = Orders {
        parameters: parameters.into(),
        hba: vec![line.to_owned(), "host all all 192.0.2.1/32 reject".to_owned()],
        ..primary.orders(Role::Primary)
    };
    caller.order(&orders).await.unwrap();
    let account = async || caller.account().await.unwrap();
    eventually("it is told what is left out", async || {
        let told = account().await.trouble;
        told.contains("postgres.parameters.work_mem: invalid value") && told.contains(line)
    })
    .await;
    eventually("and what waits for a start", async || account().await.restart_for == ["max_connections"]).await;
    primary.is_as_ordered(&caller).await;
    let by_socket = format!("host={} port={} user=postgres dbname=postgres", primary.folder.display(), primary.port);
    let settings = "SELECT current_setting('work_mem'), current_setting('log_min_messages'),
                    (SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL OR address = '192.0.2.1')";
    assert_eq!(psql(&by_socket, settings), Ok("4MB|notice|1".to_owned()));

    // Nothing that it refuses is in its way when it starts.
    let pid = fs::read_to_string(primary.folder.join("pg/postmaster.pid")).unwrap();
    primary.guarded.signal("KILL", pid.lines().next().unwrap().parse().unwrap());
    eventually("it has taken in what waited", async || {
        psql(&by_socket, "SELECT current_setting('max_connections')") == Ok("150".to_owned())
    })
    .await;
    eventually("and nothing waits any more", async || account().await.restart_for.is_empty()).await;

    // Less than its standbys were told it has would keep them from starting.
    let parameters = [("max_connections".to_owned(), "120".to_owned())].into();
    caller.order(&Orders { parameters, hba: Vec::new(), ..orders }).await.unwrap();
    eventually("what was wrong is corrected", async || account().await.trouble.is_empty()).await;
    assert_eq!(psql(&by_socket, "SHOW max_connections"), Ok("150".to_owned()));
}

#[tokio::test]
async fn a_start_that_is_to_be_followed_by_another_is_and_no_other() {
    let nodes = Nodes::new();
    let (primary, caller) = primary(&nodes).await;
    let parameters = [("max_connections".to_owned(), "150".to_owned())];
    let orders = Orders { parameters: parameters.into(), ..primary.orders(Role::Primary) };
    caller.order(&orders).await.unwrap();
    let account = async || caller.account().await.unwrap();
    eventually("it waits for a start", async || account().await.restart_for == ["max_connections"]).await;
    primary.is_as_ordered(&caller).await;
    let first = account().await.postmaster.unwrap();
    let by_socket = format!("host={} port={} user=postgres dbname=postgres", primary.folder.display(), primary.port);
    assert_eq!(psql(&by_socket, "CREATE TABLE kept AS SELECT 42 AS row"), Ok(String::new()));

    let other = Orders { restart: Some(format!("{first}0")), ..orders.clone() };
    caller.order(&other).await.unwrap();
    eventually("they are followed", async || account().await.orders.as_ref() == Some(&other)).await;
    primary.is_as_ordered(&caller).await;
    assert_eq!(account().await.postmaster.as_ref(), Some(&first), "that start was another's");

    let this = Orders { restart: Some(first.clone()), ..orders };
    caller.order(&this).await.unwrap();
    eventually("another runs", async || {
        let account = account().await;
        account.as_ordered && account.postmaster.is_some_and(|postmaster| postmaster != first)
    })
    .await;
    let second = account().await;
    assert_eq!((second.restart_for.len(), second.trouble.as_str()), (0, ""));
    let has = "SELECT current_setting('max_connections'), pg_is_in_recovery(), (SELECT row FROM kept)";
    assert_eq!(psql(&by_socket, has), Ok("150|f|42".to_owned()));
    // The same orders again, by an operator that was not told that they were followed.
    caller.order(&Orders { children_max: 9, ..this }).await.unwrap();
    eventually("they are followed", async || account().await.orders.is_some_and(|orders| orders.children_max == 9))
        .await;
    eventually("it waits for the next start", async || !account().await.restart_for.is_empty()).await;
    assert_eq!(account().await.postmaster, second.postmaster);
}

#[tokio::test]
async fn another_certificate_is_shown_without_a_restart() {
    let nodes = Nodes::new();
    let (primary, _) = primary(&nodes).await;
    nodes.keep("operator", &nodes.authority.operator(Timestamp::now()).unwrap());
    let way = nodes.way(&primary, "operator").replace("operator-tls", "operator").replace(STANDBY_ROLE, "waltree");
    let way = |name: &str| format!("{} dbname=postgres", way.replace("host=core-1", &format!("host={name}")));
    let started = "SELECT pg_postmaster_start_time()";
    let before = psql(&way("core-1"), started).unwrap();
    assert!(psql(&way("later"), started).unwrap_err().contains("certificate"));

    let certified = nodes.authority.node(&primary.name, vec!["later".to_owned()], Timestamp::now()).unwrap();
    nodes.keep("core-1-tls", &certified);
    eventually("it shows the new one", async || psql(&way("later"), started).as_ref() == Ok(&before)).await;
}

#[tokio::test]
async fn a_parameter_with_which_it_does_not_come_up_is_left_out_after_some_starts() {
    let nodes = Nodes::new();
    let (primary, caller) = primary(&nodes).await;
    let parameters = [("shared_preload_libraries", "no_such_library"), ("work_mem", "7MB")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let orders = Orders { parameters: parameters.into(), ..primary.orders(Role::Primary) };
    caller.order(&orders).await.unwrap();
    let account = async || caller.account().await.unwrap();
    eventually("it waits for a start", async || account().await.restart_for == ["shared_preload_libraries"]).await;

    let pid = fs::read_to_string(primary.folder.join("pg/postmaster.pid")).unwrap();
    primary.guarded.signal("KILL", pid.lines().next().unwrap().parse().unwrap());
    eventually("it is told", async || account().await.trouble.contains("did not come up with postgres.parameters"))
        .await;
    let by_socket = format!("host={} port={} user=postgres dbname=postgres", primary.folder.display(), primary.port);
    eventually("it runs", async || psql(&by_socket, "SHOW work_mem") == Ok("4MB".to_owned())).await;
    eventually("it is the primary", async || account().await.as_ordered).await;

    let parameters = [("work_mem".to_owned(), "7MB".to_owned())].into();
    caller.order(&Orders { parameters, ..orders }).await.unwrap();
    eventually("others are tried", async || psql(&by_socket, "SHOW work_mem") == Ok("7MB".to_owned())).await;
    eventually("all is well", async || account().await.trouble.is_empty()).await;
}
