//! Where a server is: an IP or a host name, and nothing else. `address:port` is the first mistake that everybody makes, and
//! as a host name it would only be found when nobody can be reached.

use std::net::IpAddr;

/// An IPv6 address, an IPv4 address, or a host name, which has something in it that is neither digit nor dot. What libpq takes
/// as more than one address is no name: comma, blank, quote and slash.
pub const ADDRESS_PATTERN: &str = "^([0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\
    |((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])[.]){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\
    |[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?\
    |[0-9][0-9.]*([A-Za-z]|[A-Za-z_-][A-Za-z0-9._-]*[A-Za-z0-9]))$";

/// What is wrong with an address, and the cure; `None` for what may be one.
pub(super) fn fault(address: &str) -> Option<String> {
    if address.parse::<IpAddr>().is_ok() {
        return None;
    }
    if let Some((host, port)) = address.rsplit_once(':') {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        return Some(if port.parse::<u16>().is_ok() && fault(host).is_none() {
            format!("has a port in it: write {host} here and {port} in `port`")
        } else {
            "is no IPv6 address: correct it, and write a port in `port`".to_owned()
        });
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let edge = |c: char| c.is_ascii_alphanumeric();
    if !address.is_empty() && address.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Some("is no IPv4 address: write four numbers within 0 to 255".to_owned());
    }
    if address.len() > 253 || !address.chars().all(inner) || !address.starts_with(edge) || !address.ends_with(edge) {
        return Some("is no IP and no host name: write one, without a port".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn what_is_no_address_is_told_with_its_cure() {
        for good in ["192.0.2.1", "2001:db8::1", "::1", "db", "db-1.example", "10-0-0-1.pods.example", "3com", "a_b"] {
            assert_eq!(fault(good), None, "{good}");
        }
        for (bad, expected) in [
            ("192.0.2.1:5433", "has a port in it: write 192.0.2.1 here and 5433 in `port`"),
            ("db.example:5433", "has a port in it: write db.example here and 5433 in `port`"),
            ("[2001:db8::1]:5433", "has a port in it: write 2001:db8::1 here and 5433 in `port`"),
            ("db:", "is no IPv6 address: correct it, and write a port in `port`"),
            ("1:2:3", "is no IPv6 address: correct it, and write a port in `port`"),
            ("192.0.2.312", "is no IPv4 address: write four numbers within 0 to 255"),
            ("192.0.2", "is no IPv4 address: write four numbers within 0 to 255"),
            ("", "is no IP and no host name: write one, without a port"),
            ("a,b", "is no IP and no host name: write one, without a port"),
            ("-a", "is no IP and no host name: write one, without a port"),
        ] {
            assert_eq!(fault(bad).as_deref(), Some(expected), "{bad}");
        }
    }
}
