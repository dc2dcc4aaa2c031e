-- The role of the waltree operator, with exactly the rights that it uses. PostgreSQL 15 or later.
--
-- Run it once with psql, as a superuser, on the primary, in the database that the operator connects to (`dbname` in
-- its Secret, `postgres` when that is not set); the standbys get it by replication:
--
--     psql -h PRIMARY -U postgres -d postgres -f operator-role.sql
--     psql -h PRIMARY -U postgres -d postgres -c '\password waltree'
--
-- It sets no password: `\password` sends only a hash, so the password is in no file and no log. With client
-- certificates no password is needed. It can be run again at any time.
\set ON_ERROR_STOP on

BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'waltree') THEN
        CREATE ROLE waltree;
    END IF;
    -- Named by hand because CONNECT may have been taken from PUBLIC.
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO waltree', current_database());
END
$$;

-- REPLICATION: create, advance and drop physical slots, on standbys too.
ALTER ROLE waltree LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;

-- See walreceivers, walsenders, settings and the list of WAL files.
GRANT pg_monitor TO waltree;

-- End a walsender that holds the slot of a standby for a connection which that standby does not have any more. It cannot
-- end what a superuser runs, so the user that standbys stream as must not be one.
GRANT pg_signal_backend TO waltree;

-- Change the upstream of a standby, and nothing else.
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name TO waltree;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO waltree;

-- Write one empty WAL record when the primary is quiet, so that a stream that stands still can be told from one that
-- has nothing to send.
-- (A fourth argument came with PostgreSQL 17.)
DO $$
BEGIN
    EXECUTE (SELECT format('GRANT EXECUTE ON FUNCTION %s TO waltree', string_agg(p.oid::regprocedure::text, ', '))
             FROM pg_catalog.pg_proc p WHERE p.proname = 'pg_logical_emit_message' AND p.proargtypes[2] = 'text'::regtype
             AND p.pronamespace = 'pg_catalog'::regnamespace);
END
$$;

-- Two questions that PostgreSQL answers to superusers only, each as one function that can answer nothing else.
CREATE SCHEMA IF NOT EXISTS waltree;
ALTER SCHEMA waltree OWNER TO CURRENT_USER;
REVOKE ALL ON SCHEMA waltree FROM PUBLIC;
GRANT USAGE ON SCHEMA waltree TO waltree;

-- Where the timelines before the given one ended: the text of its history file, or null when there is none.
CREATE OR REPLACE FUNCTION waltree.timeline_history(timeline integer) RETURNS text
    LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on
AS $$
    SELECT CASE WHEN timeline > 1 THEN
        pg_read_file('pg_wal/' || lpad(upper(to_hex(timeline)), 8, '0') || '.history', 0, 1048576, true)
    END
$$;

-- The primary_conninfo that the configuration files hold, which the next reload or restart brings, without passwords;
-- null when they hold none.
CREATE OR REPLACE FUNCTION waltree.pending_route() RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on
AS $$
    SELECT conninfo FROM (
        SELECT CASE WHEN g.conninfo ~ '^\s*postgres(ql)?://' THEN 'postgresql://'
                WHEN m.pieces || b.behind <> g.conninfo THEN ' ?'
                ELSE m.shown || CASE WHEN m.all_fit AND b.behind !~ '[^ \t-\r]' THEN b.behind ELSE ' ?' END END AS conninfo,
            m.has_password
        FROM (SELECT r.conninfo, 'password|scram_client_key|scram_server_key|oauth_client_secret' AS secret,
                -- A keyword up to its value; the value, in quotes, whose end may be missing, or up to a blank.
                '([^=]*=[ \t-\r]*)(''(?:\\.|[^''\\])*(?:''|\\?$)'
                    '|(?:(?:\\(?:.|$)|[^ \t-\r\\''])(?:\\(?:.|$)|[^ \t-\r\\])*)?)' AS pair,
                '^[ \t-\r]*(application_name|channel_binding|client_encoding|connect_timeout|dbname'
                    '|fallback_application_name|gss[a-z]+|host(addr)?|keepalives[a-z_]*|krbsrvname|load_balance_hosts'
                    '|m(in|ax)_protocol_version|oauth_[a-z_]+|options|passfile|password|port|replication|require_?[a-z]+'
                    '|scram_[a-z_]+|service(file)?|ssl[a-z_]*|target_session_attrs|tcp_user_timeout|user'
                    ')[ \t-\r]*=[ \t-\r]*$' AS keyword
            FROM (SELECT setting AS conninfo FROM pg_show_all_file_settings() WHERE lower(name) = 'primary_conninfo'
                ORDER BY seqno DESC LIMIT 1) r) g,
        LATERAL (SELECT regexp_replace(g.conninfo, g.pair, '', 'g') AS behind) b,
        LATERAL (SELECT coalesce(string_agg(s.pair[1] || s.pair[2], '' ORDER BY s.place), '') AS pieces,
                coalesce(bool_and(s.fits), true) AS all_fit,
                coalesce(bool_or(s.pair[1] ~* g.secret), false) AS has_password,
                coalesce(string_agg(s.pair[1] || CASE WHEN s.pair[1] ~ g.secret THEN '''***''' ELSE s.pair[2] END, ''
                    ORDER BY s.place) FILTER (WHERE s.fits), '') AS shown
            -- It fits where it is a pair that is closed and no URI, and all before it are.
            FROM (SELECT p.pair, p.place, bool_and(p.pair[1] ~ g.keyword AND p.pair[2] !~ '^''(\\.|[^''\\])*\\?$'
                        AND p.pair[2] !~ 'postgres(ql)?://') OVER (ORDER BY p.place) AS fits
                FROM regexp_matches(g.conninfo, g.pair, 'g') WITH ORDINALITY AS p(pair, place)) s) m
    ) AS route
$$;

ALTER FUNCTION waltree.timeline_history(integer) OWNER TO CURRENT_USER;
ALTER FUNCTION waltree.pending_route() OWNER TO CURRENT_USER;
REVOKE ALL ON FUNCTION waltree.timeline_history(integer), waltree.pending_route() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION waltree.timeline_history(integer), waltree.pending_route() TO waltree;

COMMIT;
