//! The boot-time clock (law 14): it goes on while the machine is suspended, and no step of wall time moves it.

use nix::time::{ClockId, clock_gettime};

use crate::model::Millis;

/// Milliseconds since the machine was started. Linux always has this clock; 0 where it does not.
pub fn now() -> Millis {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME);
    let milliseconds = time.ok().map(|t| t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000);
    Millis(milliseconds.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::now;

    #[test]
    fn the_clock_never_goes_back() {
        let first = now();
        assert!(first.0 > 0 && now() >= first);
    }
}
