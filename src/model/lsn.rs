//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A position in the WAL, in bytes from its beginning. Comparable only on one history (safety.md 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A timeline: a number that each promotion raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

/// Text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN such as 0/3000060")]
pub struct BadLsn(pub String);

impl Lsn {
    /// The start of the segment that holds this position. A child asks for WAL from there, never from the middle
    /// (postgres-facts.md 1.1), so what an upstream must hold is compared by it.
    #[must_use]
    pub fn segment_start(self, segment_bytes: u64) -> Self {
        Self(self.0 - self.0 % segment_bytes.max(1))
    }

    /// Bytes from `earlier` up to this position; 0 when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let part = |digits: &str| u32::from_str_radix(digits, 16).map_err(|_| bad());
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_what_it_writes() {
        for text in ["0/0", "0/3000060", "1A/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "x/1", "0/123456789"] {
            assert_eq!(bad.parse::<Lsn>(), Err(BadLsn(bad.to_owned())));
        }
    }

    #[test]
    fn a_segment_begins_at_a_multiple_of_its_size() {
        assert_eq!(Lsn(0x0300_0060).segment_start(16 << 20), Lsn(0x0300_0000));
    }
}
