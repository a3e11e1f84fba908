//! `jmqt sub`.

use jmqt_client::{Client, Config, Persistence, Push, Qos};
use serde_json::{Value, json};

use crate::{Failure, Output, channel};

pub(crate) struct Wanted {
    pub(crate) channels: Vec<String>,
    pub(crate) persistent: bool,
    pub(crate) count: Option<u64>,
    pub(crate) headers: bool,
}

pub(crate) async fn run(config: Config, wanted: Wanted, output: Output) -> Result<(), Failure> {
    let channels = wanted.channels.iter().map(|name| channel(name)).collect::<Result<Vec<_>, _>>()?;
    let persistence = if wanted.persistent { Persistence::Persistent } else { Persistence::Temporary };
    let client = Client::connect(config).await?;
    let mut pushes = client.pushes();
    for channel in &channels {
        client.sub(channel, persistence).await?;
    }
    let mut left = wanted.count;
    while left != Some(0) {
        let Some(push) = pushes.next().await else {
            return Err(Failure::from(jmqt_client::Error::Closed));
        };
        // Messages to ourselves, and what the server's application adds, are not what was asked for.
        if !channels.iter().any(|channel| channel.as_str() == push.channel()) {
            continue;
        }
        output.line(|| words(&push, wanted.headers), || object(&push))?;
        client.acknowledge(&push);
        left = left.map(|left| left - 1);
    }
    client.close().await;
    Ok(())
}

fn words(push: &Push, headers: bool) -> String {
    if !headers {
        return push.data().to_owned();
    }
    let (qos, retained) = (u8::from(push.qos() == Qos::AtLeastOnce), u8::from(push.is_retained()));
    format!("{} from {:?} (QOS {qos}, RETAIN {retained}): {}", push.channel(), push.publisher(), push.data())
}

fn object(push: &Push) -> Value {
    json!({
        "channel": push.channel(),
        "publisher": push.publisher(),
        "qos": u8::from(push.qos() == Qos::AtLeastOnce),
        "retained": push.is_retained(),
        "data": push.json::<Value>().unwrap_or_default(),
    })
}
