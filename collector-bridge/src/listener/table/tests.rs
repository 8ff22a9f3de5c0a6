use super::*;

const SECOND: u64 = 1_000_000_000;

fn state(length: u32, oldest: u64, since: u64, drops: u32) -> ListenerState {
    let mut state = ListenerState::new_zeroed();
    state.listener.inode = 77;
    state.listener.cookie = 5;
    state.listener.family = 2;
    state.listener.port = 80_u16.to_be();
    state.listener.backlog_length = length;
    state.listener.backlog_limit = 4;
    state.listener.drops = drops;
    state.oldest = oldest;
    state.oldest_since_ns = since;
    state
}

fn table(existing: &[ListenerState]) -> ListenerTable {
    ListenerTable::new(existing, Duration::from_secs(5), 0)
}

fn kinds(listeners: &mut ListenerTable) -> Vec<FindingKind> {
    listeners.take_findings().into_iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_stall_is_found_once_and_its_end_once() {
    let mut all = table(&[state(0, 0, 0, 0)]);
    all.apply_survey(&[state(5, 9, SECOND, 0)], 4 * SECOND);
    assert_eq!(kinds(&mut all), []);
    all.apply_survey(&[state(5, 9, SECOND, 0)], 8 * SECOND);
    let found = all.take_findings();
    assert_eq!(found[0].kind, FindingKind::Stalled);
    assert_eq!(found[0].listener.oldest_wait_ns(8 * SECOND), Some(7 * SECOND));
    all.apply_survey(&[state(5, 9, SECOND, 0)], 12 * SECOND);
    assert_eq!(kinds(&mut all), []);
    all.apply_survey(&[state(0, 0, 0, 0)], 14 * SECOND);
    assert_eq!(kinds(&mut all), [FindingKind::Recovered { after_ns: 6 * SECOND }]);
}

#[test]
fn a_busy_queue_is_no_stall() {
    let mut all = table(&[state(0, 0, 0, 0)]);
    for second in 0..20 {
        // The queue is never empty, but its oldest connection changes.
        all.apply_survey(&[state(5, second + 1, 0, 0)], second * SECOND);
    }
    assert_eq!(kinds(&mut all), []);
}

#[test]
fn a_wait_of_unknown_start_is_counted_since_it_was_seen() {
    let mut all = table(&[]);
    all.apply_survey(&[state(1, 9, 0, 0)], SECOND);
    all.apply_survey(&[state(1, 9, 0, 0)], 5 * SECOND);
    assert_eq!(kinds(&mut all), []);
    all.apply_survey(&[state(1, 9, 0, 0)], 6 * SECOND);
    assert_eq!(kinds(&mut all), [FindingKind::Stalled]);
}

/// SCTP's queue, and VSOCK's where the kernel has it in a module: the listener may just be busy.
#[test]
fn a_queue_that_cannot_be_read_is_no_stall() {
    let mut all = table(&[]);
    for second in 0..20 {
        all.apply_survey(&[state(1, 0, 0, 0)], second * SECOND);
    }
    assert_eq!(kinds(&mut all), []);
    assert_eq!(all.by_inode(77).and_then(|known| known.oldest_wait_ns(20 * SECOND)), None);
}

#[test]
fn the_owner_is_chosen_among_the_rows_of_a_survey() {
    let row = |pid: u32| {
        let mut row = state(0, 0, 0, 0);
        row.owner.tgid = pid;
        row
    };
    let pid = |all: &ListenerTable| all.by_inode(77).and_then(|known| Some(known.owner.task()?.tgid));
    let mut all = table(&[row(10), row(11)]);
    assert_eq!(pid(&all), Some(10));
    all.apply_survey(&[row(11), row(12)], SECOND);
    assert_eq!(pid(&all), Some(11), "the one before is gone");
    assert!(all.on_accept(&row(0).listener, None, &row(12).owner, SECOND + 1));
    all.apply_survey(&[row(11), row(12)], 2 * SECOND);
    assert_eq!(pid(&all), Some(12), "it accepts");
    assert_eq!(all.len(), 1);
}

#[test]
fn listeners_that_come_and_go_leave_nothing_behind() {
    let mut all = table(&[]);
    for round in 0..100 {
        let mut opened = state(0, 0, 0, 0);
        (opened.listener.inode, opened.listener.cookie) = (1000 + round, 5000 + round);
        all.apply_survey(&[opened], round * SECOND);
    }
    assert!(all.len() <= 2 && all.by_cookie.len() <= 2, "{} {}", all.len(), all.by_cookie.len());
}

fn refusing(drops: u32, refused: u64) -> ListenerState {
    let mut state = state(4, 0, 0, drops);
    state.refused.refused = refused;
    state
}

#[test]
fn drops_before_the_start_are_not_reported() {
    let mut all = table(&[state(0, 0, 0, 40)]);
    all.find_overflows(SECOND);
    assert_eq!(kinds(&mut all), []);
    all.apply_survey(&[refusing(43, 3)], 2 * SECOND);
    all.find_overflows(2 * SECOND);
    assert_eq!(kinds(&mut all), [FindingKind::Overflow(Overflow { refused: 3, ..Overflow::default() })]);
}

#[test]
fn overflows_of_the_last_second_are_reported_at_the_end() {
    let mut all = table(&[]);
    for refused in 1..=2 {
        all.apply_survey(&[refusing(refused, u64::from(refused))], SECOND);
        all.find_overflows(SECOND);
    }
    let one = [FindingKind::Overflow(Overflow { refused: 1, ..Overflow::default() })];
    assert_eq!(kinds(&mut all), one);
    all.find_last_overflows(SECOND);
    assert_eq!(kinds(&mut all), one);
}

#[test]
fn overflows_are_reported_once_a_second_and_all_of_them_in_the_end() {
    let mut all = table(&[]);
    for tenth in 0..35_u32 {
        let now = SECOND + u64::from(tenth) * SECOND / 10;
        all.apply_survey(&[refusing(tenth * 7, u64::from(tenth) * 7)], now);
        all.find_overflows(now);
    }
    let mut closed = refusing(1000, 1000);
    closed.header.boot_ns = 9 * SECOND;
    all.on_close(&closed);
    all.find_overflows(9 * SECOND);
    let overflows: Vec<u64> = kinds(&mut all)
        .into_iter()
        .filter_map(|kind| match kind {
            FindingKind::Overflow(found) => Some(found.refused),
            _ => None,
        })
        .collect();
    assert!(overflows.len() <= 5, "{overflows:?}");
    assert_eq!(overflows.iter().sum::<u64>(), 1000);
    all.apply_survey(&[], 10 * SECOND);
    all.apply_survey(&[], 11 * SECOND);
    assert_eq!(kinds(&mut all), []);
    assert_eq!(all.len(), 0);
}

#[test]
fn a_closed_listener_is_removed_and_its_stall_ends() {
    let mut all = table(&[]);
    all.apply_survey(&[state(5, 9, SECOND, 0)], 10 * SECOND);
    assert_eq!(kinds(&mut all), [FindingKind::Stalled]);
    all.apply_survey(&[], 11 * SECOND);
    assert_eq!(all.len(), 1, "it may have been opened while the survey ran");
    all.apply_survey(&[], 12 * SECOND);
    assert_eq!(kinds(&mut all), [FindingKind::Recovered { after_ns: 2 * SECOND }]);
    assert_eq!(all.len(), 0);
}

#[test]
fn the_table_is_bounded() {
    let mut all = table(&[]);
    for inode in 1..=5000 {
        let mut listener = state(0, 0, 0, 0).listener;
        listener.inode = inode;
        all.on_accept(&listener, None, &Task::new_zeroed(), SECOND);
    }
    assert_eq!((all.len(), all.rejected()), (MAX_LISTENERS, 5000 - 4096));
    assert!(all.by_cookie.len() <= MAX_LISTENERS);
    all.reject(3);
    assert_eq!(all.rejected(), 5000 - 4096 + 3);
}

#[test]
fn a_survey_is_asked_for_the_owners_of_the_listeners() {
    let mut row = state(0, 0, 0, 0);
    row.owner.tgid = 10;
    let mut all = table(&[row]);
    assert_eq!(all.kept().into_iter().collect::<Vec<_>>(), [(77, [10, 0])]);
    let mut worker = row.owner;
    worker.tgid = 12;
    assert!(all.on_accept(&row.listener, None, &worker, SECOND));
    assert!(!all.on_accept(&row.listener, None, &row.owner, SECOND + 1));
    assert_eq!(all.kept().into_iter().collect::<Vec<_>>(), [(77, [12, 10])]);
}
