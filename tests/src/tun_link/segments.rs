//! Single TCP segments of the remote host: scans, probes and handshakes that stop half-way.

use std::io::{Read as _, Write as _};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};

use super::{CLIENT, CLIENT_V6, FIRST_SEQUENCE, SERVER, SERVER_V6, TunLink, WINDOW};

/// How many routers a segment may pass (TTL). The interface is no router.
pub const HOPS: u8 = 64;

/// The flags of a segment, by their bits in the TCP header.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 1 << 1;
    /// A connection is reset.
    pub const RST: u8 = 1 << 2;
    /// Data is to be delivered at once.
    pub const PSH: u8 = 1 << 3;
    /// Urgent data.
    pub const URG: u8 = 1 << 5;
}

/// A handshake whose final ACK was not sent yet.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// The client's port.
    pub client: u16,
    /// The server's port.
    pub server: u16,
    /// The number that the final ACK acknowledges.
    acknowledged: u32,
}

impl TunLink {
    /// A packet from the client to the server.
    fn packet(&self) -> PacketBuilderStep<IpHeaders> {
        if self.is_ipv6 {
            PacketBuilder::ipv6(CLIENT_V6.octets(), SERVER_V6.octets(), HOPS)
        } else {
            PacketBuilder::ipv4(CLIENT.octets(), SERVER.octets(), HOPS)
        }
    }

    /// Sends a segment with these flags and no ACK, with the sequence number of a SYN.
    ///
    /// # Panics
    /// If the interface is gone.
    pub fn send_flags(&mut self, client: u16, server: u16, flags: u8) {
        let mut tcp = self.packet().tcp(client, server, FIRST_SEQUENCE, WINDOW);
        tcp = if flags & flag::FIN != 0 { tcp.fin() } else { tcp };
        tcp = if flags & flag::SYN != 0 { tcp.syn() } else { tcp };
        tcp = if flags & flag::RST != 0 { tcp.rst() } else { tcp };
        tcp = if flags & flag::PSH != 0 { tcp.psh() } else { tcp };
        tcp = if flags & flag::URG != 0 { tcp.urg(0) } else { tcp };
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, &[]).expect("short");
        self.device.write_all(&bytes).expect("the interface is up");
    }

    /// Sends a SYN, and waits for the SYN-ACK.
    ///
    /// # Panics
    /// If the interface is gone.
    #[must_use]
    pub fn half_open(&mut self, client: u16, server: u16) -> Pending {
        self.send_flags(client, server, flag::SYN);
        loop {
            let mut bytes = [0; 2048];
            let length = self.device.read(&mut bytes).expect("the interface is up");
            let packet = SlicedPacket::from_ip(&bytes[..length]).expect("a valid IP packet");
            if let Some(TransportSlice::Tcp(tcp)) = packet.transport
                && tcp.syn()
                && tcp.ack()
                && (tcp.source_port(), tcp.destination_port()) == (server, client)
            {
                return Pending { client, server, acknowledged: tcp.sequence_number().wrapping_add(1) };
            }
        }
    }

    /// Sends the final ACK of a handshake, with `data`.
    ///
    /// # Panics
    /// If the interface is gone.
    pub fn finish(&mut self, pending: Pending, data: &[u8]) {
        self.send_answer(pending, 1, false, data);
    }

    /// Sends an ACK that is outside of the window of a pending handshake.
    ///
    /// # Panics
    /// If the interface is gone.
    pub fn send_out_of_window(&mut self, pending: Pending) {
        self.send_answer(pending, 1_000_000, false, &[]);
    }

    /// Sends an ACK that acknowledges a number that the server never sent.
    ///
    /// # Panics
    /// If the interface is gone.
    pub fn send_bad_cookie(&mut self, pending: Pending) {
        let wrong = pending.acknowledged.wrapping_add(0x0123_4567);
        self.send_answer(Pending { acknowledged: wrong, ..pending }, 1, false, &[]);
    }

    /// Resets a pending handshake, or a connection.
    ///
    /// # Panics
    /// If the interface is gone.
    pub fn reset(&mut self, pending: Pending) {
        self.send_answer(pending, 1, true, &[]);
    }

    fn send_answer(&mut self, pending: Pending, offset: u32, is_reset: bool, data: &[u8]) {
        let Pending { client, server, acknowledged } = pending;
        let sequence = FIRST_SEQUENCE.wrapping_add(offset);
        let mut tcp = self.packet().tcp(client, server, sequence, WINDOW).ack(acknowledged);
        if is_reset {
            tcp = tcp.rst();
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, data).expect("short");
        self.device.write_all(&bytes).expect("the interface is up");
    }
}
