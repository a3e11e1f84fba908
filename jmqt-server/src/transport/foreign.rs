//! Clients at a wrong port: what they send first, what they are answered, and what the log advises.
//!
//! Without an answer such a client would wait for its own time limit, and nobody would learn why.

use std::fmt;

use jmqt_core::DisconnectCode;
use jmqt_mqtt::{Answer, ConnAck, Connect, Frame, Packet, Properties, Property, PropertyBuf, ReasonCode};
use jmqt_mqtt::{PacketType, Peek, Place, Sender, Version, peek};
use jmqt_protocol::{Disconn, NUL};

use super::http::answer;
use crate::connection::{Language, Protocol};

/// What a client speaks that has connected to a port for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// Packets of JMQT, each with a NUL byte at its end.
    Jmqt,
    /// Packets of MQTT.
    Mqtt,
    /// MQTT in a WebSocket.
    MqttWebSocket,
    /// An HTTP request, such as the upgrade of a WebSocket.
    Http,
    /// A TLS handshake.
    Tls,
    /// A PROXY protocol header.
    ProxyHeader,
}

impl Foreign {
    /// The number of kinds.
    pub(crate) const KINDS: usize = 6;

    /// Recognises the first bytes of a connection; `None` if they are something else, or too few.
    pub(crate) fn of(first: &[u8]) -> Option<Self> {
        const METHODS: [&[u8]; 7] =
            [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ", b"DELETE ", b"CONNECT "];
        const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];
        const PROXY_HEADERS: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];
        let begins_with = |beginning: &&[u8]| first.starts_with(beginning);
        match first.first()? {
            b'{' => Some(Self::Jmqt),
            &CONNECT => Some(Self::Mqtt),
            _ if begins_with(&TLS_HANDSHAKE) => Some(Self::Tls),
            _ if PROXY_HEADERS.iter().any(&begins_with) => Some(Self::ProxyHeader),
            _ if METHODS.iter().any(&begins_with) => Some(Self::Http),
            _ => None,
        }
    }

    /// The answer to the client; `None` if it depends on the first packet, which is incomplete. It is empty if the client
    /// would not understand any.
    pub(crate) fn answer(self, received: &[u8], text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Jmqt => {
                let packet = jmqt_protocol::Packet::Disconn(Disconn {
                    code: Some(DisconnectCode::BAD_PACKETS),
                    message: Some(text.into()),
                    retry_after_seconds: None,
                });
                let mut answer = Vec::new();
                packet.encode(&mut answer);
                answer.push(NUL);
                Some(answer)
            }
            Self::Mqtt => match peek(received, usize::MAX) {
                Ok(Peek::Known(header)) if header.packet_length() <= received.len() => {
                    Some(connack(&received[..header.packet_length()], text))
                }
                Ok(_) => None,
                Err(_) => Some(Vec::new()),
            },
            Self::Http | Self::MqttWebSocket => Some(answer("400 Bad Request", "", text, true)),
            Self::Tls | Self::ProxyHeader => Some(Vec::new()),
        }
    }

    /// How to connect instead, with the keys of the configuration. `port` is the one that was used; `is_encrypted` if the
    /// client has agreed on TLS with it.
    pub(crate) fn advice(self, port: Protocol, is_encrypted: bool) -> String {
        let encrypted = |plain: &'static str| (if is_encrypted { "SSL_" } else { "" }, plain);
        let is_for_mqtt = port.language() == Language::Mqtt;
        // Only the encryption was wrong.
        if port.is_tls() && !is_encrypted && self != Self::ProxyHeader {
            let plain = key_of(self.with_port(port)).trim_start_matches("SSL_");
            return format!("Clients of this port must use TLS; the port without TLS is that of {plain}");
        }
        match self {
            Self::Tls => format!("The port with TLS is that of SSL_{}", key_of(port)),
            Self::ProxyHeader => "List the address of the load balancer in TRUSTED_PROXIES".to_owned(),
            Self::Jmqt => {
                let (ssl, plain) = encrypted("SOCKET_PORT");
                format!("JMQT clients with TCP connect to the port of {ssl}{plain}")
            }
            Self::Http => {
                let plain = if is_for_mqtt { "MQTT_WEBSOCKET_PORT" } else { "WEBSOCKET_PORT" };
                let (ssl, plain) = encrypted(plain);
                format!("WebSockets connect to the port of {ssl}{plain}")
            }
            Self::Mqtt | Self::MqttWebSocket => {
                let is_websocket = self == Self::MqttWebSocket;
                let (ssl, plain) = encrypted(if is_websocket { "MQTT_WEBSOCKET_PORT" } else { "MQTT_PORT" });
                let transport = if is_websocket { "WebSockets" } else { "TCP" };
                let mut text = format!("MQTT clients with {transport} connect to the port of {ssl}{plain}");
                if !is_for_mqtt && port.is_websocket() == is_websocket {
                    text.push_str("; MQTT_ON_JMQT_PORTS = true accepts them on this port too");
                }
                text
            }
        }
    }

    /// The port for this over the transport of `port`.
    fn with_port(self, port: Protocol) -> Protocol {
        match self {
            Self::Mqtt => Protocol::Mqtt,
            Self::Jmqt => Protocol::Socket,
            _ => port,
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jmqt => "JMQT over TCP",
            Self::Mqtt => "MQTT over TCP",
            Self::MqttWebSocket => "MQTT over WebSocket",
            Self::Http => "an HTTP request",
            Self::Tls => "a TLS handshake",
            Self::ProxyHeader => "a PROXY protocol header",
        })
    }
}

/// The first byte of CONNECT. No packet of JMQT begins with it.
pub(super) const CONNECT: u8 = 0x10;

/// The key of a port in the configuration.
pub(crate) const fn key_of(port: Protocol) -> &'static str {
    match port {
        Protocol::Socket => "SOCKET_PORT",
        Protocol::SslSocket => "SSL_SOCKET_PORT",
        Protocol::WebSocket => "WEBSOCKET_PORT",
        Protocol::SslWebSocket => "SSL_WEBSOCKET_PORT",
        Protocol::Mqtt => "MQTT_PORT",
        Protocol::SslMqtt => "SSL_MQTT_PORT",
        Protocol::MqttWebSocket => "MQTT_WEBSOCKET_PORT",
        Protocol::SslMqttWebSocket => "SSL_MQTT_WEBSOCKET_PORT",
        #[cfg(test)]
        Protocol::Lines => "LINES",
    }
}

/// The CONNACK that refuses a CONNECT, as its version has it: MQTT is not spoken here (3.1.2.2).
fn connack(packet: &[u8], text: &str) -> Vec<u8> {
    let Some(frame) = Frame::of(packet) else { return Vec::new() };
    let version = match Connect::decode(&frame) {
        Ok(connect) => connect.version,
        Err(error) => match (error.answer(), error.version) {
            (Answer::ConnAck(version, _), _) | (_, Some(version)) => version,
            _ => return Vec::new(),
        },
    };
    let mut properties = PropertyBuf::new();
    if version == Version::V5 {
        // A text that is too long is left out.
        let _ = properties.push(Property::ReasonString(text));
    }
    let place = Place::Packet(PacketType::ConnAck);
    let properties = properties.for_place(place, Sender::Server).unwrap_or(Properties::EMPTY);
    let reason = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
    let packet = Packet::ConnAck(ConnAck { session_present: false, reason, properties });
    packet.to_bytes(version).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_recognised_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"{\"auth\":{}}"[..], Some(Foreign::Jmqt)),
            (b"\x10", Some(Foreign::Mqtt)),
            (b"GET / HTTP/1.1\r\n", Some(Foreign::Http)),
            (b"\x16\x03\x01\x02\x00", Some(Foreign::Tls)),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", Some(Foreign::ProxyHeader)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21", Some(Foreign::ProxyHeader)),
            (b"\xc0\0", None),
            (b"GE", None),
            (b"", None),
        ] {
            assert_eq!(Foreign::of(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_connect_is_refused_in_its_version() {
        let of = |connect: &[u8]| Foreign::Mqtt.answer(connect, "no");
        assert_eq!(of(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0").unwrap(), b"\x20\x02\0\x01");
        assert_eq!(of(b"\x10\x0e\0\x06MQIsdp\x03\x02\0\x3c\0\0").unwrap(), b"\x20\x02\0\x01");
        assert_eq!(of(b"\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0\0").unwrap(), b"\x20\x08\0\x84\x05\x1f\0\x02no");
        assert_eq!(of(b"\x10\x0d\0\x04MQTT\x05\x02\0\x3c\0\0"), None, "incomplete");
        assert_eq!(of(b"\x10\x02\0\0").unwrap(), b"", "not MQTT");
        assert_eq!(of(b"\x10\xff\xff\xff\xff").unwrap(), b"", "no length");
    }

    #[test]
    fn the_advice_names_the_keys() {
        for (foreign, port, is_encrypted, keys) in [
            (Foreign::Mqtt, Protocol::Socket, false, &[" MQTT_PORT", "MQTT_ON_JMQT_PORTS"][..]),
            (Foreign::Mqtt, Protocol::SslSocket, true, &["SSL_MQTT_PORT", "MQTT_ON_JMQT_PORTS"]),
            (Foreign::Mqtt, Protocol::SslMqtt, false, &["must use TLS", " MQTT_PORT"]),
            (Foreign::Mqtt, Protocol::MqttWebSocket, false, &[" MQTT_PORT"]),
            (
                Foreign::MqttWebSocket,
                Protocol::SslWebSocket,
                true,
                &["SSL_MQTT_WEBSOCKET_PORT", "MQTT_ON_JMQT"],
            ),
            (Foreign::Jmqt, Protocol::Mqtt, false, &[" SOCKET_PORT"]),
            (Foreign::Jmqt, Protocol::SslSocket, false, &["must use TLS", " SOCKET_PORT"]),
            (Foreign::Jmqt, Protocol::SslMqtt, true, &["SSL_SOCKET_PORT"]),
            (Foreign::Http, Protocol::Mqtt, false, &[" MQTT_WEBSOCKET_PORT"]),
            (Foreign::Http, Protocol::SslWebSocket, false, &["must use TLS", " WEBSOCKET_PORT"]),
            (Foreign::Tls, Protocol::Mqtt, false, &["SSL_MQTT_PORT"]),
            (Foreign::Tls, Protocol::WebSocket, false, &["SSL_WEBSOCKET_PORT"]),
            (Foreign::ProxyHeader, Protocol::SslMqtt, false, &["TRUSTED_PROXIES"]),
        ] {
            let advice = foreign.advice(port, is_encrypted);
            assert!(keys.iter().all(|key| advice.contains(key)), "{foreign} at {port}: {advice}");
        }
    }
}
