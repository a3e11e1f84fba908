//! smoke
mod support;
use jmqt_server::Protocol;
use support::TestServer;
#[tokio::test]
async fn all() {
    let mut server = TestServer::start().await;
    let mut a = server.connect("alice").await;
    for p in [Protocol::Socket, Protocol::WebSocket, Protocol::SslSocket, Protocol::SslWebSocket] {
        let mut b = server.connect_over(p, "bob").await;
        b.sub_persistent("news").await;
        a.pub1("news", "1.50").await;
        let p = b.expect_push(r#"{"push":{"cn":"news","dt":1.50,"cl":"alice","q":1,"id":"*"}}"#).await;
        b = server.reconnect(b).await;
        let q = b.next_push().await;
        assert_eq!(p.id(), q.id());
        b.ack(&q).await;
        b.expect_nothing_before_hb().await;
        drop(b);
    }
    server.crash().await;
    let mut b = server.connect("bob").await;
    b.expect_nothing_before_hb().await;
}
