//! One client, one server, TCP.
#![allow(clippy::unwrap_used)]
use jmqt_client::*;
use jmqt_server::Server;

struct Believe;

#[jmqt_server::async_trait]
impl jmqt_server::AuthValidator for Believe {
    async fn validate_auth(
        &self,
        request: &jmqt_server::AuthRequest<'_>,
    ) -> Result<jmqt_server::AuthVerdict, jmqt_server::BoxError> {
        let client = ClientId::parse(request.data.as_str().trim_matches('"'))?;
        Ok(jmqt_server::AuthVerdict::Grant { client, token: AuthToken::new("secret") })
    }
}

#[tokio::test]
async fn a_message_goes_from_one_client_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = jmqt_server::Config::default();
    config.bind_address = [127, 0, 0, 1].into();
    config.socket_port = Some(0);
    config.websocket_port = Some(0);
    config.sqlite_path = folder.path().join("jmqt.db");
    use jmqt_server::{AllowAll, DenyAll, Silent};
    let server = Server::builder(config)
        .auth(Believe)
        .conn(AllowAll)
        .sub(AllowAll)
        .publish(AllowAll)
        .unsub(AllowAll)
        .control(DenyAll)
        .disconnect(Silent)
        .close(Silent)
        .start()
        .await
        .unwrap();
    for (scheme, protocol) in
        [("jmqt", jmqt_server::Protocol::Socket), ("ws", jmqt_server::Protocol::WebSocket)]
    {
        let url = format!("{scheme}://127.0.0.1:{}", server.local_addr(protocol).unwrap().port());
        let alice = Client::connect(Config::url(&url).unwrap().auth("\"alice\"").unwrap()).await.unwrap();
        let bob = Client::connect(Config::url(&url).unwrap().auth("\"bob\"").unwrap()).await.unwrap();
        let news = ChannelName::parse("news").unwrap();
        let mut stream = bob.subscribe(&news, Persistence::Persistent).await.unwrap();
        alice.publish(&Publish::raw(news.clone(), "1.50").unwrap()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().data(), "1.50");
        alice.publish(&Publish::raw(news.clone(), "2.50").unwrap().at_least_once()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().data(), "2.50");
        alice.close().await;
        bob.close().await;
    }
    server.shutdown().await;
}
