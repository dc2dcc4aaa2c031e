//! `primary_conninfo` as keywords and values: read, kept, and written back with our entries.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Keywords that a route decides. All others of the present string are the user's and are kept as they are.
const OURS: [&str; 10] = [
    "host",
    "hostaddr",
    "port",
    "target_session_attrs",
    "application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

/// What every route sets beside its entries. A vanished upstream is noticed in 1-2 s (postgres-facts.md 1.5:
/// `connect_timeout` is ignored by the walreceiver, `tcp_user_timeout` bounds the connect).
const LIVENESS: [(&str, &str); 4] =
    [("keepalives_idle", "1"), ("keepalives_interval", "1"), ("keepalives_count", "2"), ("tcp_user_timeout", "2000")];

/// What else every route has, so that it is no text of its own in each of thousands: less memory, and less of it to be
/// fetched when they are compared.
const COMMON: [&str; 6] = ["user", "passfile", "primary", LIVENESS[0].1, LIVENESS[2].1, LIVENESS[3].1];

/// What stands for a password that was masked on the server.
pub const MASK: &str = "***";

/// The keywords of libpq whose value is a secret; the last three are of PostgreSQL 18.
pub const SECRETS: [&str; 5] =
    ["password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"];

/// A connection string of libpq in keyword/value form. It is copied at each look at each server and changes with its route
/// only, so that copies share the text.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo(Arc<Vec<(Cow<'static, str>, Cow<'static, str>)>>);

/// One upstream of a route, as it stands in a connection string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What the server is called: an address, or the name that its certificate has to have.
    pub host: &'a str,
    /// The IP that is dialled, where it is known: no name is looked up then.
    pub hostaddr: Option<&'a str>,
    /// Its port.
    pub port: u16,
}

impl<'a> Entry<'a> {
    /// A server that is dialled by what it is called.
    pub fn new(host: &'a str, port: u16) -> Self {
        Self { host, hostaddr: None, port }
    }
}

/// Text that is not `keyword=value ...`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConninfo {
    /// `postgresql://...`
    #[error("it is a URI; write it as keyword=value pairs")]
    Uri,
    /// A keyword without `=`, or of letters that none of libpq's has: which one, counted from 1.
    #[error("keyword number {0} has no '=', or is none of libpq's")]
    NoValue(usize),
    /// A quote without its end: which keyword's, counted from 1.
    #[error("the quote after keyword number {0} does not end")]
    OpenQuote(usize),
}

impl Conninfo {
    /// Reads libpq's `keyword = 'value'` form with its quotes and backslashes; a later keyword wins.
    ///
    /// # Errors
    /// [`BadConninfo`] says where it cannot be read. It holds nothing of the text: of a password with a blank in it and
    /// no quotes the rest stands where a keyword ought to.
    pub fn parse(text: &str) -> Result<Self, BadConninfo> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Err(BadConninfo::Uri);
        }
        let mut this = Self::default();
        let mut rest = text.trim_start_matches(is_blank);
        for place in 1.. {
            if rest.is_empty() {
                break;
            }
            let (keyword, after) = rest.split_once('=').ok_or(BadConninfo::NoValue(place))?;
            let keyword = keyword.trim_matches(is_blank);
            // libpq has no keyword of other letters, and one that is read as foreign is kept: what follows may be a secret.
            let is_libpqs = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if keyword.is_empty() || !keyword.chars().all(is_libpqs) {
                return Err(BadConninfo::NoValue(place));
            }
            let (value, after) = value(after.trim_start_matches(is_blank)).ok_or(BadConninfo::OpenQuote(place))?;
            this.set(keyword, &value);
            rest = after.trim_start_matches(is_blank);
        }
        Ok(this)
    }

    /// The value of a keyword.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == keyword).map(|(_, v)| v.as_ref())
    }

    /// Sets a keyword where it stands, or at the end.
    pub fn set(&mut self, keyword: &str, value: &str) {
        let pairs = Arc::make_mut(&mut self.0);
        match pairs.iter_mut().find(|(k, _)| k == keyword) {
            Some(pair) => pair.1 = kept(value),
            None => pairs.push((kept(keyword), kept(value))),
        }
    }

    /// Nothing is set: the standby is detached, or the server was never one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The upstreams it names, in libpq's order: host (or hostaddr where no host is given) and port, 5432 by default.
    pub fn hosts(&self) -> Vec<(String, u16)> {
        self.listeners().map(|(host, port)| (host.to_owned(), port)).collect()
    }

    /// The same, where they are only looked at.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, u16)> {
        let (mut hosts, mut addresses, mut ports) = ("", "", "");
        for (keyword, value) in self.0.iter() {
            match keyword.as_ref() {
                "host" => hosts = value,
                "hostaddr" => addresses = value,
                "port" => ports = value,
                _ => {}
            }
        }
        let listed = if hosts.is_empty() { addresses } else { hosts };
        let count = if listed.is_empty() { 0 } else { listed.split(',').count() };
        let one_for_all = Some(ports).filter(|ports| !ports.contains(','));
        let (mut hosts, mut addresses, mut ports) = (hosts.split(','), addresses.split(','), ports.split(','));
        (0..count).filter_map(move |_| {
            let (host, address, port) = (hosts.next(), addresses.next(), ports.next());
            let port = one_for_all.or(port).and_then(|port| port.parse().ok()).unwrap_or(5432);
            Some(([host, address].into_iter().flatten().find(|listens| !listens.is_empty())?, port))
        })
    }

    /// This string with the route's entries in place of its own: what a route decides is replaced, everything else
    /// (user, passfile, certificates, dbname, ...) is kept.
    #[must_use]
    pub fn with_route(&self, application_name: &str, entries: &[Entry<'_>], primary_only: bool) -> Self {
        let pairs = self.pairs_with_route(application_name, entries, primary_only);
        Self(Arc::new(pairs.map(|(keyword, value)| (kept(keyword), value.to_text())).collect()))
    }

    /// Whether it is what [`Self::with_route`] would make of it.
    pub fn has_route(&self, application_name: &str, entries: &[Entry<'_>], primary_only: bool) -> bool {
        let mut present = self.0.iter();
        let mut pairs = self.pairs_with_route(application_name, entries, primary_only);
        let is_next = |(keyword, value): (&str, Value<'_>)| {
            present.next().is_some_and(|(there, text)| there == keyword && value.is(text))
        };
        pairs.all(is_next) && present.next().is_none()
    }

    fn pairs_with_route<'a>(
        &'a self,
        application_name: &'a str,
        entries: &'a [Entry<'a>],
        primary_only: bool,
    ) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let addresses = entries.iter().any(|entry| entry.hostaddr.is_some());
        let addresses = addresses.then_some(("hostaddr", Value::Addresses(entries)));
        let hosts = std::iter::once(("host", Value::Hosts(entries))).chain(addresses);
        let lists = hosts.chain([("port", Value::Ports(entries))]);
        let attrs = primary_only.then_some(("target_session_attrs", "primary"));
        let texts = attrs.into_iter().chain([("application_name", application_name)]).chain(LIVENESS);
        let kept = self.0.iter().filter(|(keyword, _)| !OURS.contains(&keyword.as_ref()));
        let texts = texts.chain(kept.map(|(keyword, value)| (keyword.as_ref(), value.as_ref())));
        lists.chain(texts.map(|(keyword, text)| (keyword, Value::Text(text))))
    }
}

/// The value of a keyword that a route decides or keeps. A plan compares it with what is there for every node, and writes
/// it out for few.
enum Value<'a> {
    /// As it stands.
    Text(&'a str),
    /// The hosts of a route's entries.
    Hosts(&'a [Entry<'a>]),
    /// The IPs that are dialled; nothing between two commas is one whose host is looked up.
    Addresses(&'a [Entry<'a>]),
    /// Their ports.
    Ports(&'a [Entry<'a>]),
}

impl Value<'_> {
    fn to_text(&self) -> Cow<'static, str> {
        match self {
            Self::Text(text) => kept(text),
            Self::Hosts(entries) => list(entries, |entry| entry.host.to_owned()),
            Self::Addresses(entries) => list(entries, |entry| entry.hostaddr.unwrap_or_default().to_owned()),
            Self::Ports(entries) => list(entries, |entry| entry.port.to_string()),
        }
    }

    /// Whether [`Self::to_text`] is `text`, found out without writing it.
    fn is(&self, text: &str) -> bool {
        match self {
            Self::Text(own) => *own == text,
            Self::Hosts(entries) => is_list(text, entries, |rest, entry| rest.strip_prefix(entry.host)),
            Self::Addresses(entries) => {
                is_list(text, entries, |rest, entry| rest.strip_prefix(entry.hostaddr.unwrap_or_default()))
            }
            Self::Ports(entries) => is_list(text, entries, |rest, entry| strip_port(rest, entry.port)),
        }
    }
}

fn list(entries: &[Entry<'_>], text: impl Fn(&Entry<'_>) -> String) -> Cow<'static, str> {
    entries.iter().map(text).collect::<Vec<_>>().join(",").into()
}

/// Whether `text` is these entries with commas between them. `strip` takes one away where the text begins with it.
fn is_list<'a>(text: &'a str, entries: &[Entry<'_>], strip: impl Fn(&'a str, Entry<'_>) -> Option<&'a str>) -> bool {
    let mut rest = Some(text);
    for (place, entry) in entries.iter().enumerate() {
        let at = rest.and_then(|rest| if place == 0 { Some(rest) } else { rest.strip_prefix(',') });
        rest = at.and_then(|at| strip(at, *entry));
    }
    rest == Some("")
}

/// What follows a port, where the text begins with that one as it is written, without a leading zero.
fn strip_port(text: &str, port: u16) -> Option<&str> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - rest.len()];
    let is_plain = digits.len() == 1 || !digits.starts_with('0');
    (is_plain && digits.parse() == Ok(port)).then_some(rest)
}

/// A keyword or value to be kept.
fn kept(text: &str) -> Cow<'static, str> {
    let known = OURS.into_iter().chain(COMMON).find(|known| *known == text);
    known.map_or_else(|| text.to_owned().into(), Cow::Borrowed)
}

/// What libpq takes for a blank: C's `isspace` of a byte. A blank of Unicode is a part of its value, so that a password
/// with one in it is a secret to its end.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// One value and what follows it; `None` when its quote does not end.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && is_blank(c) => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

impl fmt::Display for Conninfo {
    /// Writes libpq's form; reading it back gives an equal value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (keyword, value)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            let plain = !value.is_empty() && !value.contains(|c: char| is_blank(c) || c == '\'' || c == '\\');
            if plain {
                write!(f, "{keyword}={value}")?;
            } else {
                write!(f, "{keyword}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Conninfo {
    /// Never shows a password, whatever it was made from.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.clone();
        for secret in SECRETS {
            if shown.get(secret).is_some() {
                shown.set(secret, MASK);
            }
        }
        fmt::Display::fmt(&shown, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_users_keywords_are_kept_and_ours_replaced() {
        let present = Conninfo::parse("user=repl host=old port=1 passfile='/a b/pw' dbname=postgres hostaddr=1.2.3.4");
        let new =
            present.unwrap().with_route("eu-3", &[Entry::new("10.0.0.1", 5432), Entry::new("10.0.0.2", 5433)], false);
        assert_eq!(
            new.to_string(),
            "host=10.0.0.1,10.0.0.2 port=5432,5433 application_name=eu-3 keepalives_idle=1 keepalives_interval=1 \
             keepalives_count=2 tcp_user_timeout=2000 user=repl passfile='/a b/pw' dbname=postgres"
        );
    }

    #[test]
    fn hosts_pair_with_their_ports() {
        let hosts = |text: &str| Conninfo::parse(text).unwrap().hosts();
        assert_eq!(hosts("host=a,b port=1,2"), [("a".into(), 1), ("b".into(), 2)]);
        assert_eq!(hosts("host=a,b port=7"), [("a".into(), 7), ("b".into(), 7)]);
        assert_eq!(hosts("host=a"), [("a".into(), 5432)]);
        assert_eq!(
            hosts("host=a,,b hostaddr=,1.2.3.4 port=1,,3"),
            [("a".into(), 1), ("1.2.3.4".into(), 5432), ("b".into(), 3)]
        );
        assert_eq!(hosts("hostaddr=1.2.3.4 port=6"), [("1.2.3.4".into(), 6)]);
        assert_eq!(hosts(""), []);
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_showing_a_value() {
        assert_eq!(Conninfo::parse("postgresql://u:secret@h/"), Err(BadConninfo::Uri));
        assert_eq!(Conninfo::parse("host"), Err(BadConninfo::NoValue(1)));
        assert_eq!(Conninfo::parse("password='secret"), Err(BadConninfo::OpenQuote(1)));
        assert_eq!(Conninfo::parse("password=my secret"), Err(BadConninfo::NoValue(2)));
        assert_eq!(Conninfo::parse("host=a password\u{a0}=secret"), Err(BadConninfo::NoValue(2)));
        assert_eq!(Conninfo::parse("host=a Password=secret"), Err(BadConninfo::NoValue(2)));
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", Conninfo::parse("user=a password=s3cret").unwrap());
        assert_eq!(shown, "user=a password=***");
        for secret in SECRETS {
            let shown = format!("{:?}", Conninfo::parse(&format!("{secret}=s3cret user=a")).unwrap());
            assert_eq!(shown, format!("{secret}=*** user=a"));
        }
    }

    #[test]
    fn only_what_is_blank_to_libpq_ends_a_value() {
        for blank in [" ", "\t", "\n", "\u{b}", "\u{c}", "\r"] {
            let read = Conninfo::parse(&format!("{blank}user{blank}={blank}a{blank}dbname=b{blank}")).unwrap();
            assert_eq!((read.get("user"), read.get("dbname")), (Some("a"), Some("b")), "{blank:?}");
        }
        for part in ["\u{85}", "\u{a0}", "\u{2003}", "\u{3000}"] {
            let value = format!("{part}s3{part}cret=x{part}");
            let read = Conninfo::parse(&format!("password={value} user=a")).unwrap();
            assert_eq!(read.get("password"), Some(value.as_str()));
            assert_eq!(format!("{read:?}"), "password=*** user=a");
        }
    }

    #[test]
    fn a_route_is_there_by_its_very_text_only() {
        let entries = [Entry::new("b", 1), Entry::new("c", 20)];
        let written = Conninfo::default().with_route("n1", &entries, false);
        assert!(written.has_route("n1", &entries, false));
        for (keyword, value) in
            [("port", "01,20"), ("port", "1,2"), ("port", "1"), ("host", "b"), ("host", "b,c,"), ("host", "")]
        {
            let mut other = written.clone();
            other.set(keyword, value);
            assert!(!other.has_route("n1", &entries, false), "{other:?}");
        }
    }

    #[test]
    fn a_server_is_called_by_its_name_and_dialled_by_its_address() {
        let pod = Entry { host: "b", hostaddr: Some("10.0.0.2"), port: 1 };
        let entries = [Entry::new("192.0.2.7", 2), pod];
        let written = Conninfo::parse("user=a hostaddr=1.2.3.4").unwrap().with_route("n1", &entries, false);
        let text = written.to_string();
        assert!(
            text.starts_with("host=192.0.2.7,b hostaddr=,10.0.0.2 port=2,1 ") && text.ends_with(" user=a"),
            "{text}"
        );
        assert_eq!(written.hosts(), [("192.0.2.7".into(), 2), ("b".into(), 1)]);
        assert!(written.has_route("n1", &entries, false));
        let moved = Entry { hostaddr: Some("10.0.0.3"), ..pod };
        assert!(!written.has_route("n1", &[entries[0], moved], false), "its address is another now");
        assert!(!written.has_route("n1", &[entries[0], Entry::new("b", 1)], false));
    }

    proptest! {
        #[test]
        fn a_conninfo_reads_what_it_writes(pairs in prop::collection::vec(("[a-z_]{1,12}", ".{0,20}"), 0..8)) {
            let mut written = Conninfo::default();
            for (keyword, value) in &pairs {
                written.set(keyword, value);
            }
            prop_assert_eq!(Conninfo::parse(&written.to_string()), Ok(written));
        }

        #[test]
        fn a_conninfo_has_the_route_that_it_was_given(
            present in prop::sample::select(vec!["", "user=a host=b port=1", "host=b,c port=1,2 application_name=n1 user=a"]),
            other in prop::bool::ANY,
        ) {
            let (entries, others) = ([Entry::new("b", 1), Entry::new("c", 2)], [Entry::new("b", 1)]);
            let present = Conninfo::parse(present).unwrap();
            let new = present.with_route("n1", &entries, false);
            prop_assert!(new.has_route("n1", &entries, false) && new.has_route("n1", &entries, other) != other);
            prop_assert!(!new.has_route("n1", &others, false) && !present.has_route("n1", &entries, false));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = Conninfo::parse(&text).map(|c| c.hosts());
        }
    }
}
