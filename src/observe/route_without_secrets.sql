-- What a standby's primary_conninfo says, without any secret (model::conninfo::SECRETS): it is masked on the server,
-- before it can leave it. The text is gone through as libpq does, a keyword with its value at a time, so that nothing
-- within a value is taken for a keyword. Where libpq of PostgreSQL 18 would stop, all that follows may be a part of a
-- secret: a ? stands for it. A URI has the password in places of its own: nothing of it leaves, wherever it stands. Nor
-- does anything where the pieces are not the text: bytes that are no characters of the database are read otherwise here
-- than by libpq. waltree.pending_route in deploy/sql/operator-role.sql has this text too; a test compares them.
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
    FROM (SELECT current_setting('primary_conninfo') AS conninfo) r) g,
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
