//! A TCP proxy in front of a database, which cuts a connection at its COMMIT, or lets nothing through.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The fate of the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// It goes through, and so does its answer.
    Not = 0,
    /// It does not reach the server.
    Before = 1,
    /// It reaches the server, and its answer does not come back.
    After = 2,
    /// Neither it nor anything after it reaches the server, and nobody is told.
    Silent = 3,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Everything.
    On,
    /// Nothing, and nobody is told.
    Silent,
    /// Nothing: those that were connected have been hung up on, and those that connect hear nothing.
    Parted,
}

struct State {
    cut: AtomicU8,
    cuts: AtomicU32,
    /// Only connections that have sent this are cut.
    marked_by: Mutex<Vec<u8>>,
    flow: watch::Sender<Flow>,
}

impl Proxy {
    pub(crate) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = (AtomicU8::new(0), AtomicU32::new(0));
        let (marked_by, flow) = (Mutex::default(), watch::Sender::new(Flow::On));
        let state = Arc::new(State { cut, cuts, marked_by, flow });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(forward(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, state, accepting }
    }

    /// Sets the fate of the next COMMIT.
    pub(crate) fn cut(&self, cut: Cut) {
        self.state.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// Sets the fate of the next COMMIT on a connection that has sent this text before.
    pub(crate) fn cut_behind(&self, text: &str, cut: Cut) {
        *self.state.marked_by.lock().unwrap() = text.into();
        self.cut(cut);
    }

    /// How many connections have been cut.
    pub(crate) fn cuts(&self) -> u32 {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// Forwards nothing from now on, in both directions, without closing connections, like a lost network.
    pub(crate) fn swallow(&self) {
        self.state.flow.send_replace(Flow::Silent);
    }

    /// Closes all connections, and forwards nothing for new ones.
    pub(crate) fn part(&self) {
        self.state.flow.send_replace(Flow::Parted);
    }

    /// Forwards everything again for new connections, and closes those that were made meanwhile.
    pub(crate) fn restore(&self) {
        self.state.flow.send_replace(Flow::On);
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

fn contains(sent: &[u8], text: &[u8]) -> bool {
    text.is_empty() || sent.windows(text.len()).any(|some| some == text)
}

async fn until(flow: &mut watch::Receiver<Flow>, is_so: impl Fn(Flow) -> bool) {
    let _ = flow.wait_for(|flow| is_so(*flow)).await;
}

async fn forward(client: TcpStream, server: TcpStream, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut flow = state.flow.subscribe();
    let was_parted = *flow.borrow() == Flow::Parted;
    let mut flow_back = flow.clone();
    let back = tokio::spawn(async move {
        let is_over = tokio::select! {
            biased;
            () = until(&mut flow_back, |flow| flow != Flow::On) => false,
            _ = copy(&mut from_server, &mut to_client) => true,
        };
        if !is_over {
            std::future::pending::<()>().await; // nobody is told
        }
    });
    let mut buffer = vec![0; 1 << 16];
    let mut is_marked = false;
    loop {
        let read = tokio::select! {
            biased;
            () = until(&mut flow, |flow| flow == if was_parted { Flow::On } else { Flow::Parted }) => {
                back.abort();
                return;
            }
            read = from_client.read(&mut buffer) => read,
        };
        let Ok(length @ 1..) = read else { break };
        if *state.flow.borrow() != Flow::On {
            continue;
        }
        let sent = &buffer[..length];
        is_marked |= contains(sent, &state.marked_by.lock().unwrap());
        let cut = if is_marked { state.cut.load(Ordering::SeqCst) } else { Cut::Not as u8 };
        // One packet of its own: 3 bytes of length, a number, COM_QUERY, the text.
        if cut != Cut::Not as u8 && sent.ends_with(b"\x03COMMIT") {
            state.cut.store(Cut::Not as u8, Ordering::SeqCst);
            if cut == Cut::Silent as u8 {
                state.flow.send_replace(Flow::Silent);
                state.cuts.fetch_add(1, Ordering::SeqCst);
                continue;
            }
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
    if *state.flow.borrow() != Flow::On {
        back.abort();
    }
}
