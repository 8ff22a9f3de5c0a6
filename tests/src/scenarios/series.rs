//! The series of listeners: which listeners have one of their own, and under which Resource.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest, common::v1::any_value::Value,
};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept, bind, connect, getsockname, ipproto, listen, socket,
    socket_with,
};

use crate::{
    agent::Agent,
    inbox::Inbox,
    metrics::{Point, points},
    mounted::Cgroup,
    netns::in_new_netns,
    raw,
    record::{Record, flatten},
    wait,
};

const ACCEPTS: &str = "acceptd.listener.accepts";
const COUNT: &str = "acceptd.listener.count";
const LENGTH: &str = "acceptd.listener.queue.length";
const LIMIT: &str = "acceptd.listener.queue.limit";

fn measuring(flags: &[&str]) -> Agent {
    let often =
        ["--set=metrics.export=true", "--set=metrics.interval=500ms", "--set=listener.interval=500ms"];
    Agent::with_flags(&[&often, flags].concat())
}

/// The points of the last export that match.
fn last(inbox: &Inbox, name: &str, matches: impl Fn(&Point) -> bool) -> Vec<Point> {
    let all = inbox.last_metrics().as_ref().map(points).unwrap_or_default();
    all.into_iter().filter(|point| point.name == name && matches(point)).collect()
}

fn int(point: &Point, key: &str) -> Option<i64> {
    match point.attributes.get(key) {
        Some(Value::IntValue(value)) => Some(*value),
        _ => None,
    }
}

/// Fifty servers on 127.0.0.1:8000, each in a network namespace of its own: fifty series with one accept.
pub(super) fn of_network_namespaces() {
    const NAMESPACES: usize = 50;
    let agent = measuring(&[]);
    let address: SocketAddr = "127.0.0.1:8000".parse().expect("an address");
    let mut open = Vec::new();
    for _ in 0..NAMESPACES {
        in_new_netns(&[], || {
            let listener = TcpListener::bind(address).expect("a new namespace");
            let client = TcpStream::connect(address).expect("the listener is up");
            let (accepted, _) = listener.accept().expect("a connection");
            open.push((listener, client, accepted));
        });
    }
    let own = std::process::id();
    let program = std::env::current_exe().expect("a path");
    let is_ours = |point: &Point| {
        point.is_on_port(8000)
            && point.text("process.executable.name").is_some_and(|name| program.ends_with(name))
    };
    let inbox = agent.inbox.clone();
    let series = wait::until_ok(|| {
        let found = last(&inbox, ACCEPTS, is_ours);
        if found.len() == NAMESPACES {
            Ok(found)
        } else {
            Err(format!("{} series of process {own}", found.len()))
        }
    });
    assert!(series.iter().all(|point| (point.value - 1.0).abs() < 0.1), "{series:?}");
    let mut namespaces: Vec<i64> =
        series.iter().map(|point| int(point, "acceptd.netns.inode").expect("a namespace")).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    assert_eq!(namespaces.len(), NAMESPACES);
    drop(open);
    let _ = agent.stop();
}

/// A Resource and the points under it.
fn under_container(request: &ExportMetricsServiceRequest, id: &str) -> Option<(Vec<String>, Vec<Point>)> {
    let is_it =
        |key: &str, value: &Value| key == "container.id" && *value == Value::StringValue(id.to_owned());
    let group = request.resource_metrics.iter().find(|group| {
        let attributes = group.resource.as_ref().map(|one| flatten(&one.attributes)).unwrap_or_default();
        attributes.iter().any(|(key, value)| is_it(key, value))
    })?;
    let attributes = flatten(&group.resource.as_ref()?.attributes);
    let only = ExportMetricsServiceRequest { resource_metrics: vec![group.clone()] };
    Some((attributes.keys().map(ToString::to_string).collect(), points(&only)))
}

/// A server in a container has its metrics under a Resource with `container.id`, which has nothing of the
/// agent's process; one beside it is under the agent's.
pub(super) fn of_a_container() {
    let id = "5e91e5c0".repeat(8);
    let group = Cgroup::new(&format!("docker-{id}.scope"));
    let agent = measuring(&["--set", &group.host_root_setting()]);
    let listening = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listening.local_addr().expect("bound").port();
    let beside = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let beside_port = beside.local_addr().expect("bound").port();
    let inherited = OwnedFd::from(listening.try_clone().expect("a descriptor"));
    let mut server = group.acceptor().stdin(inherited).stdout(Stdio::null()).spawn().expect("it starts");
    drop(listening);
    let client = TcpStream::connect(("127.0.0.1", port)).expect("the listener is up");
    let _other = TcpStream::connect(("127.0.0.1", beside_port)).expect("the listener is up");
    let _accepted = beside.accept().expect("a connection");
    let inbox = agent.inbox.clone();
    let (keys, inside) = wait::until("metrics of the container", || {
        let (keys, inside) = under_container(&inbox.last_metrics()?, &id)?;
        inside.iter().any(|point| point.name == ACCEPTS && point.value > 0.5).then_some((keys, inside))
    });
    assert!(inside.iter().all(|point| point.is_on_port(port)), "{inside:?}");
    assert!(inside.iter().all(|point| !point.attributes.contains_key("container.id")), "{inside:?}");
    for present in ["host.name", "os.type", "service.name", "telemetry.distro.name"] {
        assert!(keys.iter().any(|key| key == present), "{present}: {keys:?}");
    }
    assert!(!keys.iter().any(|key| key.starts_with("process.")), "{keys:?}");
    let on_host = wait::until("metrics of the host", || {
        let found = last(&inbox, ACCEPTS, |point| point.is_on_port(beside_port));
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(on_host.len(), 1);
    drop(client);
    server.wait().expect("a child");
    let _ = agent.stop();
}

/// UNIX sockets with generated names share one series, which counts them.
pub(super) fn of_generated_names() {
    const LISTENERS: u32 = 30;
    let agent = measuring(&[]);
    let folder = tempfile::Builder::new()
        .prefix("plain")
        .rand_bytes(0)
        .tempdir_in(tempfile::Builder::new().prefix("k3j2h1xq").tempdir().expect("a folder").keep());
    let folder = folder.expect("a folder");
    let listeners: Vec<UnixListener> = (0..LISTENERS)
        .map(|number| {
            let name =
                folder.path().join(format!("worker-{:012x}a.sock", 0x1234_5678_9abc_u64 + u64::from(number)));
            let listener = UnixListener::bind(&name).expect("an unused path");
            let _client = UnixStream::connect(&name).expect("the listener is up");
            drop(listener.accept().expect("a connection"));
            listener
        })
        .collect();
    let inbox = agent.inbox.clone();
    let is_ours = |point: &Point| {
        point.text("network.local.address").is_some_and(|name| name.contains("/plain/worker-"))
    };
    let found = wait::until_ok(|| match last(&inbox, COUNT, is_ours).as_slice() {
        [one] if one.value > f64::from(LISTENERS) - 0.5 => Ok(one.clone()),
        other => Err(format!("{other:?}")),
    });
    assert!(found.text("network.local.address").is_some_and(|name| name.ends_with("/plain/worker-*.sock")));
    let accepts = last(&inbox, ACCEPTS, is_ours);
    let sum: f64 = accepts.iter().map(|point| point.value).sum();
    assert!((sum - f64::from(LISTENERS)).abs() < 0.5, "{accepts:?}");
    drop(listeners);
    std::fs::remove_dir_all(folder.path().parent().expect("a folder")).expect("our own folder");
    let _ = agent.stop();
}

/// A name without a digit, as a person gives.
fn plain_name(number: usize) -> String {
    number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

/// More UNIX sockets than there are series for: log, status and metrics say so, and a TCP service that starts
/// later has a series of its own.
pub(super) fn of_more_listeners_than_fit() {
    const LISTENERS: usize = 300;
    let mut agent = measuring(&["--set=admin.listen=127.0.0.1:0"]);
    let admin = crate::admin::address_of(&mut agent);
    let folder = tempfile::Builder::new()
        .prefix(&plain_name(std::process::id() as usize))
        .rand_bytes(0)
        .tempdir()
        .expect("a folder");
    let unix: Vec<UnixListener> = (0..LISTENERS)
        .map(|number| UnixListener::bind(folder.path().join(plain_name(number))).expect("a path"))
        .collect();
    agent.wait_for_message("listeners have no metrics of their own, only together");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = tcp.local_addr().expect("bound");
    let _client = TcpStream::connect(address).expect("the listener is up");
    let _accepted = tcp.accept().expect("a connection");
    let inbox = agent.inbox.clone();
    wait::until("the TCP service's series", || {
        let found = last(&inbox, ACCEPTS, |point| point.is_on_port(address.port()));
        found.iter().any(|point| point.value > 0.5).then_some(())
    });
    let is_shared = |point: &Point| point.attributes.contains_key("otel.metric.overflow");
    let shared = wait::until("the shared series", || last(&inbox, COUNT, is_shared).first().cloned());
    assert!(shared.value >= 49.5, "at least 50 of 300: {shared:?}");
    let (_, status) = crate::admin::get(admin, "/status");
    assert!(status.contains("listeners have no metrics of their own"), "{status}");
    drop(unix);
    wait::until("room again", || {
        last(&inbox, COUNT, is_shared).iter().all(|point| point.value < 0.5).then_some(())
    });
    let _ = agent.stop();
}

/// Queue length and limit of a listener with `waiting` connections, and its accept count after one accept.
fn check_queue(
    agent: &Agent,
    is_it: impl Fn(&Point) -> bool + Copy,
    waiting: f64,
    accept_one: impl FnOnce(),
) {
    let inbox = agent.inbox.clone();
    let value = |name: &str, wanted: f64| {
        wait::until_ok(|| match last(&inbox, name, is_it).as_slice() {
            [point] if (point.value - wanted).abs() < 0.1 => Ok(()),
            other => Err(format!("{name}: {other:?}")),
        });
    };
    value(LENGTH, waiting);
    value(LIMIT, 7.0);
    accept_one();
    value(LENGTH, waiting - 1.0);
    value(ACCEPTS, 1.0);
}

/// Metrics of a Multipath TCP listener, whose queue is that of its first subflow.
pub(super) fn of_multipath_tcp() {
    let agent = measuring(&[]);
    let stream = || {
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::MPTCP))
            .expect("a socket")
    };
    let listener = stream();
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, 7).expect("bound");
    let address = SocketAddr::try_from(getsockname(&listener).expect("bound")).expect("IPv4");
    let clients = [0, 1].map(|_| {
        let client = stream();
        connect(&client, &address).expect("the listener is up");
        client
    });
    let mut accepted = None;
    check_queue(
        &agent,
        |point| point.is_on_port(address.port()),
        2.0,
        || {
            accepted = Some(accept(&listener).expect("a connection"));
        },
    );
    drop((clients, accepted));
    let _ = agent.stop();
}

/// Metrics of an SCTP listener. The agent cannot see which association waits for longest, so it reports no
/// stall.
pub(super) fn of_sctp() {
    let agent = measuring(&["--set=listener.stalled_after=1s"]);
    let [listener, one, two] = [0, 1, 2].map(|_| raw::sctp_socket().expect("SCTP"));
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().expect("an address")).expect("a free port");
    listen(&listener, 7).expect("bound");
    let address = SocketAddr::try_from(getsockname(&listener).expect("bound")).expect("IPv4");
    connect(&one, &address).expect("the listener is up");
    connect(&two, &address).expect("the listener is up");
    let is_it = |point: &Point| point.is_on_port(address.port());
    let mut accepted = None;
    check_queue(&agent, is_it, 2.0, || accepted = Some(accept(&listener).expect("a connection")));
    let stalls = agent.inbox.events("acceptd.listener.stalled", |record| record.is_on_port(address.port()));
    assert_eq!(stalls.len(), 0, "{stalls:?}");
    drop((one, two, accepted));
    let _ = agent.stop();
}

/// Metrics of a VSOCK listener. It is stalled only if the same connection waits all the time.
pub(super) fn of_vsock() {
    const LOCAL: u32 = 1;
    const ANY_PORT: u32 = u32::MAX;
    let agent = measuring(&["--set=listener.stalled_after=5s"]);
    let stream = || socket(AddressFamily::VSOCK, SocketType::STREAM, None).expect("VSOCK");
    let listener = stream();
    bind(&listener, &raw::vsock_address(LOCAL, ANY_PORT)).expect("a free port");
    listen(&listener, 7).expect("bound");
    let (_, port) = raw::vsock_parts(&getsockname(&listener).expect("bound"));
    let client = || {
        let client = stream();
        connect(&client, &raw::vsock_address(LOCAL, port)).expect("the listener is up");
        client
    };
    let mut clients = vec![client(), client()];
    let is_it = |point: &Point| int(point, "network.local.port") == Some(i64::from(port));
    let mut accepted = Vec::new();
    check_queue(&agent, is_it, 2.0, || accepted.push(accept(&listener).expect("a connection")));
    accepted.push(accept(&listener).expect("a connection"));
    let inbox = agent.inbox.clone();
    wait::until("an empty queue", || {
        last(&inbox, LENGTH, is_it).iter().all(|point| point.value < 0.5).then_some(())
    });
    let stalls = || {
        let of_it = |record: &Record| record.int("acceptd.listener.port") == Some(i64::from(port));
        agent.inbox.events("acceptd.listener.stalled", of_it).len()
    };
    // The connections of the first part did wait for long, if the machine is slow.
    let before = stalls();
    // A busy listener: its queue is never empty, but no connection waits for long.
    clients.push(client());
    let busy_until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < busy_until {
        clients.push(client());
        accepted.push(accept(&listener).expect("a connection"));
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(stalls(), before, "it accepts all the time");
    drop((clients, accepted));
    let _ = agent.stop();
}
