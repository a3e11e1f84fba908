//! The server of the repository's README and the clients of all READMEs fit each other.

use crate::support::within;
use jmqt_client::{Client, Config};
use jmqt_server::tokens::TokenIssuer;
use jmqt_server::{AllowAll, Protocol, Server};

const README: &str = include_str!("../../../../README.md");
const CLIENT_README: &str = include_str!("../../../README.md");
const JS_README: &str = include_str!("../../../../jmqt-js/README.md");

/// The README's server, word for word.
mod readme_server {
    // It is a program of its own, and begins with names that every program begins with.
    #![allow(dead_code, unused_qualifications)]
    include!("readme_server.rs");

    pub(super) fn believe(tokens: TokenIssuer) -> impl AuthValidator {
        Believe(tokens)
    }
}

/// What stands between these in a text, each time.
fn between<'t>(text: &'t str, start: &'t str, end: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(start).skip(1).map(move |rest| rest.split(end).next().unwrap())
}

#[test]
fn the_server_of_these_tests_is_that_of_the_readme() {
    assert!(README.contains(include_str!("readme_server.rs")), "copy it from README.md");
}

#[tokio::test]
async fn the_clients_of_the_readmes_can_log_in_to_the_server_of_the_readme() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = jmqt_server::Config::default();
    config.bind_address = [127, 0, 0, 1].into();
    (config.socket_port, config.websocket_port) = (Some(0), None);
    config.sqlite_path = folder.path().join("jmqt.db");
    let tokens = TokenIssuer::from_config(&config).unwrap();
    let server = Server::builder(config)
        .validate_auth(readme_server::believe(tokens.clone()))
        .validate_conn(tokens)
        .validate_sub(AllowAll)
        .validate_pub(AllowAll);
    let server = within("the start", server.start()).await.unwrap();
    let url = format!("jmqt://{}", server.local_addr(Protocol::Socket).unwrap());

    let mut data: Vec<String> = Vec::new();
    for readme in [README, CLIENT_README] {
        data.extend(between(readme, ".auth(r#\"", "\"#)").map(str::to_owned));
    }
    for readme in [README, JS_README] {
        let names = between(readme, "auth({ client_name: '", "' }");
        data.extend(names.map(|name| serde_json::json!({ "client_name": name }).to_string()));
    }
    assert!(data.len() >= 5, "{data:?}");
    for data in data {
        let config = Config::url(&url).unwrap().auth(&data).unwrap();
        let client = within("a session", Client::connect(config)).await;
        let client = client.unwrap_or_else(|error| panic!("{data}: {error}"));
        client.close().await;
    }
    within("the shutdown", server.shutdown()).await;
}
