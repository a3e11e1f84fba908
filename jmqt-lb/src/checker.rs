//! Active health checks: now and then a connection to every backend of a mapping.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::{ProxyProtocol, Rules};
use crate::connection::Fault;
use crate::mapping::Mapping;
use crate::proxy;

/// Checks until it is aborted.
pub(crate) async fn run(mapping: Arc<Mapping>) {
    loop {
        let config = mapping.config();
        let interval = config.rules.check_interval;
        if interval.is_zero() {
            mapping.set.unchecked();
            mapping.reconfigured.notified().await;
            continue;
        }
        round(&mapping, &config.rules).await;
        if !Arc::ptr_eq(&config, &mapping.config()) {
            continue; // replaced meanwhile
        }
        tokio::select! {
            () = sleep(interval) => {}
            () = mapping.reconfigured.notified() => {}
        }
    }
}

/// Checks all backends at once, which takes no longer than the time limit of one.
async fn round(mapping: &Arc<Mapping>, rules: &Rules) {
    let mut checks = JoinSet::new();
    for backend in mapping.set.backends() {
        let (limit, protocol) = (rules.check_timeout, rules.proxy_protocol);
        checks.spawn(async move {
            let result = check(backend.address, limit, protocol).await;
            (backend, result)
        });
    }
    while let Some(done) = checks.join_next().await {
        let Ok((backend, result)) = done else { continue };
        // A machine that has no file for a check knows nothing of the backend.
        if !result.as_ref().is_err_and(|error| Fault::of(error) == Fault::Machine) {
            mapping.set.checked(&backend, result.map_err(|error| error.to_string()), rules);
        }
    }
}

/// A backend is fit if it takes a connection. One that expects PROXY headers gets one that says that no
/// client is behind it.
async fn check(address: std::net::SocketAddr, limit: Duration, protocol: ProxyProtocol) -> io::Result<()> {
    let stream = timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(ErrorKind::TimedOut, "no answer within the time limit"))??;
    if protocol == ProxyProtocol::V2 {
        stream.try_write(&proxy::local_header())?;
    }
    Ok(())
}
