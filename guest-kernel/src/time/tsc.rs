//! The time stamp counter, and the arithmetic between its ticks and nanoseconds.

/// Fraction bits of [`Scale::multiplier`].
const SHIFT: u32 = 32;

/// The time stamp counter, read after everything that precedes it: RDTSC alone may run early, and two
/// threads could then tell each other times that contradict each other (SDM volume 2, RDTSC).
#[inline]
pub fn read() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every x86-64 processor has both instructions; neither touches memory.
    unsafe {
        core::arch::asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The rate of a TSC, as a 32.32 fixed-point number of nanoseconds per tick.
///
/// At 2.6 GHz the number is right to 3e-10, ten milliseconds a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale(u64);

impl Scale {
    /// The scale for a TSC of `khz` ticks a millisecond; `None` for 0.
    pub const fn from_khz(khz: u64) -> Option<Self> {
        const NS_PER_MS: u64 = 1_000_000;
        // Nearest, not floor; cannot overflow, as 10^6 << 32 is below 2^52.
        match ((NS_PER_MS << SHIFT) + khz / 2).checked_div(khz) {
            Some(0) | None => None,
            Some(multiplier) => Some(Self(multiplier)),
        }
    }

    /// The scale that [`Self::multiplier`] describes.
    pub const fn from_multiplier(multiplier: u64) -> Self {
        Self(multiplier)
    }

    /// Nanoseconds per tick, times 2^32.
    pub const fn multiplier(self) -> u64 {
        self.0
    }

    /// How long `ticks` take, rounded down: one multiplication, whose upper half is kept. Wraps after
    /// 584 years.
    #[expect(clippy::cast_possible_truncation, reason = "584 years of nanoseconds fit")]
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        ((ticks as u128 * self.0 as u128) >> SHIFT) as u64
    }

    /// How many ticks take at least `ns`, at most a few ticks and 3e-10 of them too many; saturates.
    ///
    /// Multiplies with the reciprocal, rounded up, so that a timer set for it never fires early.
    pub fn ticks(self, ns: u64) -> u64 {
        // At least 2^64 / multiplier.
        let Some(reciprocal) =
            u64::MAX.checked_div(self.0).and_then(|quotient| quotient.checked_add(1))
        else {
            return u64::MAX;
        };
        let ticks = ((u128::from(ns) * u128::from(reciprocal)) >> SHIFT) + 1;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Scale;

    #[test]
    fn no_rate_has_no_scale() {
        assert_eq!(Scale::from_khz(0), None);
        assert_eq!(Scale::from_khz(u64::MAX), None);
    }

    #[test]
    fn a_second_is_a_second_at_every_rate() {
        for khz in [1, 1_000, 19_200, 999_999, 1_000_000, 2_599_998, 5_700_000] {
            let scale = Scale::from_khz(khz).unwrap();
            let ns = scale.nanoseconds(khz * 1000);
            assert!(ns.abs_diff(1_000_000_000) <= 1 + khz / 1_000_000, "{khz} kHz: {ns} ns");
        }
    }

    #[test]
    fn a_year_is_right_to_twenty_milliseconds() {
        let khz = 2_599_998;
        let seconds = 365 * 24 * 3600;
        let ns = Scale::from_khz(khz).unwrap().nanoseconds(khz * 1000 * seconds);
        assert!(ns.abs_diff(seconds * 1_000_000_000) < 20_000_000, "{ns}");
    }

    #[test]
    fn a_timer_is_never_early_and_hardly_late() {
        let mut ns = 1;
        for khz in [1_000, 999_999, 1_000_000, 2_599_998, 5_700_000] {
            let scale = Scale::from_khz(khz).unwrap();
            for step in 1..2_000 {
                let ticks = scale.ticks(ns);
                assert!(scale.nanoseconds(ticks) >= ns);
                let slack = 2 + ns / 1_000_000_000;
                let early = ticks.saturating_sub(slack + slack * khz / 1_000_000);
                assert!(scale.nanoseconds(early) <= ns, "{khz} kHz, {ns} ns");
                ns = ns.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step)
                    >> (step % 40 + 8);
            }
        }
        assert_eq!(Scale::from_khz(2_600_000).unwrap().ticks(u64::MAX), u64::MAX);
    }
}
