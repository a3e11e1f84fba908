//! A JMQT client that does random things beside the MQTT clients, and checks what it receives.

use jmqt_protocol::{Packet, decode};

use super::*;
use crate::support::Incoming;

const CHANNELS: [&str; 16] = [
    "a",
    "a/b",
    "a/b/c",
    "b",
    "a//c",
    "#a",
    "#b",
    "#j",
    "#nobody",
    "$echo",
    "$SYS/x",
    "forbidden",
    " a ",
    "c++",
    "room#3",
    "",
];
const FILTERS: [&str; 9] = ["+", "#", "a/+", "a/#", "+/b/#", "a#", "#/a", "$SYS/#", ""];

pub(super) struct Browser {
    client: Option<Client>,
    to_ack: Vec<String>,
}

impl Browser {
    pub(super) async fn connect(server: &TestServer, random: &mut Random) -> Self {
        // Now and then it takes over the session of a device.
        let name = *random.choose(&["j", "j", "j", "a"]);
        Self { client: Some(server.connect(name).await), to_ack: Vec::new() }
    }

    /// Reads what has come until a heartbeat is answered, or the server has ended the connection.
    async fn catch_up(&mut self) {
        let Some(client) = &mut self.client else { return };
        client.send_until_refused(r#"{"hb":{}}"#).await;
        loop {
            match client.incoming().await {
                Incoming::Packet(text) => match decode(&text) {
                    Ok(Packet::HbAck) => return,
                    Ok(Packet::Push(push)) => self.to_ack.extend(push.id.map(Into::into)),
                    Ok(Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PubAck(_) | Packet::AuthAck(_)) => {}
                    Ok(Packet::ConnAck(_)) => {}
                    other => panic!("{other:?} from {text}"),
                },
                Incoming::End => break,
                _ => {}
            }
        }
        self.client = None;
        self.to_ack.clear();
    }

    pub(super) async fn act(&mut self, server: &TestServer, random: &mut Random) {
        let Some(client) = &mut self.client else {
            *self = Self::connect(server, random).await;
            return;
        };
        let (channel, filter) = (*random.choose(&CHANNELS), *random.choose(&FILTERS));
        let flag = random.below(2);
        let text = match random.below(16) {
            0..4 => {
                let data =
                    *random.choose(&["1", r#""ON""#, r#"{"$b64":"/w=="}"#, "null", r#""""#, "[1,[2]]"]);
                let qos = random.below(3);
                format!(
                    r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":{qos},"rt":{flag},"jt":{},"id":"{}"}}}}"#,
                    random.below(2),
                    random.below(5)
                )
            }
            4 => format!(r#"{{"sub":{{"cn":"{channel}","pr":{flag}}}}}"#),
            5 | 6 => format!(r#"{{"sub":{{"cn":"{filter}","pr":{flag},"wc":1}}}}"#),
            7 => format!(r#"{{"unsub":{{"cn":"{filter}","wc":1}}}}"#),
            8 => format!(r#"{{"unsub":{{"cn":"{channel}"}}}}"#),
            9 | 10 => match self.to_ack.pop() {
                Some(id) => format!(r#"{{"pushAck":{{"id":"{id}"}}}}"#),
                None => r#"{"pushAck":{"id":"nothing"}}"#.to_owned(),
            },
            11 => r#"{"conn":{"at":"token-j","cl":"j"}}"#.to_owned(),
            12 => {
                let mut text = format!(r#"{{"pub":{{"cn":"{channel}","dt":[1,2],"q":1,"id":"x"}}}}"#);
                text.truncate(usize::try_from(random.below(text.len() as u64)).unwrap());
                text
            }
            13 if random.below(4) == 0 => r#"{"disconn":{}}"#.to_owned(),
            14 if random.below(4) == 0 => {
                self.client = None;
                self.to_ack.clear();
                return;
            }
            _ => return self.catch_up().await,
        };
        client.send_until_refused(&text).await;
    }

    pub(super) async fn finish(&mut self) {
        self.catch_up().await;
    }
}
