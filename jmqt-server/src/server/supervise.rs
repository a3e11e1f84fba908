//! Supervises essential tasks. If one of them panics, or returns before the server stops, the server
//! stops: without the task it would appear alive, but acknowledge or deliver nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::connection::CloseReason;
use crate::context::Shared;
use crate::validators::poll_contained;

/// Runs an essential task, which may return after `stop` is cancelled. `stop_listening` stops the listeners of the server.
pub(super) fn supervise(
    name: &'static str,
    shared: &Arc<Shared>,
    stop_listening: &CancellationToken,
    stop: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(supervised(name, Arc::clone(shared), stop_listening.clone(), stop.clone(), task))
}

/// As [`supervise`], but returns a future for the caller to spawn.
pub(super) async fn supervised(
    name: &'static str,
    shared: Arc<Shared>,
    stop_listening: CancellationToken,
    stop: CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let mut task = pin!(Some(task));
    let failure = match poll_fn(|cx| poll_contained(task.as_mut(), cx)).await {
        Ok(()) if stop.is_cancelled() => return,
        Ok(()) => "the task ended before the server stopped".into(),
        Err(panic) => panic,
    };
    stop_listening.cancel();
    fail(&shared, name, &failure);
}

/// Handles a failed task: closes connections, and reports the failure to the owner of the server.
pub(super) fn fail(shared: &Shared, task: &'static str, message: &str) {
    tracing::error!(target: "jmqt::server", task, message, "a task of the server failed; stopping the server");
    shared.failed.cancel();
    shared.admission.closing.cancel();
    for (_, outbox) in shared.admission.numbered_outboxes() {
        outbox.close(CloseReason::ServerError);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::super::{Deliverer, Server};
    use super::*;
    use crate::counters::Counters;
    use crate::hub::Tag;
    use crate::store::{CommitQueue, Order};
    use crate::{AllowAll, Config, DenyAll, Protocol, Silent};

    /// A server and one client.
    struct Started {
        _folder: tempfile::TempDir,
        server: Server,
        client: TcpStream,
    }

    impl Started {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let config = Config {
                bind_address: [127, 0, 0, 1].into(),
                socket_port: Some(0),
                websocket_port: None,
                sqlite_path: folder.path().join("jmqt.db"),
                ..Config::default()
            };
            let builder = Server::builder(config)
                .validate_auth(DenyAll)
                .validate_conn(AllowAll)
                .validate_sub(AllowAll)
                .validate_pub(AllowAll);
            let builder = builder
                .validate_unsub(AllowAll)
                .handle_control(DenyAll)
                .on_disconnect(Silent)
                .on_close(Silent);
            let server = builder.start().await.unwrap();
            let address = server.local_addr(Protocol::Socket).unwrap();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"{\"conn\":{\"at\":\"\",\"cl\":\"a\"}}\0").await.unwrap();
            client.read_exact(&mut [0; 10]).await.unwrap();
            Self { _folder: folder, server, client }
        }

        fn supervise(&self, stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
            let Server { shared, stop_listening, .. } = &self.server;
            drop(supervise("test", shared, stop_listening, stop, task));
        }

        async fn ends_with_an_error(mut self) {
            let ended = timeout(Duration::from_secs(60), self.server.run_until_signal()).await.unwrap();
            assert!(ended.unwrap_err().to_string().contains("a task of the server failed"));
            let mut told = String::new();
            self.client.read_to_string(&mut told).await.unwrap();
            assert!(told.contains(r#"{"disconn":{"st":4005,"mg":"the server failed"}}"#), "{told}");
        }
    }

    #[tokio::test]
    async fn a_server_stops_with_an_error_when_an_essential_task_panics() {
        let started = Started::new().await;
        started.supervise(&CancellationToken::new(), async { panic!("as the test wants it") });
        started.ends_with_an_error().await;
    }

    #[tokio::test]
    async fn a_server_stops_with_an_error_when_an_essential_task_returns_too_early() {
        let started = Started::new().await;
        started.supervise(&CancellationToken::new(), async {});
        started.ends_with_an_error().await;
    }

    #[tokio::test]
    async fn the_end_of_the_committer_or_of_the_deliverer_stops_the_server() {
        for without_deliverer in [true, false] {
            let started = Started::new().await;
            let Server { shared, store, .. } = &started.server;
            let (queue, committer, batches) =
                CommitQueue::new(Arc::clone(store), Arc::new(Counters::default()));
            let stop = queue.closed();
            if without_deliverer {
                drop(batches);
                started.supervise(&stop, committer.run());
                assert!(queue.submit(Order::AfterAll, None, Tag::Nobody).await.is_ok());
            } else {
                drop(committer);
                started.supervise(&stop, Deliverer::new(Arc::clone(&shared.hub), batches, None).run());
            }
            started.ends_with_an_error().await;
        }
    }

    #[tokio::test]
    async fn every_task_of_a_stopping_server_ends_without_an_error() {
        let Started { _folder, server, .. } = Started::new().await;
        let failed = server.shared.failed.clone();
        server.shutdown().await;
        assert!(!failed.is_cancelled());
    }
}
