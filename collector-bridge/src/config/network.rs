//! The kind of lists of IP networks, in CIDR notation.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use acceptd_common::limits::FILTER_PEERS;

use super::{
    kind::{Names, ValueKind},
    raw::Raw,
};

/// An IP network, or one address: a network with all bits fixed. An IPv4-mapped network is an IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix_length: u8,
}

impl Network {
    /// The first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many leading bits all addresses of the network share.
    #[must_use]
    pub fn prefix_length(self) -> u8 {
        self.prefix_length
    }

    /// Whether every address of `other` is in this network.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.prefix_length <= other.prefix_length
            && first_address(other.address, self.prefix_length) == self.address
    }
}

/// `address` with all bits after the first `prefix_length` cleared.
fn first_address(address: IpAddr, prefix_length: u8) -> IpAddr {
    let length = u32::from(prefix_length);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

impl FromStr for Network {
    type Err = String;

    /// The error is the cause with its remedy.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) =
            text.split_once('/').map_or((text, None), |(first, last)| (first, Some(last)));
        let parsed: IpAddr = address.parse().map_err(|_| {
            format!("{text:?} is not a network; write an address and a prefix length, such as \"10.0.0.0/8\" or \"fd00::/8\"")
        })?;
        let longest = if parsed.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|length| *length <= longest).unwrap_or(u8::MAX)
            }
            Some(_) => u8::MAX,
        };
        if length > longest {
            return Err(format!(
                "{text:?} has a prefix length that is not a number from 0 to {longest}; such as \"{parsed}/{longest}\" for this address alone"
            ));
        }
        let first = first_address(parsed, length);
        if first != parsed {
            return Err(format!(
                "{text:?} has bits set after its first {length}; write \"{first}/{length}\" for the network, or \"{parsed}\" for this address alone"
            ));
        }
        Ok(match parsed {
            // Peers with IPv4-mapped addresses are compared as what they are, IPv4 addresses.
            IpAddr::V6(mapped) if length >= 96 => match mapped.to_ipv4_mapped() {
                Some(address) => Self { address: IpAddr::V4(address), prefix_length: length - 96 },
                None => Self { address: parsed, prefix_length: length },
            },
            _ => Self { address: parsed, prefix_length: length },
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_length)
    }
}

/// A list of networks; in a variable or a flag, separated by commas.
pub(super) struct Networks;

impl ValueKind<Vec<Network>> for Networks {
    fn expects(&self) -> String {
        format!("a list of at most {FILTER_PEERS} networks such as \"10.0.0.0/8\", or addresses")
    }

    fn read(&self, raw: &Raw) -> Result<Vec<Network>, String> {
        let texts = Names.read(raw).map_err(|cause| cause.replace(&Names.expects(), &self.expects()))?;
        if texts.len() > FILTER_PEERS as usize {
            return Err(format!(
                "{} networks are too many; the kernel's map holds {FILTER_PEERS}, so join neighbouring networks into larger ones",
                texts.len()
            ));
        }
        texts.iter().map(|text| text.parse()).collect()
    }

    fn write(&self, value: &Vec<Network>) -> toml::Value {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    #[test]
    fn networks_and_addresses_are_read() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            assert_eq!(network(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_remedy() {
        for (text, words) in [
            (
                "10.0.0.1/8",
                r#"has bits set after its first 8; write "10.0.0.0/8" for the network, or "10.0.0.1""#,
            ),
            ("fd00::1/64", r#"write "fd00::/64""#),
            ("10.0.0.0/33", "not a number from 0 to 32"),
            ("10.0.0.0/-1", "not a number from 0 to 32"),
            ("10.0.0.0/+8", "not a number from 0 to 32"),
            ("10.0.0.0/", "not a number from 0 to 32"),
            ("::/129", "not a number from 0 to 128"),
            ("10.0.0/8", "is not a network; write an address and a prefix length"),
            ("example.org", "is not a network"),
            ("10.0.0.0/255.0.0.0", "not a number from 0 to 32"),
        ] {
            let cause = text.parse::<Network>().expect_err(text);
            assert!(cause.contains(words) && cause.contains(text), "{cause}");
        }
        let many = Raw::List(vec![Raw::Text("10.0.0.0/8".to_owned()); FILTER_PEERS as usize + 1]);
        let cause = Networks.read(&many).expect_err("too many");
        assert!(cause.starts_with("1025 networks are too many"), "{cause}");
        let cause = Networks.read(&Raw::List(vec![Raw::Integer(10)])).expect_err("a number");
        assert!(cause.contains("such as \"10.0.0.0/8\"") && cause.contains("an integer"), "{cause}");
    }

    #[test]
    fn networks_contain_smaller_ones_of_their_family() {
        assert!(network("10.0.0.0/8").contains(network("10.9.0.0/16")));
        assert!(network("10.0.0.0/8").contains(network("10.0.0.0/8")));
        assert!(!network("10.9.0.0/16").contains(network("10.0.0.0/8")));
        assert!(!network("::/0").contains(network("10.0.0.0/8")));
        assert!(network("::/0").contains(network("::1")));
    }

    proptest! {
        #[test]
        fn a_printed_network_reads_back(bits: u128, four: u32, is_ipv4: bool, length in 0_u8..=128) {
            let (address, length) = if is_ipv4 {
                (IpAddr::V4(Ipv4Addr::from_bits(four)), length.min(32))
            } else {
                (IpAddr::V6(Ipv6Addr::from_bits(bits | 1 << 127)), length)
            };
            let network = Network { address: first_address(address, length), prefix_length: length };
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            _ = text.parse::<Network>();
        }
    }
}
