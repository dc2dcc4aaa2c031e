//! `primary_conninfo` as keywords and values: read, kept, and written back with our entries.

use std::fmt;

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

/// What stands for a password that was masked on the server.
pub const MASK: &str = "***";

/// A connection string of libpq in keyword/value form.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo(Vec<(String, String)>);

/// Text that is not `keyword=value ...`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConninfo {
    /// `postgresql://...`
    #[error("it is a URI; write it as keyword=value pairs")]
    Uri,
    /// A keyword without `=`: which one, counted from 1.
    #[error("keyword number {0} has no '='")]
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
        let mut rest = text.trim_start();
        for place in 1.. {
            if rest.is_empty() {
                break;
            }
            let (keyword, after) = rest.split_once('=').ok_or(BadConninfo::NoValue(place))?;
            let keyword = keyword.trim();
            if keyword.is_empty() || keyword.contains(char::is_whitespace) {
                return Err(BadConninfo::NoValue(place));
            }
            let (value, after) = value(after.trim_start()).ok_or(BadConninfo::OpenQuote(place))?;
            this.set(keyword, &value);
            rest = after.trim_start();
        }
        Ok(this)
    }

    /// The value of a keyword.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == keyword).map(|(_, v)| v.as_str())
    }

    /// Sets a keyword where it stands, or at the end.
    pub fn set(&mut self, keyword: &str, value: &str) {
        match self.0.iter_mut().find(|(k, _)| k == keyword) {
            Some(pair) => value.clone_into(&mut pair.1),
            None => self.0.push((keyword.to_owned(), value.to_owned())),
        }
    }

    /// Nothing is set: the standby is detached, or the server was never one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The upstreams it names, in libpq's order: host (or hostaddr where no host is given) and port, 5432 by default.
    pub fn hosts(&self) -> Vec<(String, u16)> {
        let list = |keyword| self.get(keyword).filter(|v| !v.is_empty()).map(|v| v.split(',').collect::<Vec<_>>());
        let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = hosts.as_ref().or(addresses.as_ref()).map_or(0, Vec::len);
        let at = |list: &Option<Vec<&str>>, i: usize| {
            list.as_ref().and_then(|l| l.get(i)).filter(|v| !v.is_empty()).map(|v| (*v).to_owned())
        };
        let port = |i: usize| {
            let one_for_all = ports.as_ref().filter(|p| p.len() == 1).map(|p| p[0].to_owned());
            one_for_all.or_else(|| at(&ports, i)).and_then(|p| p.parse().ok()).unwrap_or(5432)
        };
        (0..count).filter_map(|i| at(&hosts, i).or_else(|| at(&addresses, i)).map(|host| (host, port(i)))).collect()
    }

    /// This string with the route's entries in place of its own: what a route decides is replaced, everything else
    /// (user, passfile, certificates, dbname, ...) is kept.
    #[must_use]
    pub fn with_route(&self, application_name: &str, entries: &[(&str, u16)], primary_only: bool) -> Self {
        let join = |part: &dyn Fn(&(&str, u16)) -> String| entries.iter().map(part).collect::<Vec<_>>().join(",");
        let mut new = Self::default();
        new.set("host", &join(&|(host, _)| (*host).to_owned()));
        new.set("port", &join(&|(_, port)| port.to_string()));
        if primary_only {
            new.set("target_session_attrs", "primary");
        }
        new.set("application_name", application_name);
        for (keyword, value) in LIVENESS {
            new.set(keyword, value);
        }
        for (keyword, value) in &self.0 {
            if !OURS.contains(&keyword.as_str()) {
                new.set(keyword, value);
            }
        }
        new
    }
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
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
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
            let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
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
        for secret in ["password", "sslpassword"] {
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
        let new = present.unwrap().with_route("eu-3", &[("10.0.0.1", 5432), ("10.0.0.2", 5433)], false);
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
        assert_eq!(hosts("hostaddr=1.2.3.4 port=6"), [("1.2.3.4".into(), 6)]);
        assert_eq!(hosts(""), []);
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_showing_a_value() {
        assert_eq!(Conninfo::parse("postgresql://u:secret@h/"), Err(BadConninfo::Uri));
        assert_eq!(Conninfo::parse("host"), Err(BadConninfo::NoValue(1)));
        assert_eq!(Conninfo::parse("password='secret"), Err(BadConninfo::OpenQuote(1)));
        assert_eq!(Conninfo::parse("password=my secret"), Err(BadConninfo::NoValue(2)));
    }

    #[test]
    fn a_password_is_not_shown() {
        let shown = format!("{:?}", Conninfo::parse("user=a password=s3cret").unwrap());
        assert_eq!(shown, "user=a password=***");
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
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = Conninfo::parse(&text).map(|c| c.hosts());
        }
    }
}
