use std::time::Duration;

use acceptd_common::{ListenerState, UnixName};
use zerocopy::FromZeros as _;

use super::*;
use crate::listener::{overflow::Overflow, table::FindingKind};

fn tcp(inode: u64, netns: u32, drops: u32) -> ListenerState {
    let mut state = ListenerState::new_zeroed();
    (state.listener.inode, state.listener.cookie, state.listener.netns) = (inode, inode, netns);
    (state.listener.family, state.listener.protocol, state.listener.drops) = (AF_INET, IPPROTO_TCP, drops);
    state.listener.backlog_limit = 4;
    state.owner.tgid = u32::try_from(inode).expect("small");
    state
}

fn unix(inode: u64, netns: u32, name: &[u8]) -> ListenerState {
    let mut state = tcp(inode, netns, 0);
    (state.listener.family, state.listener.protocol) = (AF_UNIX, 0);
    state.name = named(name);
    state
}

fn named(name: &[u8]) -> UnixName {
    let mut out = UnixName::new_zeroed();
    out.length = u32::try_from(name.len()).expect("short");
    out.bytes[..name.len()].copy_from_slice(name);
    out
}

fn target(netns: u32, name: &[u8]) -> UnixTarget {
    UnixTarget { netns, tgid: 9, name: named(name) }
}

fn table(states: &[ListenerState]) -> ListenerTable {
    ListenerTable::new(states, Duration::from_secs(5), 0)
}

fn reported(all: &mut ListenerTable) -> Vec<(u64, Overflow)> {
    all.find_overflows(1);
    let findings = all.take_findings().into_iter();
    let found = findings.filter_map(|finding| match finding.kind {
        FindingKind::Overflow(found) => Some((finding.listener.listener.inode, found)),
        _ => None,
    });
    let mut found: Vec<_> = found.collect();
    found.sort_unstable_by_key(|(inode, _)| *inode);
    found
}

#[test]
fn drops_are_overflows_as_far_as_their_namespace_counted_some() {
    let mut all = table(&[tcp(1, 10, 0), tcp(2, 20, 0), unix(3, 10, b"/run/x")]);
    let mut namespaces = NamespaceOverflows::new();
    namespaces.begin(10, Some(100));
    namespaces.begin(20, Some(7));
    assert!(all.namespaces(|_| false).is_empty());
    all.apply_survey(&[tcp(1, 10, 6), tcp(2, 20, 5), unix(3, 10, b"/run/x")], 1);
    let grown = all.namespaces(|_| false);
    let owners: Vec<_> = grown.iter().map(|(netns, tasks)| (*netns, tasks[0].tgid)).collect();
    assert_eq!(owners, [(10, 1), (20, 2)]);
    all.compare(10, Some(104), &mut namespaces);
    all.compare(20, Some(7), &mut namespaces);
    let only_dropped = Overflow { dropped: 5, ..Overflow::default() };
    let refused = Overflow { refused: 4, dropped: 2, ..Overflow::default() };
    assert_eq!(reported(&mut all), [(1, refused), (2, only_dropped)]);
    assert!(all.namespaces(|_| false).is_empty());
}

#[test]
fn a_wanted_namespace_is_compared_without_a_drop() {
    let all = table(&[tcp(1, 10, 0), tcp(2, 20, 0), unix(3, 30, b"/run/x")]);
    let wanted: Vec<u32> = all.namespaces(|netns| netns != 10).into_keys().collect();
    assert_eq!(wanted, [20]);
}

#[test]
fn no_overflow_is_reported_of_a_namespace_that_cannot_be_read() {
    let mut all = table(&[tcp(1, 10, 0)]);
    let mut namespaces = NamespaceOverflows::new();
    namespaces.begin(10, Some(100));
    all.apply_survey(&[tcp(1, 10, 6)], 1);
    all.compare(10, None, &mut namespaces);
    assert_eq!(reported(&mut all), [(1, Overflow { dropped: 6, ..Overflow::default() })]);
}

#[test]
fn drops_at_the_close_of_a_listener_are_compared_too() {
    let mut all = table(&[tcp(1, 10, 0)]);
    let mut namespaces = NamespaceOverflows::new();
    namespaces.begin(10, Some(0));
    let mut closed = tcp(0, 10, 2);
    closed.listener.cookie = 1;
    all.on_close(&closed);
    all.compare(10, Some(2), &mut namespaces);
    assert_eq!(reported(&mut all), [(1, Overflow { refused: 2, ..Overflow::default() })]);
}

#[test]
fn overflows_of_some_listeners_are_found_without_the_others() {
    let mut all = table(&[tcp(1, 10, 0), tcp(2, 10, 0)]);
    all.apply_survey(&[tcp(1, 10, 6), tcp(2, 10, 5)], 1);
    all.find_overflows_of(&[2, 3], 1);
    let found = all.take_findings();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].listener.listener.inode, 2);
}

#[test]
fn a_namespace_whose_number_is_used_again_begins_anew() {
    let mut all = table(&[tcp(1, 10, 0)]);
    let mut namespaces = NamespaceOverflows::new();
    namespaces.begin(10, Some(100));
    all.forget_unused(HashSet::from([10]), &mut namespaces);
    assert!(namespaces.contains(10), "the listener is open");
    let mut closed = tcp(0, 10, 0);
    closed.listener.cookie = 1;
    all.on_close(&closed);
    all.forget_unused(HashSet::from([10]), &mut namespaces);
    assert!(!namespaces.contains(10));
    all.apply_survey(&[tcp(1, 10, 0)], 1);
    namespaces.begin(10, Some(100));
    all.end_survey(&mut namespaces);
    assert!(namespaces.contains(10), "it listens again");
    // The close was not seen, and the number is that of another namespace.
    namespaces.begin(20, Some(100));
    all.apply_survey(&[tcp(2, 20, 3)], 1);
    all.compare(20, Some(3), &mut namespaces);
    assert_eq!(reported(&mut all), [(2, Overflow { refused: 3, ..Overflow::default() })]);
}

#[test]
fn a_name_leads_to_the_one_listener_that_has_it() {
    let all =
        table(&[unix(1, 10, b"/run/x\0"), unix(2, 10, b"\0x"), unix(3, 20, b"\0x"), unix(4, 20, b"/run/y")]);
    let find = |netns, name: &[u8]| all.find_unix(&target(netns, name), trimmed(name), |_| false);
    assert_eq!(find(99, b"/run/x\0junk"), Some(1), "paths are the same in every network namespace");
    assert_eq!((find(10, b"\0x"), find(20, b"\0x"), find(30, b"\0x")), (Some(2), Some(3), None));
    assert_eq!(find(20, b"/run/z"), None);
}

#[test]
fn of_two_listeners_with_one_path_the_one_that_shares_the_clients_files_is_meant() {
    let all = table(&[unix(1, 10, b"/run/x"), unix(2, 20, b"/run/x"), unix(3, 30, b"/run/x")]);
    let find =
        |shares: &[u32]| all.find_unix(&target(10, b"/run/x"), b"/run/x", |task| shares.contains(&task.tgid));
    assert_eq!((find(&[]), find(&[2]), find(&[2, 3])), (None, Some(2), None));
}
