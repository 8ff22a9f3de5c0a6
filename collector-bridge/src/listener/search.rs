//! Finds the listener in whose queue a connection waited.

use acceptd_common::{
    ConnectionAbandoned, Listener,
    family::{AF_INET, AF_INET6},
};

use super::table::{KnownListener, ListenerTable};

/// Where a connection waited that was never accepted.
#[derive(Debug)]
pub(crate) enum WaitedFor<'a> {
    /// In the queue of this listener.
    One(&'a KnownListener),
    /// In the queue of one of these, of the same address (`SO_REUSEPORT`).
    OneOf(Vec<&'a KnownListener>),
    /// The listener is not in the table.
    Unknown,
}

impl ListenerTable {
    /// The listener in whose queue a connection waited: the one that the programs saw close, else one bound
    /// to the connection's local address, else one bound to any address.
    #[must_use]
    pub(crate) fn find_for(&self, abandoned: &ConnectionAbandoned) -> WaitedFor<'_> {
        if let Some(known) = self.by_cookie(abandoned.listener_cookie) {
            return WaitedFor::One(known);
        }
        let connection = &abandoned.socket;
        let fits = |listener: &Listener| {
            listener.port == connection.local_port
                && listener.netns == connection.netns
                && matches!(listener.family, AF_INET | AF_INET6)
                // An IPv4 connection to an IPv6 listener is an IPv6 socket, so the families are equal.
                && listener.family == connection.family
        };
        let bound_to = |address: [u8; 16]| {
            let all: Vec<&KnownListener> = self
                .known
                .values()
                .filter(|known| fits(&known.listener) && known.listener.addr == address)
                .collect();
            // A new listener may be bound to the same address already, but queued connections close with
            // their own listener.
            let closed: Vec<&KnownListener> = all.iter().copied().filter(|known| known.closed).collect();
            if closed.is_empty() { all } else { closed }
        };
        let mut found = bound_to(connection.local_addr);
        if found.is_empty() {
            found = bound_to([0; 16]);
        }
        match found.as_slice() {
            [] => WaitedFor::Unknown,
            [one] => WaitedFor::One(one),
            _ => WaitedFor::OneOf(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use acceptd_common::ListenerState;
    use zerocopy::FromZeros as _;

    use super::*;

    fn listener(inode: u64, address: [u8; 4]) -> ListenerState {
        let mut state = ListenerState::new_zeroed();
        state.listener.inode = inode;
        state.listener.cookie = inode + 100;
        state.listener.family = AF_INET;
        state.listener.port = 80_u16.to_be();
        state.listener.addr[..4].copy_from_slice(&address);
        state
    }

    fn table(existing: &[ListenerState]) -> ListenerTable {
        ListenerTable::new(existing, Duration::from_secs(5), 0)
    }

    fn connection(address: [u8; 4]) -> ConnectionAbandoned {
        let mut abandoned = ConnectionAbandoned::new_zeroed();
        abandoned.socket.family = AF_INET;
        abandoned.socket.local_port = 80_u16.to_be();
        abandoned.socket.local_addr[..4].copy_from_slice(&address);
        abandoned
    }

    #[track_caller]
    fn one(found: &WaitedFor<'_>) -> u64 {
        let WaitedFor::One(known) = found else { panic!("{found:?}") };
        known.listener.inode
    }

    #[test]
    fn a_connection_is_found_by_its_local_address() {
        let all = table(&[listener(77, [127, 0, 0, 1]), listener(78, [0; 4])]);
        assert_eq!(one(&all.find_for(&connection([127, 0, 0, 1]))), 77);
        assert_eq!(one(&all.find_for(&connection([127, 0, 0, 2]))), 78);
        let mut elsewhere = connection([127, 0, 0, 1]);
        elsewhere.socket.netns = 9;
        assert!(matches!(all.find_for(&elsewhere), WaitedFor::Unknown));
    }

    #[test]
    fn each_of_several_listeners_of_one_address_has_its_own_connections() {
        let all = table(&[listener(1, [127, 0, 0, 1]), listener(2, [127, 0, 0, 1])]);
        let mut abandoned = connection([127, 0, 0, 1]);
        assert!(matches!(all.find_for(&abandoned), WaitedFor::OneOf(both) if both.len() == 2), "not guessed");
        for inode in [1, 2] {
            abandoned.listener_cookie = inode + 100;
            assert_eq!(one(&all.find_for(&abandoned)), inode);
        }
    }

    #[test]
    fn the_programs_know_the_listener_whatever_the_address() {
        let all = table(&[listener(1, [127, 0, 0, 1])]);
        // TPROXY: the connection has the address that its client asked for.
        let mut proxied = connection([192, 0, 2, 7]);
        proxied.socket.local_port = 443_u16.to_be();
        proxied.listener_cookie = 101;
        assert_eq!(one(&all.find_for(&proxied)), 1);
    }

    #[test]
    fn a_closed_listener_comes_before_its_successor() {
        let mut all = table(&[listener(1, [127, 0, 0, 1]), listener(2, [127, 0, 0, 1])]);
        all.on_close(&listener(1, [127, 0, 0, 1]));
        assert_eq!(one(&all.find_for(&connection([127, 0, 0, 1]))), 1);
    }
}
