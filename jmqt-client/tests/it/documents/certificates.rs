//! The commands of certificates.md make certificates that a server and clients can use.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{Snippet, in_language};
use crate::support::{TestServer, within};
use jmqt_client::{Client, Config};
use jmqt_server::Protocol;
use jmqt_server::config::SslConfig;

/// Runs a block as it is written, in this folder. `8011` and `8883` are the server's ports, for JMQT and for MQTT.
fn run(snippet: &Snippet, folder: &Path, [jmqt, mqtt]: [u16; 2]) -> Output {
    let text = snippet.text.replace("localhost:8011", &format!("localhost:{jmqt}"));
    let script = format!("set -e\n{}", text.replace("-p 8883", &format!("-p {mqtt}")));
    let bash = Command::new("bash").args(["-c", &script]).current_dir(folder).stdin(Stdio::null()).output();
    bash.unwrap()
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_certificates_make_some_that_server_and_clients_take() {
    let snippets: Vec<_> =
        in_language("sh").into_iter().filter(|snippet| snippet.file == "certificates.md").collect();
    let folder = tempfile::tempdir().unwrap();
    let certs = folder.path().join("certs");
    let (to_make, to_check): (Vec<_>, Vec<_>) = snippets
        .iter()
        .partition(|snippet| !["s_client", "mosquitto_pub"].iter().any(|it| snippet.text.contains(it)));
    for (index, snippet) in to_make.iter().enumerate() {
        let here = if index == 0 { folder.path() } else { &*certs };
        let output = run(snippet, here, [0, 0]);
        assert!(output.status.success(), "{}: {}", snippet.place(), text(&output));
        assert!(
            !snippet.text.contains("openssl verify") || text(&output).contains(": OK"),
            "{}",
            text(&output)
        );
    }

    let mut server = TestServer::start().await;
    let ssl = |certs: &Path| {
        let mut ssl = SslConfig::new(certs.join("server.crt"), certs.join("server.key"));
        (ssl.socket_port, ssl.websocket_port, ssl.mqtt_port) = (Some(0), Some(0), Some(0));
        ssl
    };
    server.restart_with(|config| config.ssl = Some(ssl(&certs))).await;
    let port = server.address(Protocol::SslSocket).port();
    let ports = [port, server.address(Protocol::SslMqtt).port()];
    let has_mosquitto = Command::new("mosquitto_pub").arg("--help").output().is_ok();
    for snippet in &to_check {
        let (certs, place) = (certs.clone(), snippet.place());
        let output = tokio::task::block_in_place(|| run(snippet, &certs, ports));
        let said = text(&output);
        match () {
            // It is in the package mosquitto-clients.
            () if snippet.text.contains("mosquitto_pub") && !has_mosquitto => {}
            () if snippet.text.contains("mosquitto_pub") => {
                assert!(output.status.success(), "{place}: {said}")
            }
            () if snippet.text.contains("printf") => assert!(said.contains("authAck"), "{place}: {said}"),
            () if snippet.text.contains("-CAfile") => {
                assert!(output.status.success(), "{place}: {said}");
                assert_eq!(said.matches("Verification: OK").count(), 2, "{place}: {said}");
            }
            () => assert!(said.contains("certificate verify failed"), "{place}: {said}"),
        }
    }
    assert_eq!((to_make.len(), to_check.len()), (7, 4));

    let mut config = Config::url(&format!("jmqts://localhost:{port}")).unwrap();
    config = config.auth(r#"{"client_name":"alice"}"#).unwrap();
    config.tls.ca_path = Some(certs.join("ca.crt"));
    within("a session", Client::connect(config)).await.unwrap().close().await;
}
