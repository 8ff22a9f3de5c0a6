//! A TUN interface with the test as the remote host, which decides which packets arrive and when.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use etherparse::{
    IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TcpOptionElement,
    TransportSlice,
};

use crate::raw;

pub mod segments;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
const NAME: &str = "wire0";
const CLIENT_PORT: u16 = 40_000;
const FIRST_SEQUENCE: u32 = 1000;
const WINDOW: u16 = 64_000;

/// The remote end of the interface.
#[derive(Debug)]
pub struct TunLink {
    device: File,
    is_ipv6: bool,
}

/// The times of a completed handshake, as the remote host saw them.
#[derive(Debug)]
pub struct ObservedHandshake {
    /// Before the SYN was sent.
    pub started: Instant,
    /// When each SYN-ACK was read.
    pub syn_acks: Vec<Instant>,
    /// Before the final ACK was sent.
    pub before_final_ack: Instant,
    /// After the final ACK was sent.
    pub finished: Instant,
}

impl TunLink {
    /// Creates the interface in the calling thread's network namespace, and brings it up.
    ///
    /// # Panics
    /// Without root privileges or `/dev/net/tun`.
    #[must_use]
    pub fn new() -> Self {
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let device = device.expect("the module tun");
        raw::make_tun(&device, NAME).expect("root privileges");
        ip(&["addr", "add", "10.9.0.1/24", "dev", NAME]);
        ip(&["link", "set", NAME, "up"]);
        Self { device, is_ipv6: false }
    }

    /// Sends single segments over IPv6 from now on.
    ///
    /// # Panics
    /// If the kernel has no IPv6.
    #[must_use]
    pub fn over_ipv6(self) -> Self {
        ip(&["addr", "add", &format!("{SERVER_V6}/64"), "dev", NAME]);
        Self { is_ipv6: true, ..self }
    }

    /// The local address of the interface, with port 0, for a server to bind to.
    #[must_use]
    pub fn server() -> SocketAddr {
        (SERVER, 0).into()
    }

    /// The address and port from which [`TunLink::connect`] connects.
    #[must_use]
    pub fn client() -> SocketAddr {
        (CLIENT, CLIENT_PORT).into()
    }

    /// Performs the client's side of a handshake with `port`: ignores the first `lost` SYN-ACKs, and waits
    /// for `delay` before the final ACK.
    ///
    /// # Panics
    /// If the server does not answer with a SYN-ACK.
    #[must_use]
    pub fn connect(&mut self, port: u16, lost: usize, delay: Duration) -> ObservedHandshake {
        self.shake_hands(port, lost, delay, false)
    }

    /// [`TunLink::connect`] with TCP time stamps. The final ACK has that of the first SYN-ACK, as Linux sends
    /// it.
    ///
    /// # Panics
    /// If the server does not answer with a SYN-ACK.
    #[must_use]
    pub fn connect_with_time_stamps(&mut self, port: u16, lost: usize, delay: Duration) -> ObservedHandshake {
        self.shake_hands(port, lost, delay, true)
    }

    fn shake_hands(
        &mut self,
        port: u16,
        lost: usize,
        delay: Duration,
        has_stamps: bool,
    ) -> ObservedHandshake {
        let started = Instant::now();
        let stamp = |own, echo| has_stamps.then_some(TcpOptionElement::Timestamp(own, echo));
        self.send(stamp(1, 0).as_slice(), |packet| {
            packet.tcp(CLIENT_PORT, port, FIRST_SEQUENCE, WINDOW).syn()
        });
        let mut syn_acks = Vec::new();
        let (sequence, echo) = self.syn_ack(port);
        syn_acks.push(Instant::now());
        while syn_acks.len() <= lost {
            self.syn_ack(port);
            syn_acks.push(Instant::now());
        }
        thread::sleep(delay);
        let before_final_ack = Instant::now();
        self.send(stamp(2, echo).as_slice(), |packet| {
            packet.tcp(CLIENT_PORT, port, FIRST_SEQUENCE + 1, WINDOW).ack(sequence.wrapping_add(1))
        });
        ObservedHandshake { started, syn_acks, before_final_ack, finished: Instant::now() }
    }

    fn send(
        &mut self,
        stamp: &[TcpOptionElement],
        tcp: impl FnOnce(PacketBuilderStep<IpHeaders>) -> PacketBuilderStep<TcpHeader>,
    ) {
        let mut bytes = Vec::new();
        let packet = tcp(PacketBuilder::ipv4(CLIENT.octets(), SERVER.octets(), 64));
        let packet = packet.options(stamp).expect("room for one option");
        packet.write(&mut bytes, &[]).expect("short");
        self.device.write_all(&bytes).expect("the interface is up");
    }

    /// The sequence number of the next SYN-ACK from `port`, and its time stamp, or 0. Other packets are
    /// ignored.
    fn syn_ack(&mut self, port: u16) -> (u32, u32) {
        loop {
            let mut bytes = [0; 2048];
            let length = self.device.read(&mut bytes).expect("the interface is up");
            let packet = SlicedPacket::from_ip(&bytes[..length]).expect("a valid IP packet");
            if let (Some(NetSlice::Ipv4(_)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport)
                && tcp.syn()
                && tcp.ack()
                && tcp.source_port() == port
            {
                let stamp = tcp.options_iterator().find_map(|option| match option {
                    Ok(TcpOptionElement::Timestamp(stamp, _)) => Some(stamp),
                    _ => None,
                });
                return (tcp.sequence_number(), stamp.unwrap_or_default());
            }
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(status.expect("ip, of iproute2 or busybox").success(), "ip {arguments:?}");
}

impl Default for TunLink {
    fn default() -> Self {
        Self::new()
    }
}
