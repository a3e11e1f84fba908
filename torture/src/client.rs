//! A client of a test. Every wait is for a packet or event; if it does not come, the panic shows the conversation.

use std::time::Duration;

use jmqt_protocol::{Packet, decode};

use crate::connection::Connection;
use crate::{Target, within};

/// A connection with a session, unless it says otherwise.
#[derive(Debug)]
pub struct Client {
    /// The connection under it.
    pub connection: Connection,
    /// The client id.
    pub name: String,
    conversation: Vec<String>,
}

impl Client {
    /// A connection that has done nothing but `auth`. A node that lets nobody in at the moment is tried again.
    pub async fn authenticate(target: Target, name: &str) -> Self {
        let connecting = async {
            loop {
                match Connection::open(target).await {
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    opened => return opened,
                }
            }
        };
        let connection = within("a connection", connecting).await.unwrap();
        let mut client = Self { connection, name: name.to_owned(), conversation: Vec::new() };
        client.send(&format!(r#"{{"auth":{{"dt":"{name}"}}}}"#)).await;
        client.expect(&format!(r#"{{"authAck":{{"st":1,"at":"token","cl":"{name}"}}}}"#)).await;
        client
    }

    /// A session.
    pub async fn connect(target: Target, name: &str) -> Self {
        let mut client = Self::authenticate(target, name).await;
        client.send_conn().await;
        client.expect(r#"{"connAck":{"st":1,"ts":30}}"#).await;
        client
    }

    /// Sends `conn`, without waiting for the answer.
    pub async fn send_conn(&mut self) {
        self.send(&format!(r#"{{"conn":{{"at":"token","cl":"{}"}}}}"#, self.name.clone())).await;
    }

    /// Sends a packet.
    pub async fn send(&mut self, text: &str) {
        self.conversation.push(format!("> {text}"));
        let sent = within("room to send", self.connection.send_text(text)).await;
        // A client that is no longer connected notices that when it reads.
        if let Err(error) = sent {
            self.conversation.push(format!("> failed: {error}"));
        }
    }

    /// The next packet; `None` at the end.
    pub async fn next(&mut self) -> Option<String> {
        let what = format!("the next packet of {} after {:#?}", self.name, self.conversation);
        let text = within(what, self.connection.next()).await;
        self.conversation.push(format!("< {text:?}"));
        text
    }

    /// The next packet must be this one.
    pub async fn expect(&mut self, wanted: &str) {
        let text = self.next().await;
        assert_eq!(text.as_deref(), Some(wanted), "{}: {:#?}", self.name, self.conversation);
    }

    /// The connection must end now.
    pub async fn expect_end(&mut self) {
        let text = self.next().await;
        assert_eq!(text, None, "{}: {:#?}", self.name, self.conversation);
    }

    /// Sends a packet and waits for its answer.
    pub async fn ask(&mut self, text: &str, answer: &str) {
        self.send(text).await;
        self.expect(answer).await;
    }

    /// Subscribes.
    pub async fn subscribe(&mut self, channel: &str, persistent: bool) {
        let flag = u8::from(persistent);
        let sub = format!(r#"{{"sub":{{"cn":"{channel}","pr":{flag}}}}}"#);
        self.ask(&sub, &format!(r#"{{"subAck":{{"st":1,"cn":"{channel}"}}}}"#)).await;
    }

    /// The next packet must be a push: its text with a `*` for its id, and the id.
    pub async fn push(&mut self) -> (String, Option<String>) {
        let text = self.next().await.unwrap_or_else(|| panic!("the end: {:#?}", self.conversation));
        let Ok(Packet::Push(push)) = decode(&text) else { panic!("not a push: {:#?}", self.conversation) };
        match push.id {
            Some(id) => {
                let starred = text.replace(&format!(r#""id":"{id}""#), r#""id":"*""#);
                (starred, Some(id.to_string()))
            }
            None => (text.clone(), None),
        }
    }

    /// The next packet must be this push, with a `*` for its id; it is acknowledged if it has one.
    pub async fn take(&mut self, wanted: &str) -> Option<String> {
        let (text, id) = self.push().await;
        assert_eq!(text, wanted, "{}: {:#?}", self.name, self.conversation);
        if let Some(id) = &id {
            self.send(&format!(r#"{{"pushAck":{{"id":"{id}"}}}}"#)).await;
        }
        id
    }

    /// A control request: returns the `dt` of its answer, which must have status 1.
    pub async fn control(&mut self, channel: &str, data: &str) -> serde_json::Value {
        self.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"id":"c"}}}}"#)).await;
        let text = self.next().await.unwrap();
        let Ok(Packet::PubAck(ack)) = decode(&text) else { panic!("no pubAck: {:#?}", self.conversation) };
        assert!(ack.status.is_ok(), "{:#?}", self.conversation);
        serde_json::from_str(ack.data.unwrap().as_str()).unwrap()
    }

    /// The session must be alive.
    pub async fn heartbeat(&mut self) {
        self.ask(r#"{"hb":{}}"#, r#"{"hbAck":{}}"#).await;
    }

    /// Leaves on purpose, and waits for the end.
    pub async fn leave(mut self) {
        self.send(r#"{"disconn":{}}"#).await;
        while self.next().await.is_some() {}
    }
}
