//! A TCP proxy in front of a database, which cuts a connection at its COMMIT.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

/// What happens to the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// It goes through, and so does its answer.
    Not = 0,
    /// It does not reach the server.
    Before = 1,
    /// It reaches the server, and its answer does not come back.
    After = 2,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

struct State {
    cut: AtomicU8,
    cuts: AtomicU32,
}

impl Proxy {
    pub(crate) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { cut: AtomicU8::new(0), cuts: AtomicU32::new(0) });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(forward(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, state, accepting }
    }

    /// Says what happens to the next COMMIT.
    pub(crate) fn cut(&self, cut: Cut) {
        self.state.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// How many connections have been cut.
    pub(crate) fn cuts(&self) -> u32 {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Takes no more connections.
    pub(crate) fn stop(&self) {
        self.accepting.abort();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn forward(client: TcpStream, server: TcpStream, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..length];
        let cut = state.cut.load(Ordering::SeqCst);
        // One packet of its own: 3 bytes of length, a number, COM_QUERY, the text.
        if cut != Cut::Not as u8 && sent.ends_with(b"\x03COMMIT") {
            state.cut.store(Cut::Not as u8, Ordering::SeqCst);
            back.abort(); // and with it goes the way back to the client
            let _ = back.await;
            if cut == Cut::After as u8 {
                to_server.write_all(sent).await.unwrap();
            }
            state.cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to_server.write_all(sent).await.is_err() {
            return;
        }
    }
    let _ = to_server.shutdown().await;
}
