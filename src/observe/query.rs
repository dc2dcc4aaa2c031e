//! The SQL that is asked: one question a tick, and one about our rights. Reads only.

use super::rights::Rights;

/// The question of every tick; `$1` is the timeline that a standby without a walreceiver was last seen on, or 0.
///
/// Tested as a role with `pg_monitor` (postgres-facts.md 5.1). `pg_control_*` is asked for the position of the last
/// restartpoint and for a lower bound of the timeline only: its timelines lag after a promotion (5.2). A walreceiver that
/// connects has no row of its own, and what it waits for is `LibPQWalReceiverConnect`, or from 17 on in other letters (5.2).
/// Of `primary_conninfo` no secret leaves the server.
const TICK: &str = concat!(
    "SELECT json_build_object(
 'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
 'cluster_name', current_setting('cluster_name'),
 'version_num', current_setting('server_version_num')::int,
 'started', (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
 'in_recovery', r.recovery,
 'position', CASE WHEN r.recovery THEN greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'),
     coalesce(pg_last_wal_replay_lsn(), '0/0')) ELSE pg_current_wal_flush_lsn() END,
 'replay', CASE WHEN r.recovery THEN pg_last_wal_replay_lsn() END,
 'timeline', t.own,
 'control_timeline', c.timeline,
 'redo', (SELECT redo_lsn FROM pg_control_checkpoint()),
 'oldest_wal', (SELECT min(substr(name, 9) COLLATE \"C\") FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'),
 'segment_bytes', pg_size_bytes(current_setting('wal_segment_size')),
 'replay_paused', CASE WHEN r.recovery THEN {paused} ELSE false END,
 'startup_wait', (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'),
 'receiver', w.receiver,
 'connecting', (SELECT coalesce(bool_or(lower(wait_event) = 'libpqwalreceiverconnect'), false) FROM pg_stat_activity
     WHERE backend_type = 'walreceiver'),
 'conninfo', s.conninfo,
 'has_password', s.has_password,
 'slot_name', current_setting('primary_slot_name'),
 'pending_route', {pending},
 'history', {history},
 'senders', (SELECT coalesce(json_agg(json_build_object('pid', p.pid, 'application_name', p.application_name,
     'state', p.state, 'sync', p.sync_state <> 'async', 'slot', l.slot_name, 'client', host(p.client_addr) || ':' || p.client_port,
     'replied', (extract(epoch FROM p.reply_time) * 1000000)::bigint)), '[]')
     FROM pg_stat_replication p LEFT JOIN pg_replication_slots l ON l.active_pid = p.pid),
 'slots', (SELECT coalesce(json_agg(json_build_object('name', l.slot_name, 'active_pid', l.active_pid,
     'restart_lsn', l.restart_lsn, 'xmin', l.xmin::text, 'lost', coalesce(l.wal_status = 'lost', false)
     OR to_jsonb(l)->>'invalidation_reason' IS NOT NULL)), '[]')
     FROM pg_replication_slots l WHERE l.slot_type = 'physical' AND NOT l.temporary),
 'parameters', json_build_object({parameters},
     'wal_receiver_status_interval', extract(epoch FROM current_setting('wal_receiver_status_interval')::interval)::bigint),
 'synchronous_standby_names', current_setting('synchronous_standby_names'),
 'alter_system_allowed', coalesce(current_setting('allow_alter_system', true), 'on') = 'on')
FROM (SELECT pg_is_in_recovery() AS recovery) r,
 LATERAL (",
    include_str!("route_without_secrets.sql"),
    ") s,
 LATERAL (SELECT greatest((SELECT timeline_id FROM pg_control_checkpoint()),
     (SELECT min_recovery_end_timeline FROM pg_control_recovery())) AS timeline) c,
 LATERAL (SELECT CASE WHEN NOT r.recovery
     THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS own) t,
 LATERAL (SELECT $1::int AS remembered) m
 LEFT JOIN LATERAL (SELECT received_tli, json_build_object('pid', pid, 'status', status, 'host', sender_host,
     'port', sender_port, 'slot', slot_name, 'timeline', received_tli, 'silent_for_milliseconds',
     (extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000)::bigint) AS receiver FROM pg_stat_wal_receiver) w ON true"
);

/// Bytes of one row of [`DISK`].
pub(super) const DISK_ROW_BYTES: u64 = 8_000;

/// Whether so many rows, written to a temporary file and forgotten, find a place on the disk of the data. A standby whose
/// disk takes no further segment of WAL tells nobody but its log: its walreceiver ends at each attempt, and all else
/// goes on (measured on 15.18: creating a slot goes on too).
pub(super) const DISK: &str = "WITH rows AS MATERIALIZED (SELECT repeat('x', 8000) FROM generate_series(1, $1)) \
                               SELECT count(*) FROM rows";

/// Parameters that a standby has to have at least as high as its primary.
const PARAMETERS: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// The question of every tick, as this server and our role there can answer it.
pub(super) fn tick(version_num: u32, rights: &Rights) -> String {
    let paused = if version_num < 140_000 {
        "pg_is_wal_replay_paused()"
    } else {
        "pg_get_wal_replay_pause_state() <> 'not paused'"
    };
    let pending = if rights.pending_route { "waltree.pending_route()" } else { "NULL" };
    let history = if rights.timeline_history {
        "waltree.timeline_history(coalesce(t.own, w.received_tli, nullif(greatest(m.remembered, c.timeline), 0)))"
    } else {
        "NULL"
    };
    let parameter = |name: &&str| format!("'{name}', current_setting('{name}')::bigint");
    let parameters = PARAMETERS.iter().map(parameter).collect::<Vec<_>>().join(", ");
    TICK.replace("{parameters}", &parameters)
        .replace("{paused}", paused)
        .replace("{pending}", pending)
        .replace("{history}", history)
}

macro_rules! rights {
    ($parameter_privileges:literal) => {
        concat!(
            "SELECT json_build_object('role', quote_ident(current_user),
 'monitor', pg_has_role(current_user, 'pg_monitor', 'USAGE'),
 'signal', pg_has_role(current_user, 'pg_signal_backend', 'USAGE'),
 'replication', (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),",
            $parameter_privileges,
            "'reload', has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE'),
 'emit', has_function_privilege(e.emit, 'EXECUTE'), 'emit_name', e.emit::text,
 'history', f.names @> '{timeline_history}', 'pending', f.names @> '{pending_route}')
FROM (SELECT coalesce(array_agg(p.proname::text), '{}') AS names FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'waltree'
 AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')) f,
 (SELECT p.oid::regprocedure AS emit FROM pg_proc p WHERE p.proname = 'pg_logical_emit_message'
 AND p.proargtypes[2] = 'text'::regtype AND p.pronamespace = 'pg_catalog'::regnamespace) e"
        )
    };
}

/// What our role may do. The functions are looked up in the catalog because ours may not be installed, and
/// `pg_logical_emit_message` has a fourth argument from 17 on.
pub(super) const RIGHTS: &str = rights!(
    "'conninfo', has_parameter_privilege('primary_conninfo', 'ALTER SYSTEM'),
     'slot', has_parameter_privilege('primary_slot_name', 'ALTER SYSTEM'),"
);

/// The same before 15, where only a superuser may change a parameter.
pub(super) const RIGHTS_BEFORE_15: &str = rights!(
    "'conninfo', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
     'slot', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
);
