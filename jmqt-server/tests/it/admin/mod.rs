//! The HTTP listener for operators.

mod api;
mod http;
mod metrics;
mod text;

use jmqt_server::Config;

use crate::support::TestServer;
use http::Operator;

/// A server with a listener for operators, and one of them.
async fn with_operator(change: impl FnOnce(&mut Config)) -> (TestServer, Operator) {
    let server = TestServer::configured(|config| {
        config.admin_address = Some(([127, 0, 0, 1], 0).into());
        change(config);
    })
    .await;
    let operator = Operator::new(server.running().admin_addr().unwrap());
    (server, operator)
}
