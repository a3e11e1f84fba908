//! The configuration of TLS: certificate, key and ports.

use std::path::PathBuf;

use super::ClientCertificates;

/// The TLS listeners.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SslConfig {
    /// The certificate chain, PEM.
    pub cert_path: PathBuf,
    /// The private key, PEM.
    pub key_path: PathBuf,
    /// The certificates that clients are asked for, on all TLS listeners. Default [`ClientCertificates::None`].
    pub client_certificates: ClientCertificates,
    /// The TLS socket's port; 0 for any free one, `None` for no such listener. Default 8011.
    pub socket_port: Option<u16>,
    /// The TLS WebSocket's port; 0 for any free one, `None` for no such listener. Default 8013.
    pub websocket_port: Option<u16>,
    /// The port for MQTT over TLS, usually 8883; 0 for any free one. Default `None`: no such listener.
    pub mqtt_port: Option<u16>,
    /// The port for MQTT over WebSocket and TLS, usually 8084; 0 for any free one. Default `None`: no such listener.
    pub mqtt_websocket_port: Option<u16>,
}

impl SslConfig {
    /// TLS with these files, on the default ports.
    #[must_use]
    pub fn new(cert_path: impl Into<PathBuf>, key_path: impl Into<PathBuf>) -> Self {
        Self {
            cert_path: cert_path.into(),
            key_path: key_path.into(),
            client_certificates: ClientCertificates::None,
            socket_port: Some(8011),
            websocket_port: Some(8013),
            mqtt_port: None,
            mqtt_websocket_port: None,
        }
    }
}
