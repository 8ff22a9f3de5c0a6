//! Fewer records under load: beyond `overload.max_records_per_second`, each busy listener has one record for several accepts,
//! which says for how many it stands. Quiet listeners keep theirs. Pure: time is the samples' own.

use foldhash::{HashMap, HashMapExt as _};

const SECOND_NS: u64 = 1_000_000_000;

/// Shortest window that a rate is taken from.
const SHORTEST_NS: u64 = 1_000_000;

/// Listeners with a share of their own; the others have one together.
const LISTENERS: usize = 4096;

/// Windows without an accept after which a listener counts as gone.
const IDLE: u32 = 60;

/// The listener of those.
const OTHERS: u64 = 0;

/// Decides which accepts are records.
#[derive(Debug)]
pub struct Overload {
    /// Records a second.
    budget: u64,
    began_ns: u64,
    /// Since when the shares are counted.
    counted_ns: u64,
    /// Accepts in this window, and records of them.
    accepts: u64,
    records: u64,
    /// Whether some listener is thinned, or was and has accepts that no record stands for yet.
    thins: bool,
    shares: HashMap<u64, Share>,
}

/// One listener's part.
#[derive(Debug)]
struct Share {
    /// Accepts in this window.
    accepts: u64,
    /// One of so many is a record.
    every: u64,
    /// Accepts since the last record.
    waiting: u64,
    /// Windows without an accept.
    idle: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { accepts: 0, every: 1, waiting: 0, idle: 0 }
    }
}

impl Overload {
    /// Lets `budget` records a second pass.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            began_ns: 0,
            counted_ns: 0,
            accepts: 0,
            records: 0,
            thins: false,
            shares: HashMap::new(),
        }
    }

    /// Another budget, from the next window on.
    pub fn limit(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// Whether an accept on `listener` (its inode; 0 when it is not known) at `boot_ns` is a record, and for how many accepts it
    /// stands then, itself among them. Nothing: it is one of those that the next record stands for.
    pub fn admit(&mut self, listener: u64, boot_ns: u64) -> Option<u64> {
        // Samples of several CPUs are not quite in order.
        if boot_ns.saturating_sub(self.began_ns) >= SECOND_NS {
            self.next_window(boot_ns);
        }
        self.accepts += 1;
        // The way of almost every host: nothing is thinned, and not half of what may be is there.
        if !self.thins && self.accepts <= self.budget / 2 {
            self.records += 1;
            self.counted_ns = boot_ns;
            return Some(1);
        }
        let stands_for = self.share(listener)?;
        self.records += 1;
        if self.records >= self.budget {
            self.next_window(boot_ns);
        }
        Some(stands_for)
    }

    fn share(&mut self, listener: u64) -> Option<u64> {
        let is_full = self.shares.len() >= LISTENERS && !self.shares.contains_key(&listener);
        let share = self.shares.entry(if is_full { OTHERS } else { listener }).or_default();
        share.accepts += 1;
        share.waiting += 1;
        (share.waiting >= share.every).then(|| std::mem::take(&mut share.waiting))
    }

    /// Shares out the next window by the rates of this one.
    fn next_window(&mut self, boot_ns: u64) {
        let passed_ns = boot_ns.saturating_sub(self.counted_ns);
        let rate = |accepts: u64| {
            let per_second =
                u128::from(accepts) * u128::from(SECOND_NS) / u128::from(passed_ns.max(SHORTEST_NS));
            u64::try_from(per_second).unwrap_or(u64::MAX)
        };
        let level = level(self.shares.values().map(|share| rate(share.accepts)).collect(), self.budget);
        self.thins = false;
        self.shares.retain(|_, share| {
            share.every = level.map_or(1, |level| rate(share.accepts).div_ceil(level).max(1));
            share.idle = if share.accepts == 0 { share.idle + 1 } else { 0 };
            share.accepts = 0;
            // A listener that is gone will have no record to stand for its last accepts.
            let is_kept = share.every > 1 || share.waiting > 0 && share.idle < IDLE;
            self.thins |= is_kept;
            is_kept
        });
        (self.began_ns, self.counted_ns) = (boot_ns, boot_ns);
        (self.accepts, self.records) = (0, 0);
    }
}

/// The rate up to which each listener keeps all of its records, so that together they have `budget`; nothing when they have no
/// more than that anyway.
fn level(mut rates: Vec<u64>, budget: u64) -> Option<u64> {
    rates.sort_unstable();
    let mut left = budget;
    let mut listeners = rates.len() as u64;
    for rate in rates {
        let fair = left / listeners;
        if rate > fair {
            return Some(fair.max(1));
        }
        left -= rate;
        listeners -= 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Accepts of each listener at an even rate for so many seconds: what became records, as (second, listener, stands for).
    fn run(overload: &mut Overload, rates: &[u64], seconds: u64) -> Vec<(u64, usize, u64)> {
        let mut times: Vec<(u64, usize)> = rates
            .iter()
            .enumerate()
            .flat_map(|(listener, rate)| {
                (0..rate * seconds).map(move |number| (number * SECOND_NS / rate, listener))
            })
            .collect();
        times.sort_unstable();
        let start = 77 * SECOND_NS;
        let admit = |(at, listener): (u64, usize)| {
            let stands_for = overload.admit(listener as u64 + 1, start + at)?;
            Some((at / SECOND_NS, listener, stands_for))
        };
        times.into_iter().filter_map(admit).collect()
    }

    fn of(records: &[(u64, usize, u64)], second: u64, listener: usize) -> usize {
        records.iter().filter(|record| (record.0, record.1) == (second, listener)).count()
    }

    #[test]
    fn below_the_budget_everything_is_a_record() {
        let records = run(&mut Overload::new(1000), &[600, 399], 5);
        assert_eq!(records.len(), 5 * 999);
        assert!(records.iter().all(|record| record.2 == 1));
    }

    #[test]
    fn the_busy_are_thinned_and_the_quiet_are_not() {
        let records = run(&mut Overload::new(1000), &[9000, 100, 3], 6);
        // In the first second the rates are not known yet.
        for second in 1..6 {
            assert_eq!((of(&records, second, 1), of(&records, second, 2)), (100, 3), "second {second}");
            let busy = of(&records, second, 0);
            assert!((500..=900).contains(&busy), "second {second}: {busy}");
        }
        assert!((0..6).all(|second| records.iter().filter(|record| record.0 == second).count() <= 2000));
    }

    #[test]
    fn a_little_too_much_is_noticed() {
        let records = run(&mut Overload::new(1000), &[1500], 8);
        for second in 2..8 {
            assert!(
                (500..=1001).contains(&of(&records, second, 0)),
                "second {second}: {}",
                of(&records, second, 0)
            );
        }
    }

    #[test]
    fn after_the_load_every_accept_is_a_record_again() {
        let mut overload = Overload::new(1000);
        let _ = run(&mut overload, &[9000], 3);
        let later = |number: u64| overload.admit(1, 90 * SECOND_NS + number * SECOND_NS / 100);
        let stands_for: Vec<_> = (0..300).map(later).collect();
        assert!(stands_for[100..].iter().all(|record| *record == Some(1)), "{stands_for:?}");
        assert!(!overload.thins && overload.shares.is_empty(), "nothing is left of it");
    }

    #[test]
    fn what_was_left_of_the_load_is_told_by_the_next_record() {
        let mut overload = Overload::new(1000);
        let told: u64 = run(&mut overload, &[9000], 3).iter().map(|record| record.2).sum();
        let left = 27_000 - told;
        assert!(left > 0, "it has to be of use");
        // The window after the load still has its rate.
        let _ = overload.admit(7, 82 * SECOND_NS);
        assert_eq!(overload.admit(1, 84 * SECOND_NS), Some(left + 1));
    }

    #[test]
    fn a_listener_that_is_gone_is_forgotten() {
        let mut overload = Overload::new(1000);
        let _ = run(&mut overload, &[9000], 3);
        for second in 81..150 {
            let _ = overload.admit(7, second * SECOND_NS);
        }
        assert!(overload.shares.is_empty() && !overload.thins);
    }

    #[test]
    fn the_level_is_where_the_budget_is_used_up() {
        assert_eq!(level(vec![], 10), None);
        assert_eq!(level(vec![3, 7], 10), None);
        assert_eq!(level(vec![100, 3], 10), Some(7));
        assert_eq!(level(vec![100, 200], 10), Some(5));
        assert_eq!(level(vec![5; 100], 10), Some(1), "each has at least one");
    }

    #[test]
    fn listeners_without_number_are_bounded() {
        let mut overload = Overload::new(10);
        for listener in 0..100_000 {
            let _ = overload.admit(listener, SECOND_NS + listener);
        }
        assert!(overload.shares.len() <= LISTENERS + 1);
    }

    proptest! {
        /// What the records stand for is what was accepted, but for what still waits.
        #[test]
        fn nothing_is_counted_twice_or_not_at_all(
            accepts in proptest::collection::vec((0_u64..5, 0_u64..5_000_000), 1..5000),
            budget in 1_u64..500,
        ) {
            let mut overload = Overload::new(budget);
            let (mut now, mut told) = (SECOND_NS, 0);
            for (listener, pause) in &accepts {
                now += pause;
                told += overload.admit(*listener, now).unwrap_or_default();
            }
            let waiting: u64 = overload.shares.values().map(|share| share.waiting).sum();
            prop_assert_eq!(told + waiting, accepts.len() as u64);
        }
    }
}
