use super::*;

fn labels(port: u32) -> Labels {
    Labels {
        transport: "tcp",
        network_type: Some("ipv4"),
        address: Some("0.0.0.0".to_owned()),
        port: Some(port),
        service: "shop".to_owned(),
        executable: "nginx".to_owned(),
        netns: None,
        container: None,
        pod: None,
    }
}

fn stats(accepted: u64, closed: u64) -> ConnectionStats {
    let mut stats = ConnectionStats { accepted, closed, total_open_ns: closed * 1_000_000, buckets: [0; _] };
    stats.buckets[acceptd_common::histogram::bucket(1_000_000)] = closed;
    stats
}

#[test]
fn listeners_with_the_same_labels_share_a_series() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    assert!(!all.count_accept(7, None), "no labels are assigned");
    for (listener, port) in [(7, 80), (8, 80), (9, 81)] {
        all.assign(listener, labels(port), 0, 2);
        assert!(all.count_accept(listener, Some(1_000)));
        all.set_queue(listener, 3, 10, listener);
        all.count_connections(listener, &stats(5, 2));
    }
    all.count_failures(7, 24, 3);
    all.count_failures(8, 24, 1);
    all.count_overflow(8, &Overflow { refused: 4, waited: 1, waited_ns: 7, dropped: 2 });
    all.count_abandoned([7].into_iter());
    let found = all.snapshot();
    assert_eq!(found.len(), 2);
    let both = found.iter().find(|series| series.labels.as_deref() == Some(&labels(80))).expect("port 80");
    assert_eq!((both.accepted, both.queue.count(), both.durations.count(), both.open), (2, 2, 4, Some(6)));
    assert_eq!(both.failed, [("EMFILE", 4)]);
    assert_eq!((both.overflows, both.abandoned), (4, 1));
    assert_eq!((both.blocked_connects, both.blocked_connect_ns, both.dropped_packets), (1, 7, 2));
    assert_eq!((both.length, both.limit, both.oldest_wait_ns, both.since_unix_ns), (6, 20, 8, 2));
}

#[test]
fn counts_of_the_kernel_are_added_once() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    all.assign(7, labels(80), 0, 1);
    all.count_connections(7, &stats(5, 2));
    all.count_connections(7, &stats(9, 3));
    let found = all.snapshot();
    assert_eq!((found[0].durations.count(), found[0].durations.sum(), found[0].open), (3, 0.003, Some(6)));
    assert!(!all.count_connections(8, &stats(1, 1)), "the listener is unknown");
}

const MINUTE: u64 = 60_000_000_000;

#[test]
fn a_series_is_removed_some_time_after_its_last_listener() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    all.assign(7, labels(80), 0, 1);
    all.assign(8, labels(80), 0, 1);
    assert!(all.count_accept(8, None));
    all.retain(0, |listener| listener == 8);
    all.retain(2 * MINUTE, |listener| listener == 8);
    assert_eq!(all.snapshot()[0].accepted, 1);
    all.retain(3 * MINUTE, |_| false);
    all.retain(4 * MINUTE - 1, |_| false);
    assert_eq!(all.snapshot()[0].accepted, 1, "it can be read once more");
    all.retain(4 * MINUTE, |_| false);
    assert_eq!(all.snapshot().len(), 0);
    all.assign(9, labels(80), 0, 5);
    all.retain(5 * MINUTE - 1, |_| true);
    assert_eq!(all.snapshot().len(), 0, "a reader has to see the labels absent first");
    all.retain(5 * MINUTE, |_| true);
    assert_eq!((all.snapshot()[0].since_unix_ns, all.snapshot()[0].accepted), (5, 0), "a new series");
    assert_eq!(all.series.len(), 2, "in the same slot");
    all.retain(6 * MINUTE, |_| false);
    all.assign(9, labels(80), 0, 6);
    all.retain(8 * MINUTE, |_| true);
    assert_eq!(all.snapshot()[0].since_unix_ns, 5, "a listener that is back in time continues the series");
}

#[test]
fn a_listener_whose_service_changes_gets_another_series() {
    let mut all = SeriesTable::new(1, Duration::ZERO);
    all.assign(7, labels(80), 0, 1);
    assert!(all.count_accept(7, None));
    let other = Labels { service: "known by now".to_owned(), ..labels(80) };
    all.assign(7, other.clone(), 0, 2);
    assert!(all.count_accept(7, None));
    all.retain(1, |_| true);
    let found = all.snapshot();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].labels.as_deref(), found[0].accepted), (Some(&other), 1));
}

#[test]
fn listeners_beyond_the_limit_share_the_overflow_series() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    for listener in 1..=MAX_SERIES as u64 + 20 {
        all.assign(listener, labels(u32::try_from(listener).expect("small")), 0, 1);
        assert!(all.count_accept(listener, None));
    }
    let found = all.snapshot();
    assert_eq!(found.len(), MAX_SERIES + 1);
    let overflow = found.iter().find(|series| series.labels.is_none()).expect("the overflow series");
    assert_eq!(overflow.accepted, 20);
}

fn unix(number: u64) -> Labels {
    Labels {
        transport: "unix",
        network_type: None,
        address: Some(format!("/run/{number}")),
        port: None,
        ..labels(1)
    }
}

#[test]
fn unix_listeners_leave_room_for_a_tcp_service() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    for listener in 1..=3000 {
        all.assign(listener, unix(listener), 0, 1);
    }
    assert_eq!(all.sharing(), 3000 - MAX_UNIX_SERIES as u64);
    all.assign(5000, labels(80), 0, 1);
    assert!(all.count_accept(5000, None));
    let found = all.snapshot();
    let tcp = found.iter().find(|series| series.labels.as_deref() == Some(&labels(80)));
    assert_eq!(tcp.map(|series| (series.accepted, series.listeners)), Some((1, 1)));
    let shared = found.iter().find(|series| series.labels.is_none()).expect("the overflow series");
    assert_eq!(shared.listeners, all.sharing());
}

#[test]
fn a_series_without_listeners_makes_room_when_there_is_none() {
    let mut all = SeriesTable::new(1, Duration::from_hours(1));
    for listener in 1..=MAX_SERIES as u64 {
        all.assign(listener, labels(u32::try_from(listener).expect("small")), 0, 1);
    }
    all.assign(9000, labels(9000), 0, 1);
    assert_eq!(all.sharing(), 1);
    all.retain(MINUTE, |listener| listener != 7);
    all.assign(9000, labels(9000), 0, 1);
    assert_eq!(all.sharing(), 0, "in the place of the closed one");
    assert_eq!(all.snapshot().len(), MAX_SERIES);
    assert!(!all.snapshot().iter().any(|series| series.labels.as_deref() == Some(&labels(7))));
}

#[test]
fn three_hundred_namespaces_are_three_hundred_series() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    for netns in 1..=300 {
        all.assign(u64::from(netns), Labels { netns: Some(netns), ..labels(8000) }, 0, 1);
        assert!(all.count_accept(u64::from(netns), None));
    }
    let found = all.snapshot();
    assert_eq!(found.len(), 300);
    assert!(found.iter().all(|series| series.accepted == 1));
}

/// A listener whose owner executes another program all the time.
#[test]
fn names_that_change_all_the_time_do_not_grow_the_table() {
    let mut all = SeriesTable::new(1, Duration::from_mins(5));
    for second in 0..3000_u64 {
        let named = Labels { executable: format!("program-{second}"), ..labels(80) };
        all.assign(7, named, second, 1);
        all.retain(second * 1_000_000_000, |_| true);
    }
    assert!(all.series.len() <= MAX_SERIES + 1 && all.removed.len() <= MAX_SERIES);
    all.assign(8, labels(81), 0, 1);
    assert_eq!(all.sharing(), 0, "another listener still gets its own");
}

#[test]
fn accepts_of_listeners_that_no_table_has_room_for_are_counted_together() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    all.count_accept_beyond(Some(1_000));
    let found = all.snapshot();
    assert_eq!((found.len(), found[0].accepted, found[0].queue.count()), (1, 1, 1));
    assert!(found[0].labels.is_none());
}

#[test]
fn a_connection_of_one_of_several_listeners_is_counted_once() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    all.assign(7, labels(80), 0, 1);
    all.assign(8, labels(80), 0, 1);
    all.assign(9, Labels { service: "other".to_owned(), ..labels(80) }, 0, 1);
    all.count_abandoned([7, 8].into_iter());
    all.count_abandoned([7, 9].into_iter());
    let counts: Vec<(bool, u64)> =
        all.snapshot().iter().map(|series| (series.labels.is_some(), series.abandoned)).collect();
    assert_eq!(counts, [(false, 1), (true, 1), (true, 0)]);
}

/// Found by the fuzz target `samples`: two samples whose counts have all bits set.
#[test]
fn counts_of_full_queues_do_not_wrap() {
    let mut all = SeriesTable::new(1, Duration::from_mins(1));
    all.assign(7, labels(80), 0, 1);
    let most = Overflow { refused: u64::MAX, waited: u64::MAX, waited_ns: u64::MAX, dropped: u64::MAX };
    all.count_overflow(7, &most);
    all.count_overflow(7, &most);
    assert_eq!(all.snapshot()[0].blocked_connects, u64::MAX);
}
