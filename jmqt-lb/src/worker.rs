//! The threads that forward: each has a runtime of its own, so that a connection never changes threads
//! and waking it costs no system call.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use tokio::runtime;
use tokio::sync::mpsc;

use crate::connection;
use crate::gate::{Gate, Place};
use crate::mapping::Mapping;

/// Connections that may wait for one thread to take them.
const QUEUE: usize = 1024;

/// An accepted connection.
pub(crate) struct Job {
    pub(crate) stream: TcpStream,
    pub(crate) client: SocketAddr,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) buffer_size: Arc<AtomicUsize>,
    /// In all gates it counts for.
    pub(crate) places: [Place; 2],
}

/// All threads. Dropping it ends what still runs.
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    jobs: Option<mpsc::Sender<(Job, Place)>>,
    live: Arc<Gate>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts that many threads; 0 for one per processor.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left.
    pub(crate) fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        };
        (0..threads).map(Worker::start).collect::<io::Result<_>>().map(Self)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Gives the connection to the thread with the fewest; waits if that one is behind.
    pub(crate) async fn take(&self, job: Job) {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.live.inside()) else { return };
        if let Some(jobs) = &worker.jobs {
            let place = worker.live.enter();
            // It fails only if the thread has ended, and then the connection is closed.
            let _ = jobs.send((job, place)).await;
        }
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (jobs, mut queue) = mpsc::channel::<(Job, Place)>(QUEUE);
        let thread = std::thread::Builder::new().name(format!("forward-{number}")).spawn(move || {
            runtime.block_on(async {
                while let Some((job, place)) = queue.recv().await {
                    tokio::spawn(async move {
                        connection::serve(job).await;
                        drop(place);
                    });
                }
            });
            // The runtime goes, and with it every connection that is left.
        })?;
        Ok(Self { jobs: Some(jobs), live: Gate::new(usize::MAX), thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        // It does not wait for anything but its queue, so it ends at once.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
