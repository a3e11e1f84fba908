//! The server under test: `hello_server`, configured through its environment.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use test_support::command;

use super::process::{Process, free_addresses};
use super::{Listener, Places};
use crate::swarm::Endpoint;
use crate::wire;

const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// Starts it with all listeners the run may need, its database in the temporary folder, no limit of retained messages of
/// one client, everything else at its default: QoS 1 is fsynced.
pub(crate) fn start(places: &Places, listener: Listener) -> Result<(Process, Endpoint)> {
    let folder = tempfile::tempdir_in(&places.scratch)?;
    let [socket, websocket, tls_socket, tls_websocket, mqtt] = free_addresses()?;
    let config = folder.path().join("server.conf");
    fs::write(&config, "")?;
    let mut command = command(&places.hello_server);
    command
        .arg("--config")
        .arg(&config)
        .env("JMQT_SOCKET_PORT", socket.port().to_string())
        .env("JMQT_WEBSOCKET_PORT", websocket.port().to_string())
        .env("JMQT_SQLITE_PATH", folder.path().join("jmqt.db"))
        // One client publishes the 100,000 retained messages of a row.
        .env("JMQT_MAX_RETAINED_PER_CLIENT", "0")
        .env("JMQT_LOG_MODE", "ERR");
    let (address, tls) = match listener {
        Listener::Socket => (socket, None),
        Listener::WebSocket => (websocket, None),
        Listener::Mqtt => {
            command.env("JMQT_MQTT_PORT", mqtt.port().to_string());
            (mqtt, None)
        }
        Listener::TlsSocket => {
            make_certificate(folder.path())?;
            command
                .env("JMQT_ENABLE_SSL", "true")
                .env("JMQT_SSL_SOCKET_PORT", tls_socket.port().to_string())
                .env("JMQT_SSL_WEBSOCKET_PORT", tls_websocket.port().to_string())
                .env("JMQT_SSL_CERT_PATH", folder.path().join(CERTIFICATE))
                .env("JMQT_SSL_KEY_PATH", folder.path().join(KEY));
            let certificate = fs::read(folder.path().join(CERTIFICATE))?;
            (tls_socket, Some(wire::trusting(&certificate)?))
        }
    };
    let process = Process::start(&mut command, folder, address)?;
    Ok((process, Endpoint { address, tls }))
}

/// A self-signed certificate for `localhost`, which the clients trust and nobody else needs to.
fn make_certificate(folder: &Path) -> Result<()> {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-keyout", KEY, "-out", CERTIFICATE])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(folder)
        .output()?;
    if !output.status.success() {
        bail!("openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
