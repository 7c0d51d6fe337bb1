//! How CPU time is split into that of programs and that of the kernel for them.
//!
//! The sum is exact; the parts follow samples. A timer interrupt looks where it finds a thread, while it runs a
//! program; in the kernel interrupts wait until its end, and then are taken before the program's next instruction.

use super::{Process, Thread, Usage};
use crate::sync::SpinLock;
use core::sync::atomic::Ordering;

/// The parts that were told so far, user and system, in ticks of the TSC: neither ever becomes less.
#[derive(Default)]
pub struct Told(SpinLock<[u64; 2]>);

impl Told {
    /// What of `ticks` in all is system time, as far as user and system `samples` say.
    pub fn system(&self, ticks: u64, samples: [u64; 2]) -> u64 {
        let mut told = self.0.lock();
        *told = split(*told, ticks, samples);
        // Meanwhile another may have asked later, and been told first.
        told[1].min(ticks)
    }
}

/// User and system time of `ticks`; `told` is what they were before (Linux's `cputime_adjust`).
fn split(told: [u64; 2], ticks: u64, samples: [u64; 2]) -> [u64; 2] {
    if told[0].saturating_add(told[1]) >= ticks {
        return told;
    }
    let all = u128::from(samples[0]) + u128::from(samples[1]);
    let share = (u128::from(ticks) * u128::from(samples[1])).checked_div(all).unwrap_or(0);
    let system = u64::try_from(share).unwrap_or(ticks).max(told[1]).min(ticks - told[0]);
    [ticks - system, system]
}

impl Thread {
    /// What it used by itself; the memory is its process's.
    pub fn usage(&self) -> Usage {
        let ticks = self.task.ticks();
        Usage {
            ticks,
            system: self.times_told.system(ticks, self.task.samples()),
            minor_faults: self.minor_faults.load(Ordering::Relaxed),
            resident_peak: 0,
            switches: [0, 1].map(|kind: usize| self.task.switches[kind].load(Ordering::Relaxed)),
        }
    }
}

impl Process {
    /// What it used, with what its ended threads used.
    pub fn usage(&self) -> Usage {
        let resident_peak = self.memory.share().map_or(0, |memory| memory.resident().1);
        let (mut usage, samples) = {
            let life = self.life.lock();
            let mut usage = Usage { resident_peak, ..life.ended };
            let mut samples = life.ended_samples;
            for thread in &life.threads {
                usage.add(thread.usage());
                for (all, mine) in samples.iter_mut().zip(thread.task.samples()) {
                    *all += mine;
                }
            }
            (usage, samples)
        };
        usage.system = self.times_told.system(usage.ticks, samples);
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn the_sum_is_exact_and_the_parts_follow_the_samples() {
        assert_eq!(split([0, 0], 1000, [0, 0]), [1000, 0]);
        assert_eq!(split([0, 0], 1000, [3, 1]), [750, 250]);
        assert_eq!(split([0, 0], 1000, [0, 7]), [0, 1000]);
        assert_eq!(split([0, 0], u64::MAX, [1, u64::MAX]), [1, u64::MAX - 1]);
    }

    #[test]
    fn neither_part_becomes_less() {
        // The samples say half; it was three quarters before.
        assert_eq!(split([250, 750], 1100, [5, 5]), [350, 750]);
        assert_eq!(split([750, 250], 1100, [5, 5]), [750, 350]);
        assert_eq!(split([500, 500], 1000, [9, 1]), [500, 500]);
        assert_eq!(split([500, 500], 900, [9, 1]), [500, 500]);
        let mut told = [0, 0];
        let mut samples = [0, 0];
        for step in 1_u64..200 {
            samples[usize::from(step % 7 < 3)] += 1;
            let next = split(told, step * 10, samples);
            assert!(next[0] >= told[0] && next[1] >= told[1] && next[0] + next[1] == step * 10);
            told = next;
        }
    }
}
