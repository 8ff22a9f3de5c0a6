//! The agent's own accepts and connections. They are reported only with `filter.self`: otherwise each export
//! would cause another event.

use acceptd_common::{Counter, limits::OWN_CONNECTIONS};
use aya_ebpf::{macros::map, maps::HashMap};

use crate::{
    count,
    offsets::{AGENT_TGID, RECORD_SELF},
    sock::{ProbedSock, TypedSock},
    task,
    tuple::Tuple,
    uapi::BPF_ANY,
};

/// Cookie of a connection that the agent opened → its addresses; [`Tuple::NONE`] until it is established.
#[map]
static OWN_BY_COOKIE: HashMap<u64, Tuple> = HashMap::with_max_entries(OWN_CONNECTIONS, 0);

/// The same connections, by the addresses that the accepting side sees.
#[map]
static OWN_BY_TUPLE: HashMap<Tuple, u8> = HashMap::with_max_entries(OWN_CONNECTIONS, 0);

/// Whether the agent is the current process.
#[inline(always)]
pub fn is_current_process() -> bool {
    u64::from(task::current_tgid()) == AGENT_TGID.load()
}

/// Whether the agent opened the connection that `accepted` is the server's end of.
#[inline(always)]
pub fn opened(accepted: ProbedSock) -> bool {
    OWN_BY_TUPLE.get_ptr(&Tuple::from_server(accepted)).is_some()
}

/// Whether events of the agent's own are reported, too.
#[inline(always)]
pub fn are_reported() -> bool {
    RECORD_SELF.load() != 0
}

/// The agent begins to connect `sk`. The port is not chosen yet: [`established`] adds the addresses.
#[inline(always)]
pub fn connecting(sk: TypedSock) {
    // On the stack: from a constant in `.rodata`, a map got the value of another constant (seen).
    let not_established = core::hint::black_box(Tuple::NONE);
    if OWN_BY_COOKIE.insert(&sk.make_cookie(), &not_established, BPF_ANY).is_err() {
        count::add(Counter::OwnFull);
    }
}

/// The client's end of a connection is established: if the agent opened it, its addresses are remembered.
#[inline(always)]
pub fn established(sk: TypedSock) {
    let Some(tuple) = OWN_BY_COOKIE.get_ptr_mut(&sk.cookie()) else { return };
    let own = Tuple::from_client(sk.probed());
    // SAFETY: a non-null map value.
    unsafe { *tuple = own };
    if OWN_BY_TUPLE.insert(&own, &1, BPF_ANY).is_err() {
        count::add(Counter::OwnFull);
    }
}

/// Forgets the connection with this cookie. Returns whether the agent had opened it.
#[inline(always)]
pub fn closed(cookie: u64) -> bool {
    let Some(tuple) = OWN_BY_COOKIE.get_ptr(&cookie) else { return false };
    // SAFETY: a non-null map value.
    let own = unsafe { *tuple };
    let _ = OWN_BY_TUPLE.remove(&own);
    let _ = OWN_BY_COOKIE.remove(&cookie);
    true
}
