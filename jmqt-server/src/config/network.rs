//! IP networks: an address and the length of its prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The length of the IPv6 prefix that marks an IPv4-mapped address.
const MAPPED_BITS: u8 = 96;

/// An IP network: `10.0.0.0/8`, `2001:db8::/32`, or one address.
///
/// An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) counts as the IPv4 address, both in a text and from a
/// listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// The bits after the prefix are 0.
    address: IpAddr,
    prefix_bits: u8,
}

/// The text is neither an IP address nor an IP address with `/` and a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or network, such as 127.0.0.1 or 10.0.0.0/8")]
pub struct InvalidNetwork;

impl Network {
    /// The network of the first `prefix_bits` bits of this address; the other bits are ignored.
    ///
    /// # Errors
    /// `prefix_bits` is larger than the number of bits of the address.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Result<Self, InvalidNetwork> {
        if prefix_bits > bits(address) {
            return Err(InvalidNetwork);
        }
        let (address, prefix_bits) = match address.to_canonical() {
            canonical if canonical.is_ipv4() == address.is_ipv4() => (address, prefix_bits),
            canonical if prefix_bits >= MAPPED_BITS => (canonical, prefix_bits - MAPPED_BITS),
            _ => (address, prefix_bits),
        };
        Ok(Self { address: masked(address, prefix_bits), prefix_bits })
    }

    /// Whether the address is in this network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix_bits) == self.address
    }
}

impl From<IpAddr> for Network {
    /// The network that contains only this address.
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix_bits: bits(address) }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((address, prefix_bits)) = text.split_once('/') else {
            return text.parse().map(IpAddr::into).map_err(|_| InvalidNetwork);
        };
        // `parse` would also accept a plus sign.
        if !prefix_bits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(InvalidNetwork);
        }
        let address = address.parse().map_err(|_| InvalidNetwork)?;
        Self::new(address, prefix_bits.parse().map_err(|_| InvalidNetwork)?)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address with the bits after the prefix set to 0.
fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    let behind = u32::from(bits(address) - prefix_bits);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network.parse::<Network>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3/8", "10.255.0.1", "11.0.0.0"), // bits behind the prefix do not matter
            ("192.0.2.128/25", "192.0.2.129", "192.0.2.127"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::1", "::1", "::2"),
        ] {
            assert!(contains(network, inside), "{network} {inside}");
            assert!(!contains(network, outside), "{network} {outside}");
        }
    }

    #[test]
    fn a_prefix_of_length_0_contains_all_addresses_of_its_family() {
        assert!(contains("0.0.0.0/0", "255.255.255.255"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "ffff::"));
        assert!(!contains("::/0", "10.0.0.1"));
    }

    #[test]
    fn a_mapped_ipv4_address_is_the_ipv4_address() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("::/0", "::ffff:10.1.2.3"));
        assert!(contains("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(contains("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!contains("::ffff:10.0.0.1/64", "10.0.0.1"));
    }

    #[test]
    fn invalid_networks_are_refused() {
        for text in [
            "",
            " ",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "10.0.0.0/256",
            "localhost",
            "10.0.0.1:80",
            "[::1]",
            "10.0.0.0/ 8",
            "fe80::1%eth0",
        ] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
    }

    #[test]
    fn a_network_is_displayed_as_parsed() {
        for (text, shown) in
            [("10.1.2.3/8", "10.0.0.0/8"), ("::1", "::1/128"), ("::ffff:10.0.0.0/104", "10.0.0.0/8")]
        {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
    }
}
