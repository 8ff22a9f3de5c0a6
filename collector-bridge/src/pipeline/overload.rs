//! Selects which accepts get a record of their own: beyond `overload.max_records_per_second`, one record of a
//! busy listener represents several accepts, and says how many. Quiet listeners keep all of their records. No
//! I/O: the clock is the `boot_ns` of the ring-buffer samples.

use foldhash::{HashMap, HashMapExt as _};

const SECOND_NS: u64 = 1_000_000_000;

/// Shortest window that a rate is taken from.
const SHORTEST_WINDOW_NS: u64 = 1_000_000;

/// Most listeners with a share of their own; all others have one share together.
const LISTENERS: usize = 4096;

/// Windows without an accept after which a listener counts as gone.
const IDLE_WINDOWS: u32 = 60;

/// The key of the share that all listeners beyond [`LISTENERS`] have together, and accepts of an unknown
/// listener.
const OTHERS: u64 = 0;

/// Decides which accepts become records.
#[derive(Debug)]
pub(super) struct Overload {
    /// Most records a second.
    budget: u64,
    /// When the window began, nanoseconds on `CLOCK_BOOTTIME`.
    window_began_ns: u64,
    /// When the shares of this window began to count, nanoseconds on `CLOCK_BOOTTIME`.
    counted_since_ns: u64,
    /// Accepts in this window.
    accepts: u64,
    /// Records in this window.
    records: u64,
    /// Whether some listener is sampled, or was and has accepts that no record represents yet.
    is_sampling: bool,
    shares: HashMap<u64, Share>,
}

/// One listener's share of the budget.
#[derive(Debug)]
struct Share {
    /// Accepts in this window.
    accepts: u64,
    /// One of `every` accepts becomes a record.
    every: u64,
    /// Accepts since the last record.
    waiting: u64,
    /// Windows in a row without an accept.
    idle_windows: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { accepts: 0, every: 1, waiting: 0, idle_windows: 0 }
    }
}

impl Overload {
    /// Samples once there are more than `budget` records a second.
    #[must_use]
    pub(super) fn new(budget: u64) -> Self {
        Self {
            budget,
            window_began_ns: 0,
            counted_since_ns: 0,
            accepts: 0,
            records: 0,
            is_sampling: false,
            shares: HashMap::new(),
        }
    }

    /// Changes the budget, from the next window on.
    pub(super) fn set_budget(&mut self, budget: u64) {
        self.budget = budget;
    }

    /// Decides on an accept on `listener` (the inode; 0 if it is unknown) at `boot_ns`. Returns how many
    /// accepts its record represents, itself included; `None` if there is no record, because the listener's
    /// next record represents the accept.
    pub(super) fn admit(&mut self, listener: u64, boot_ns: u64) -> Option<u64> {
        // Saturating: samples of different CPUs are not quite in order.
        if boot_ns.saturating_sub(self.window_began_ns) >= SECOND_NS {
            self.next_window(boot_ns);
        }
        self.accepts += 1;
        // The fast path of almost every host: no listener is sampled, and less than half of the budget is
        // used.
        if !self.is_sampling && self.accepts <= self.budget / 2 {
            self.records += 1;
            self.counted_since_ns = boot_ns;
            return Some(1);
        }
        let represents = self.count(listener)?;
        self.records += 1;
        if self.records >= self.budget {
            self.next_window(boot_ns);
        }
        Some(represents)
    }

    /// Counts an accept in the listener's share. Returns how many accepts its record represents, if it has
    /// one.
    fn count(&mut self, listener: u64) -> Option<u64> {
        let is_full = self.shares.len() >= LISTENERS && !self.shares.contains_key(&listener);
        let share = self.shares.entry(if is_full { OTHERS } else { listener }).or_default();
        share.accepts += 1;
        share.waiting += 1;
        (share.waiting >= share.every).then(|| std::mem::take(&mut share.waiting))
    }

    /// Begins the next window: divides the budget by the rates of this one.
    fn next_window(&mut self, boot_ns: u64) {
        let passed_ns = boot_ns.saturating_sub(self.counted_since_ns);
        let rate = |accepts: u64| {
            let per_second =
                u128::from(accepts) * u128::from(SECOND_NS) / u128::from(passed_ns.max(SHORTEST_WINDOW_NS));
            u64::try_from(per_second).unwrap_or(u64::MAX)
        };
        let rates = self.shares.values().map(|share| rate(share.accepts)).collect();
        let fair_rate = fair_rate(rates, self.budget);
        self.is_sampling = false;
        self.shares.retain(|_, share| {
            share.every = fair_rate.map_or(1, |fair| rate(share.accepts).div_ceil(fair).max(1));
            share.idle_windows = if share.accepts == 0 { share.idle_windows + 1 } else { 0 };
            share.accepts = 0;
            // A listener that is gone makes no further record: the accepts that wait for one are given up.
            let is_kept = share.every > 1 || share.waiting > 0 && share.idle_windows < IDLE_WINDOWS;
            self.is_sampling |= is_kept;
            is_kept
        });
        (self.window_began_ns, self.counted_since_ns) = (boot_ns, boot_ns);
        (self.accepts, self.records) = (0, 0);
    }
}

/// The rate up to which a listener keeps all of its records, chosen so that all listeners together use up
/// `budget` (max-min fairness); `None` if the sum of the rates does not exceed the budget.
fn fair_rate(mut rates: Vec<u64>, budget: u64) -> Option<u64> {
    rates.sort_unstable();
    let mut remaining = budget;
    let mut listeners = rates.len() as u64;
    for rate in rates {
        let fair = remaining / listeners;
        if rate > fair {
            return Some(fair.max(1));
        }
        remaining -= rate;
        listeners -= 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Accepts of each listener at an even rate for so many seconds. Returns the records, as (second,
    /// listener, represents).
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
            let represents = overload.admit(listener as u64 + 1, start + at)?;
            Some((at / SECOND_NS, listener, represents))
        };
        times.into_iter().filter_map(admit).collect()
    }

    fn count(records: &[(u64, usize, u64)], second: u64, listener: usize) -> usize {
        records.iter().filter(|record| (record.0, record.1) == (second, listener)).count()
    }

    #[test]
    fn below_the_budget_everything_is_a_record() {
        let records = run(&mut Overload::new(1000), &[600, 399], 5);
        assert_eq!(records.len(), 5 * 999);
        assert!(records.iter().all(|record| record.2 == 1));
    }

    #[test]
    fn busy_listeners_are_sampled_and_quiet_ones_are_not() {
        let records = run(&mut Overload::new(1000), &[9000, 100, 3], 6);
        // In the first second the rates are unknown.
        for second in 1..6 {
            assert_eq!((count(&records, second, 1), count(&records, second, 2)), (100, 3), "second {second}");
            let busy = count(&records, second, 0);
            assert!((500..=900).contains(&busy), "second {second}: {busy}");
        }
        assert!((0..6).all(|second| records.iter().filter(|record| record.0 == second).count() <= 2000));
    }

    #[test]
    fn a_little_too_much_is_noticed() {
        let records = run(&mut Overload::new(1000), &[1500], 8);
        for second in 2..8 {
            assert!(
                (500..=1001).contains(&count(&records, second, 0)),
                "second {second}: {}",
                count(&records, second, 0)
            );
        }
    }

    #[test]
    fn after_the_load_every_accept_is_a_record_again() {
        let mut overload = Overload::new(1000);
        let _ = run(&mut overload, &[9000], 3);
        let later = |number: u64| overload.admit(1, 90 * SECOND_NS + number * SECOND_NS / 100);
        let represents: Vec<_> = (0..300).map(later).collect();
        assert!(represents[100..].iter().all(|record| *record == Some(1)), "{represents:?}");
        assert!(!overload.is_sampling && overload.shares.is_empty(), "no share is kept");
    }

    #[test]
    fn the_next_record_represents_what_waited_since_the_load() {
        let mut overload = Overload::new(1000);
        let represented: u64 = run(&mut overload, &[9000], 3).iter().map(|record| record.2).sum();
        let waiting = 27_000 - represented;
        assert!(waiting > 0, "the test needs accepts that wait");
        // The window after the load is still sampled by the rate of the load.
        let _ = overload.admit(7, 82 * SECOND_NS);
        assert_eq!(overload.admit(1, 84 * SECOND_NS), Some(waiting + 1));
    }

    #[test]
    fn a_listener_that_is_gone_is_forgotten() {
        let mut overload = Overload::new(1000);
        let _ = run(&mut overload, &[9000], 3);
        for second in 81..150 {
            let _ = overload.admit(7, second * SECOND_NS);
        }
        assert!(overload.shares.is_empty() && !overload.is_sampling);
    }

    #[test]
    fn at_the_fair_rate_the_budget_is_used_up() {
        assert_eq!(fair_rate(vec![], 10), None);
        assert_eq!(fair_rate(vec![3, 7], 10), None);
        assert_eq!(fair_rate(vec![100, 3], 10), Some(7));
        assert_eq!(fair_rate(vec![100, 200], 10), Some(5));
        assert_eq!(fair_rate(vec![5; 100], 10), Some(1), "each has at least one");
    }

    #[test]
    fn the_number_of_shares_is_bounded() {
        let mut overload = Overload::new(10);
        for listener in 0..100_000 {
            let _ = overload.admit(listener, SECOND_NS + listener);
        }
        assert!(overload.shares.len() <= LISTENERS + 1);
    }

    proptest! {
        /// The records represent every accept but those that still wait for a record.
        #[test]
        fn every_accept_is_counted_exactly_once(
            accepts in proptest::collection::vec((0_u64..5, 0_u64..5_000_000), 1..5000),
            budget in 1_u64..500,
        ) {
            let mut overload = Overload::new(budget);
            let (mut now, mut represented) = (SECOND_NS, 0);
            for (listener, pause) in &accepts {
                now += pause;
                represented += overload.admit(*listener, now).unwrap_or_default();
            }
            let waiting: u64 = overload.shares.values().map(|share| share.waiting).sum();
            prop_assert_eq!(represented + waiting, accepts.len() as u64);
        }
    }
}
