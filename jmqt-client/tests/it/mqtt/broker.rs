//! A private Mosquitto: the one that JMQT_TEST_MOSQUITTO names, or the one that is installed. `scripts/with-databases`
//! installs it where it is missing.

use std::net::TcpListener;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::within;

/// It ends when it is dropped.
pub(super) struct Broker {
    child: Child,
    folder: TempDir,
    program: PathBuf,
    ports: [u16; 4],
}

/// The transports, in the order of the ports.
pub(super) const SCHEMES: [&str; 4] = ["mqtt", "mqtts", "mqtt+ws", "mqtt+wss"];

impl Broker {
    /// `None`, with a message, where there is no Mosquitto. `more` is added to its configuration.
    pub(super) async fn start(more: &str) -> Option<Self> {
        let named = std::env::var_os("JMQT_TEST_MOSQUITTO").map(PathBuf::from);
        let usual = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].map(PathBuf::from);
        let Some(program) = named.or_else(|| usual.into_iter().find(|path| path.is_file())) else {
            eprintln!("left out: there is no Mosquitto; JMQT_TEST_MOSQUITTO names it");
            return None;
        };
        let folder = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = authority.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate().unwrap();
        let server =
            CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.path().join("server.pem"), server.pem()).unwrap();
        std::fs::write(folder.path().join("server.key"), key.serialize_pem()).unwrap();
        let taken = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = taken.each_ref().map(|listener| listener.local_addr().unwrap().port());
        let path = folder.path().display();
        let tls = format!("certfile {path}/server.pem\nkeyfile {path}/server.key\n");
        let [tcp, ssl, ws, wss] = ports;
        let configuration = format!(
            "user root\nallow_anonymous true\npersistence true\npersistence_location {path}/\n{more}\n\
             listener {tcp} 127.0.0.1\nlistener {ssl} 127.0.0.1\n{tls}listener {ws} 127.0.0.1\nprotocol websockets\n\
             listener {wss} 127.0.0.1\nprotocol websockets\n{tls}"
        );
        std::fs::write(folder.path().join("mosquitto.conf"), configuration).unwrap();
        drop(taken);
        let mut broker = Self { child: spawn(&program, &folder), folder, program, ports };
        broker.listens().await;
        Some(broker)
    }

    async fn listens(&mut self) {
        within("the start of Mosquitto", async {
            for port in self.ports {
                while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                    assert!(self.child.try_wait().unwrap().is_none(), "Mosquitto has ended");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        })
        .await;
    }

    pub(super) fn url(&self, scheme: &str) -> String {
        let at = SCHEMES.iter().position(|known| *known == scheme).unwrap();
        format!("{scheme}://localhost:{}", self.ports[at])
    }

    /// The address of the plain port.
    pub(super) fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.ports[0]).into()
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Ends it without a word, and starts it again with what it had on disk.
    pub(super) async fn restart(&mut self) {
        self.child.kill().await.unwrap();
        self.child = spawn(&self.program, &self.folder);
        self.listens().await;
    }
}

fn spawn(program: &PathBuf, folder: &TempDir) -> Child {
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.path().join("mosquitto.conf"));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.kill_on_drop(true).spawn().unwrap()
}
