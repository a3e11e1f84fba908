//! The PROXY protocol, version 2: what a backend is told about the client before the first byte.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY, and version 2, command LOCAL.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header for a connection that `client` made to `listener`. Addresses of both are of one family, as
/// they are the two ends of one connection.
pub(crate) fn header(client: SocketAddr, listener: SocketAddr) -> Vec<u8> {
    let (client, listener) = (canonical(client), canonical(listener));
    let mut header = SIGNATURE.to_vec();
    match (client.ip(), listener.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([PROXY, TCP_OVER_IPV4, 0, 12]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        (source, destination) => {
            header.extend([PROXY, TCP_OVER_IPV6, 0, 36]);
            header.extend(octets(source));
            header.extend(octets(destination));
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(listener.port().to_be_bytes());
    header
}

/// The header of the balancer's own connections: health checks.
pub(crate) fn local_header() -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([LOCAL, 0, 0, 0]);
    header
}

/// An IPv4 address as such, also where an IPv6 listener saw it mapped.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_an_ipv4_client_is_28_bytes() {
        let header =
            header("192.0.2.7:40000".parse().unwrap(), "[::ffff:198.51.100.1]:8010".parse().unwrap());
        assert_eq!(
            header,
            [
                b"\r\n\r\n\0\r\nQUIT\n".as_slice(),
                &[0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x1f, 0x4a],
            ]
            .concat()
        );
    }

    #[test]
    fn the_header_of_an_ipv6_client_is_52_bytes() {
        let header = header("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        assert_eq!(header.len(), 52);
        assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(header[16..18], [0x20, 0x01]);
        assert_eq!(header[31..34], [1, 0x20, 0x01]);
        assert_eq!(header[47..], [2, 0, 1, 0, 2]);
    }
}
