//! Kubernetes quantities of bytes, as far as a bound needs them.

/// What a quantity looks like: a number, with three digits after the point at most, and a unit.
pub const QUANTITY_PATTERN: &str = "^[0-9]{1,9}([.][0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?$";

/// The bytes that a quantity means; `None` for what is none, or more than can be counted.
pub fn bytes(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (whole, part) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()).then(|| text.parse::<u64>().ok())?;
    let thousandths = match part {
        Some(part) => digits(&format!("{part:0<3}"), 3).filter(|_| !part.is_empty())?,
        None => 0,
    };
    let thousandths = digits(whole, 9)?.checked_mul(1000)?.checked_add(thousandths)?;
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    u64::try_from(u128::from(thousandths) * u128::from(factor) / 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn a_quantity_is_read_as_kubernetes_reads_it() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("25Gi", 25 << 30),
            ("1.5Gi", 3 << 29),
            ("64Mi", 64 << 20),
            ("1.25k", 1250),
            ("2T", 2_000_000_000_000),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for bad in ["", "Gi", "1.", ".5Gi", "1.2345Gi", "1 Gi", "-1Gi", "1GB", "1e9", "9999999999", "1.2.3Gi", "٣Gi"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
    }
}
