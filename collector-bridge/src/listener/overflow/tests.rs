use proptest::prelude::*;
use zerocopy::FromZeros as _;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn growth(drops: u64, was_full: bool) -> Growth {
    Growth { drops, was_full }
}

fn state(drops: u32, refused: u64) -> ListenerState {
    let mut state = ListenerState::new_zeroed();
    state.listener.drops = drops;
    state.refused.refused = refused;
    state
}

#[test]
fn one_listener_has_the_smaller_of_both_counters() {
    // (growth of sk_drops, growth of ListenOverflows, share): rows of the kernel's table.
    for (drops, overflows, expected) in [(0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 1, 1), (3, 1, 1), (5, 7, 5)] {
        assert_eq!(share(overflows, &[growth(drops, false)]), [expected], "{drops} and {overflows}");
    }
}

#[test]
fn with_several_only_what_is_certain_or_was_seen_counts() {
    // No queue was seen full, and each could have been.
    assert_eq!(share(5, &[growth(100, false), growth(10, false)]), [0, 0]);
    assert_eq!(share(5, &[growth(100, false), growth(10, true)]), [0, 5]);
    // The second cannot have had more than 10.
    assert_eq!(share(15, &[growth(100, false), growth(10, false)]), [5, 0]);
    assert_eq!(share(15, &[growth(100, false), growth(10, true)]), [5, 10]);
    assert_eq!(share(110, &[growth(100, false), growth(10, false)]), [100, 10]);
    assert_eq!(share(5, &[growth(3, true), growth(4, true), growth(9, false)]), [3, 2, 0]);
}

proptest! {
    #[test]
    fn no_listener_gets_more_than_it_can_have_had(
        overflows in 0_u64..50,
        drops in proptest::collection::vec((0_u64..20, any::<bool>()), 0..6),
    ) {
        let growths: Vec<Growth> = drops.iter().map(|(drops, full)| growth(*drops, *full)).collect();
        let shares = share(overflows, &growths);
        prop_assert!(shares.iter().sum::<u64>() <= overflows);
        for (share, growth) in shares.iter().zip(&growths) {
            prop_assert!(*share <= growth.drops);
        }
    }
}

#[test]
fn overflows_after_a_survey_belong_to_the_next() {
    let mut all = NamespaceOverflows::new();
    all.begin(1, Some(100));
    // Two more overflows happened between the survey and the read.
    assert_eq!(all.compare(1, 105, &[growth(3, false)]), [3]);
    all.end_survey(|_| true);
    assert_eq!(all.compare(1, 105, &[growth(2, false)]), [2]);
    all.end_survey(|_| true);
    assert_eq!(all.compare(1, 105, &[growth(9, false)]), [0]);
    assert_eq!(all.unassigned(), 0);
}

#[test]
fn overflows_that_are_left_are_unassigned_after_one_survey() {
    let mut all = NamespaceOverflows::new();
    all.begin(1, Some(0));
    assert_eq!(all.compare(1, 5, &[growth(3, false)]), [3]);
    all.end_survey(|_| true);
    all.end_survey(|_| true);
    assert_eq!(all.unassigned(), 2);
    assert_eq!(all.compare(1, 5, &[growth(9, false)]), [0], "these drops are no overflows");
    // A second comparison in a row does not keep what was kept before.
    assert_eq!(all.compare(1, 15, &[]), Vec::<u64>::new());
    assert_eq!(all.compare(1, 15, &[]), Vec::<u64>::new());
    assert_eq!(all.unassigned(), 12);
}

#[test]
fn overflows_since_a_comparison_that_was_missed_are_unassigned() {
    let mut all = NamespaceOverflows::new();
    all.begin(1, Some(0));
    all.miss(1);
    assert_eq!(all.compare(1, 500, &[growth(40, false)]), Vec::<u64>::new());
    assert_eq!(all.unassigned(), 500);
    assert_eq!(all.compare(1, 503, &[growth(40, false)]), [3]);
}

#[test]
fn a_namespace_whose_value_was_not_known_has_no_overflows_at_first() {
    let mut all = NamespaceOverflows::new();
    assert_eq!(all.compare(1, 50, &[growth(3, true)]), [0]);
    all.begin(2, None);
    assert!(all.contains(2) && !all.is_read(2));
    assert_eq!(all.compare(2, 50, &[growth(3, true)]), [0]);
    assert_eq!(all.compare(2, 51, &[growth(3, true)]), [1]);
    all.end_survey(|netns| netns == 1);
    assert!(all.contains(1) && !all.contains(2));
}

#[test]
fn counted_attempts_are_reported_apart_from_other_drops() {
    let mut queue = QueueOverflow::starting_at(&state(40, 0));
    queue.observe(&state(40, 0));
    assert_eq!(queue.take(SECOND, false), None);
    // Three final ACKs at a full queue, which the kernel drops twice each, and a probe.
    queue.observe(&state(47, 3));
    assert_eq!(queue.take(SECOND, false), Some(Overflow { refused: 3, dropped: 4, ..Overflow::default() }));
    queue.observe(&state(48, 4));
    assert_eq!(queue.take(SECOND + 1, false), None, "at most once a second");
    assert_eq!(queue.take(SECOND + 1, true), Some(Overflow { refused: 1, ..Overflow::default() }));
}

#[test]
fn drops_that_are_compared_later_are_reported_later() {
    let mut queue = QueueOverflow::default();
    queue.observe(&state(6, 0));
    assert!(queue.has_grown());
    queue.settle(4);
    assert!(!queue.has_grown());
    assert_eq!(queue.take(SECOND, false), Some(Overflow { refused: 4, dropped: 2, ..Overflow::default() }));
}

#[test]
fn an_attempt_that_was_counted_before_its_drop_is_not_dropped_twice() {
    let mut queue = QueueOverflow::default();
    queue.observe(&state(0, 1));
    assert_eq!(queue.take(SECOND, false), Some(Overflow { refused: 1, ..Overflow::default() }));
    queue.observe(&state(1, 1));
    assert_eq!(queue.take(3 * SECOND, false), None);
}

#[test]
fn the_count_of_drops_may_wrap() {
    let mut queue = QueueOverflow::starting_at(&state(u32::MAX, 0));
    queue.observe(&state(2, 0));
    assert_eq!(queue.growth(), growth(3, false));
}

#[test]
fn a_full_queue_is_seen_in_a_survey_and_at_an_accept() {
    let mut queue = QueueOverflow::default();
    let mut full = state(1, 0);
    (full.listener.backlog_length, full.listener.backlog_limit) = (5, 4);
    queue.observe(&full);
    assert!(queue.growth().was_full);
    queue.settle(0);
    queue.accepted(3, 4);
    assert!(!queue.growth().was_full);
    queue.accepted(4, 4);
    assert!(queue.growth().was_full);
}
