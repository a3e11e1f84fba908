//! A proxy that disturbs connections: it cuts them at any byte, stalls, delays and corrupts them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What happens to the bytes of one connection, in one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// The connection is cut behind this many bytes, whatever they are in the middle of.
    pub cut_after: Option<usize>,
    /// This byte becomes another one.
    pub corrupt_at: Option<usize>,
    /// Every piece comes so much later.
    pub delay: Duration,
}

type Plan = dyn Fn(usize) -> (Faults, Faults) + Send + Sync;

/// Stands between clients and a server. Ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    plan: Mutex<Arc<Plan>>,
    connections: AtomicUsize,
    cuts: AtomicUsize,
    /// Raised to cut every connection there is.
    generation: watch::Sender<usize>,
    stalled: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            plan: Mutex::new(Arc::new(|_| (Faults::default(), Faults::default()))),
            connections: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            generation: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
        });
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// The URL for clients, over TCP or whatever the scheme says.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// New connections go there.
    pub fn set_target(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// What happens to new connections, by their number from 0 on: to what the client says, to what it hears.
    pub fn plan(&self, plan: impl Fn(usize) -> (Faults, Faults) + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap() = Arc::new(plan);
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }

    /// Lets nothing pass, or everything again.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections were cut by the plan.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let target = *shared.target.lock().unwrap();
            // Nobody there: the client's connection is closed.
            let Ok(server) = TcpStream::connect(target).await else { return };
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let number = shared.connections.fetch_add(1, Ordering::SeqCst);
            let (up, down) = Arc::clone(&*shared.plan.lock().unwrap())(number);
            let (mut generation, present) = {
                let generation = shared.generation.subscribe();
                let present = *generation.borrow();
                (generation, present)
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pass(from_client, to_server, up, &shared) => {}
                () = pass(from_server, to_client, down, &shared) => {}
                _ = generation.wait_for(|now| *now != present) => {}
            }
        });
    }
}

/// Returns when the connection is to be cut, in both directions.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: Faults, shared: &Shared) {
    let mut stalled = shared.stalled.subscribe();
    let mut passed = 0;
    let mut piece = vec![0; 16 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else { return };
        if stalled.wait_for(|stalled| !*stalled).await.is_err() {
            return;
        }
        if !faults.delay.is_zero() {
            tokio::time::sleep(faults.delay).await;
        }
        let left = faults.cut_after.map_or(length, |limit| (limit - passed).min(length));
        if let Some(at) = faults.corrupt_at.and_then(|at| at.checked_sub(passed)).filter(|at| *at < left) {
            piece[at] ^= 0x55;
        }
        if to.write_all(&piece[..left]).await.is_err() {
            return;
        }
        passed += left;
        if faults.cut_after == Some(passed) {
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}
