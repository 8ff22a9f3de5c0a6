//! Makes the records of other socket calls: listen, bind, socket, and the entry into accept.

use acceptd_common::{
    SocketCall,
    family::{AF_INET, AF_INET6},
};
use acceptd_otlp::{Attribute, Event, NetworkType, Value, errno, names, network_type};

use super::{
    RecordContext,
    accept::syscall,
    endpoint::{is_mptcp, listener_endpoint, non_zero, socket_type, transport},
};
use crate::identity::{Identity, until_nul};

/// The words of a record's body for one operation.
struct Words {
    event: &'static str,
    did: &'static str,
    failed_to: &'static str,
}

fn words(operation: u8) -> Words {
    match operation {
        SocketCall::LISTEN => {
            Words { event: names::EVENT_ACCEPTD_SOCKET_LISTEN, did: "listens on", failed_to: "listen on" }
        }
        SocketCall::BIND => {
            Words { event: names::EVENT_ACCEPTD_SOCKET_BIND, did: "bound", failed_to: "bind" }
        }
        SocketCall::CREATE => Words {
            event: names::EVENT_ACCEPTD_SOCKET_CREATE,
            did: "made a socket:",
            failed_to: "make a socket:",
        },
        _ => Words {
            event: names::EVENT_ACCEPTD_SOCKET_ACCEPT_ATTEMPT,
            did: "calls accept on",
            failed_to: "call accept on",
        },
    }
}

/// The record of one call.
#[must_use]
pub(crate) fn event<'a>(
    sample: &'a SocketCall,
    identity: &'a Identity,
    context: RecordContext<'_>,
) -> Event<'a> {
    let SocketCall { header, task, socket, .. } = sample;
    let words = words(sample.operation);
    let error = (sample.result < 0).then(|| sample.result.saturating_neg());
    let address = listener_endpoint(socket, &sample.name).filter(|_| sample.operation != SocketCall::CREATE);
    let transport = transport(socket.family, socket.protocol).as_str();

    let mut body = vec![
        Value::Raw(&identity.name),
        Value::Text("["),
        Value::Int(u64::from(task.tgid)),
        Value::Text(if error.is_some() { "] failed to " } else { "] " }),
        Value::Text(if error.is_some() { words.failed_to } else { words.did }),
        Value::Text(" "),
        Value::Text(transport),
    ];
    if let Some(address) = address {
        body.extend([Value::Text(" "), Value::Address(address)]);
    }
    if let Some(error) = error {
        body.extend([Value::Text(": "), Value::Text(errno::symbol(error))]);
    }
    let mut event = Event {
        name: words.event,
        time_unix_nano: context.clock.unix_nanos(header.boot_ns),
        observed_time_unix_nano: context.observed_unix_ns,
        uid: context.ids.record_uid(header.cpu, header.sequence),
        severity: errno::severity(error),
        body,
        attributes: Vec::with_capacity(16),
    };
    event.add(Attribute::Transport, Some(Value::Text(transport)));
    let network_type = address.as_ref().and_then(network_type).or_else(|| family_type(socket.family));
    event.add(Attribute::NetworkType, network_type.map(|network_type| Value::Text(network_type.as_str())));
    event.add(Attribute::ErrorType, error.map(|error| Value::Text(errno::symbol(error))));
    event.add(Attribute::SocketType, Some(Value::Text(socket_type(socket.socket_type))));
    let mptcp = is_mptcp(socket.family, socket.protocol);
    event.add(Attribute::Mptcp, mptcp.then_some(Value::Flag(true)));

    let fd = u64::try_from(sample.fd).ok().map(Value::Int);
    let cookie = non_zero(socket.cookie).map(Value::Id);
    let inode = non_zero(socket.inode).map(Value::Int);
    match sample.operation {
        SocketCall::BIND | SocketCall::CREATE => {
            event.add_endpoint(Attribute::LocalAddress, Attribute::LocalPort, address);
            event.add(Attribute::SocketFd, fd);
            event.add(Attribute::SocketCookie, cookie);
            event.add(Attribute::SocketInode, inode);
        }
        _ => {
            event.add_endpoint(Attribute::ListenerAddress, Attribute::ListenerPort, address);
            event.add(Attribute::ListenerFd, fd);
            event.add(Attribute::ListenerCookie, cookie);
            event.add(Attribute::ListenerInode, inode);
        }
    }
    if sample.operation == SocketCall::LISTEN {
        // A negative backlog asks for the longest queue that the kernel allows, so there is no number to
        // record.
        let requested = u64::try_from(sample.backlog).ok().filter(|_| sample.fd >= 0);
        event.add(Attribute::BacklogRequested, requested.map(Value::Int));
        let limit = error.is_none().then(|| Value::Int(u64::from(socket.backlog_limit)));
        event.add(Attribute::BacklogLimit, limit);
    }
    if sample.operation == SocketCall::ATTEMPT {
        event.add(Attribute::Syscall, Some(Value::Text(syscall(sample.syscall).as_str())));
    }
    event.add(Attribute::NetnsInode, non_zero(u64::from(socket.netns)).map(Value::Int));
    event.add(Attribute::ThreadId, Some(Value::Int(u64::from(task.tid))));
    event.add(Attribute::ThreadName, Some(Value::Raw(until_nul(&task.comm))));
    event.add(Attribute::CaptureTier, Some(Value::Int(u64::from(sample.tier))));
    event
}

/// `network.type` of a socket that has no address yet, from its family.
fn family_type(family: u16) -> Option<NetworkType> {
    match family {
        AF_INET => Some(NetworkType::Ipv4),
        AF_INET6 => Some(NetworkType::Ipv6),
        _ => None,
    }
}
