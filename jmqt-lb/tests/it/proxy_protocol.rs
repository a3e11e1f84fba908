//! The PROXY protocol headers that backends receive.

use crate::support;

use std::net::{IpAddr, SocketAddr};

use crate::support::{Backend, Balancer, exchange, read, write};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn header(family: u8, client: SocketAddr, listener: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let addresses = [octets(client), octets(listener)].concat();
    let length = u16::try_from(addresses.len() + 4).unwrap();
    [
        SIGNATURE,
        &[0x21, family],
        &length.to_be_bytes(),
        &addresses,
        &client.port().to_be_bytes(),
        &listener.port().to_be_bytes(),
    ]
    .concat()
}

#[test]
fn a_backend_receives_the_addresses_of_an_ipv4_client() {
    let backend = Backend::start();
    let mappings = format!("127.0.0.1:0 = {}", backend.address);
    let balancer = Balancer::start(&mappings, "proxy_protocol = v2");
    let client = balancer.connect_from(IpAddr::from([127, 9, 8, 7]));
    let server = backend.accept();
    let expected = header(0x11, client.local_addr().unwrap(), balancer.mappings[0]);
    assert_eq!(expected.len(), 28);
    assert_eq!(read(&server, 28), expected); // before the client has said anything
    exchange(&client, &server);
}

#[test]
fn a_backend_receives_the_addresses_of_an_ipv6_client() {
    let backend = Backend::start();
    let balancer = Balancer::start(&format!("[::1]:0 = {}", backend.address), "proxy_protocol = v2");
    let client = balancer.connect();
    let server = backend.accept();
    let expected = header(0x21, client.local_addr().unwrap(), balancer.mappings[0]);
    assert_eq!(expected.len(), 52);
    write(&client, b"first");
    assert_eq!(read(&server, 52), expected);
    assert_eq!(read(&server, 5), b"first");
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    let backend = Backend::start();
    let balancer = Balancer::start(&format!("[::]:0 = {}", backend.address), "proxy_protocol = v2");
    let listener = SocketAddr::from(([127, 0, 0, 1], balancer.mappings[0].port()));
    let client = balancer.connect_to(listener);
    let server = backend.accept();
    assert_eq!(read(&server, 28), header(0x11, client.local_addr().unwrap(), listener));
}

#[test]
fn the_header_is_a_setting_of_each_mapping() {
    let (one, two) = (Backend::start(), Backend::start());
    let mappings = format!(
        "127.0.0.1:0 = {}\n127.0.0.2:0 = {}\n[mapping 127.0.0.1:0]\nproxy_protocol = v2",
        one.address, two.address
    );
    let balancer = Balancer::start(&mappings, "");
    let client = balancer.connect();
    let server = one.accept();
    assert_eq!(read(&server, 28), header(0x11, client.local_addr().unwrap(), balancer.mappings[0]));
    exchange(&client, &server);
    exchange(&balancer.connect_to(balancer.mappings[1]), &two.accept());
}

#[test]
fn a_health_check_sends_a_header_without_addresses() {
    let backend = Backend::start();
    let options = "proxy_protocol = v2\nhealth_check_seconds = 3600";
    let _balancer = Balancer::start(&format!("127.0.0.1:0 = {}", backend.address), options);
    let check = backend.accept();
    assert_eq!(read(&check, 16), [SIGNATURE, &[0x20, 0, 0, 0]].concat());
    assert!(support::is_closed(&check));
}

#[test]
fn the_next_backend_receives_the_header_too() {
    let (one, two) = (Backend::start(), Backend::start());
    let mappings = format!("127.0.0.1:0 = {}, {}", one.address, two.address);
    let balancer = Balancer::start(&mappings, "proxy_protocol = v2");
    let client = balancer.connect();
    let expected = header(0x11, client.local_addr().unwrap(), balancer.mappings[0]);
    for _ in 0..2 {
        let (_, server) = support::next_of(&[&one, &two]);
        assert_eq!(read(&server, 28), expected);
    }
}
