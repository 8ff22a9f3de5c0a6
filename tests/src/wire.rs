//! A network interface whose other end is the test: it decides which packets there are, and when.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::raw;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const CLIENT_PORT: u16 = 40_000;
const FIRST_SEQUENCE: u32 = 1000;
const WINDOW: u16 = 64_000;

/// The client's end.
#[derive(Debug)]
pub struct Wire(File);

/// A handshake that is over: when the server's answers arrived, and between which moments the last packet was sent.
#[derive(Debug)]
pub struct Handshake {
    /// Before the first packet.
    pub began: Instant,
    /// When each SYN-ACK was read.
    pub answers: Vec<Instant>,
    /// Before the last packet was sent.
    pub before_last: Instant,
    /// After it.
    pub ended: Instant,
}

impl Wire {
    /// A new interface in the calling thread's network namespace.
    ///
    /// # Panics
    /// Without root or `/dev/net/tun`.
    #[must_use]
    pub fn new() -> Self {
        const NAME: &str = "wire0";
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
        let device = device.expect("the module tun");
        raw::make_tun(&device, NAME).expect("root may");
        for arguments in [&["addr", "add", "10.9.0.1/24", "dev", NAME][..], &["link", "set", NAME, "up"]] {
            let status = Command::new("ip").args(arguments).status();
            assert!(status.expect("ip, of iproute2 or busybox").success(), "ip {arguments:?}");
        }
        Self(device)
    }

    /// Where a server of this namespace listens for what comes over the wire.
    #[must_use]
    pub fn server() -> SocketAddr {
        (SERVER, 0).into()
    }

    /// Whom it sees there.
    #[must_use]
    pub fn client() -> SocketAddr {
        (CLIENT, CLIENT_PORT).into()
    }

    /// Connects to `port`, as though the first `lost` answers had been lost, and takes `delay` for its last packet.
    ///
    /// # Panics
    /// When the server does not answer as it should.
    #[must_use]
    pub fn connect(&mut self, port: u16, lost: usize, delay: Duration) -> Handshake {
        let began = Instant::now();
        self.send(|packet| packet.tcp(CLIENT_PORT, port, FIRST_SEQUENCE, WINDOW).syn());
        let mut answers = Vec::new();
        let mut sequence = 0;
        while answers.len() <= lost {
            sequence = self.syn_ack(port);
            answers.push(Instant::now());
        }
        thread::sleep(delay);
        let before_last = Instant::now();
        self.send(|packet| {
            packet.tcp(CLIENT_PORT, port, FIRST_SEQUENCE + 1, WINDOW).ack(sequence.wrapping_add(1))
        });
        Handshake { began, answers, before_last, ended: Instant::now() }
    }

    fn send(
        &mut self,
        tcp: impl FnOnce(
            etherparse::PacketBuilderStep<etherparse::IpHeaders>,
        ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
    ) {
        let mut bytes = Vec::new();
        tcp(PacketBuilder::ipv4(CLIENT.octets(), SERVER.octets(), 64)).write(&mut bytes, &[]).expect("short");
        self.0.write_all(&bytes).expect("the interface is up");
    }

    /// The sequence number of the next SYN-ACK from `port`; what else the kernel sends is let pass.
    fn syn_ack(&mut self, port: u16) -> u32 {
        loop {
            let mut bytes = [0; 2048];
            let length = self.0.read(&mut bytes).expect("the interface is up");
            let packet = SlicedPacket::from_ip(&bytes[..length]).expect("a packet of the kernel's own");
            if let (Some(NetSlice::Ipv4(_)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport)
                && tcp.syn()
                && tcp.ack()
                && tcp.source_port() == port
            {
                return tcp.sequence_number();
            }
        }
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}
