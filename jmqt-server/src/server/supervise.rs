//! Tasks that a server cannot do without. If one of them panics, the server ends: going on without it would
//! acknowledge nothing, or deliver nothing, and look alive.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::validators::{CloseReason, poll_contained};

/// Runs such a task. `stop_listening` stops the listeners of its server.
pub(super) fn supervise(
    name: &'static str,
    shared: &Arc<Shared>,
    stop_listening: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let (shared, stop_listening) = (Arc::clone(shared), stop_listening.clone());
    tokio::spawn(async move {
        let mut task = pin!(Some(task));
        if let Err(message) = poll_fn(|cx| poll_contained(task.as_mut(), cx)).await {
            stop_listening.cancel();
            shared.fail(name, &message);
        }
    })
}

impl Shared {
    /// The server cannot go on: connections are closed, and whoever runs the server is told.
    pub(crate) fn fail(&self, task: &'static str, message: &str) {
        tracing::error!(target: "jmqt::server", task, message, "a task of the server failed; the server ends");
        self.failed.cancel();
        self.closing.cancel();
        for (_, outbox) in self.numbered_outboxes() {
            outbox.close(CloseReason::ServerError);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;
    use crate::{AllowAll, Config, DenyAll, Protocol, Server, Silent};

    #[tokio::test]
    async fn a_server_ends_with_an_error_when_a_task_of_its_own_panics() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            socket_port: Some(0),
            websocket_port: None,
            sqlite_path: folder.path().join("jmqt.db"),
            ..Config::default()
        };
        let builder = Server::builder(config).auth(DenyAll).conn(AllowAll).sub(AllowAll).publish(AllowAll);
        let builder = builder.unsub(AllowAll).control(DenyAll).disconnect(Silent).close(Silent);
        let server = builder.start().await.unwrap();
        let mut client = TcpStream::connect(server.local_addr(Protocol::Socket).unwrap()).await.unwrap();
        client.write_all(b"{\"conn\":{\"at\":\"\",\"cl\":\"a\"}}\0").await.unwrap();
        client.read_exact(&mut [0; 10]).await.unwrap();
        let stop_listening = server.stop_listening.clone();
        drop(supervise("test", &server.shared, &stop_listening, async { panic!("as the test wants it") }));
        let ended = timeout(Duration::from_secs(60), server.run_until_signal()).await.unwrap();
        assert!(ended.unwrap_err().to_string().contains("a task of the server failed"));
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert!(told.contains(r#"{"disconn":{"st":4005,"mg":"the server failed"}}"#), "{told}");
    }
}
