//! Bytes that are not TLS, or handshakes that stop half way: others are served, and the timeout closes such connections (§10,
//! protocol.md 2.15).

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Bystanders, Client, MIB, Process, is_closed};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DEFAULT_VERSIONS, RootCertStore, StreamOwned, SupportedProtocolVersion,
    version,
};

const TIMEOUT: Duration = Duration::from_secs(5);

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A server with all four listeners, and its certificate.
struct TlsProcess {
    process: Process,
    certificate: CertificateDer<'static>,
    _folder: TempDir,
}

impl TlsProcess {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let settings = [
            ("JMQT_ENABLE_SSL", "true"),
            ("JMQT_SSL_CERT_PATH", &write("cert.pem", made.cert.pem())),
            ("JMQT_SSL_KEY_PATH", &write("key.pem", made.signing_key.serialize_pem())),
            ("JMQT_SSL_SOCKET_PORT", "0"),
            ("JMQT_SSL_WEBSOCKET_PORT", "0"),
            ("JMQT_TIMEOUT_SECONDS", "5"),
        ];
        let process = Process::start(&folder.path().join("jmqt.db"), &settings);
        Self { process, certificate: made.cert.der().clone(), _folder: folder }
    }

    /// The client's side of a handshake that has not begun.
    fn handshake(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    /// What a client of this version says first.
    fn hello(&self, version: &'static SupportedProtocolVersion) -> Vec<u8> {
        let mut hello = Vec::new();
        self.handshake(&[version]).write_tls(&mut hello).unwrap();
        hello
    }

    /// Clients over TLS that must not be disturbed.
    fn bystanders(&self) -> Bystanders<Tls> {
        Bystanders::over(|| {
            let stream = Client::open(self.process.tls[0]).stream;
            Client::over(StreamOwned::new(self.handshake(DEFAULT_VERSIONS), stream))
        })
    }
}

#[test] // §10
fn garbage_instead_of_a_client_hello_affects_no_other_client() {
    let server = TlsProcess::start();
    let mut bystanders = server.bystanders();
    bystanders.exchange();
    let before = server.process.resident();
    let hello = server.hello(&version::TLS13);
    let mut bent = hello.clone();
    for byte in &mut bent[40..] {
        *byte ^= 0x5A;
    }
    let garbage: [&[u8]; 8] = [
        b"{\"conn\":{\"at\":\"hello\",\"cl\":\"x\"}}\0", // a client that forgot about TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0; 70_000],
        &[0xFF; 70_000],
        &[[0x16, 3, 1, 0xFF, 0xFF].as_slice(), &[1; 70_000]].concat(), // a record longer than any
        &[[0x16, 3, 1, 0x40, 0].as_slice(), &[1; 0x4000]].concat(), // a hello that would be 64 KiB and more
        &[0x15, 3, 1, 0, 2, 2, 40],                                 // an alert
        &bent,
    ];
    for _ in 0..5 {
        for address in &server.process.tls {
            for garbage in garbage {
                let mut stream = Client::open(*address).stream;
                let _ = stream.write_all(garbage); // it may be closed before all is sent
                assert!(is_closed(&mut stream));
            }
        }
        bystanders.exchange();
    }
    // And with the other kind of record once the handshake is under way.
    let mut stream = Client::open(server.process.tls[0]).stream;
    stream.write_all(&hello).unwrap();
    stream.write_all(&[b'x'; 1000]).unwrap();
    assert!(is_closed(&mut stream));
    bystanders.exchange();
    let grown = server.process.resident().saturating_sub(before);
    assert!(grown < 8 * MIB, "it grew by {grown} bytes");
}

/// A connection on which a handshake has come to a halt, and when it was made.
struct Half {
    what: &'static str,
    stream: TcpStream,
    since: Instant,
}

impl Half {
    fn begin(address: SocketAddr, what: &'static str, bytes: &[u8]) -> Self {
        let since = Instant::now();
        let mut stream = Client::open(address).stream;
        stream.write_all(bytes).unwrap();
        Self { what, stream, since }
    }
}

#[test] // protocol.md 2.15: TIMEOUT_SECONDS from accept, the handshake included
fn half_a_handshake_is_closed_by_the_timeout_and_affects_no_other_client() {
    let server = TlsProcess::start();
    let mut bystanders = server.bystanders();
    let (new, old) = (server.hello(&version::TLS13), server.hello(&version::TLS12));
    let mut halves = Vec::new();
    for _ in 0..20 {
        for address in &server.process.tls {
            halves.push(Half::begin(*address, "nothing", b""));
            halves.push(Half::begin(*address, "the head of a record", &new[..5]));
            halves.push(Half::begin(*address, "half a hello", &new[..new.len() / 2]));
            halves.push(Half::begin(*address, "a hello, TLS 1.3", &new));
            halves.push(Half::begin(*address, "a hello, TLS 1.2", &old));
        }
    }
    bystanders.exchange();
    let open = AtomicUsize::new(halves.len());
    thread::scope(|scope| {
        let open = &open;
        scope.spawn(move || {
            for Half { what, mut stream, since } in halves {
                assert!(is_closed(&mut stream), "{what}");
                let waited = since.elapsed();
                assert!(waited >= TIMEOUT, "{what}: closed after {waited:?}");
                open.fetch_sub(1, Ordering::Relaxed);
            }
        });
        // One more, which goes on for ever with a record that never ends.
        let mut dribble = Half::begin(server.process.tls[0], "a dribble", &[0x16, 3, 1, 0x3F, 0xFF]);
        while dribble.stream.write_all(&[1]).is_ok() {
            let waited = dribble.since.elapsed();
            assert!(waited < 4 * TIMEOUT, "the dribble keeps it open");
            bystanders.exchange();
            thread::sleep(Duration::from_millis(50)); // the pace of the dribble
        }
        assert!(dribble.since.elapsed() >= TIMEOUT);
    });
    assert_eq!(open.into_inner(), 0);
    bystanders.exchange();
    server.bystanders().exchange(); // newcomers are welcome, too
}
