//! `jmqt ping`: round trips through the server, from one session to another.

use std::time::{Duration, Instant};

use jmqt_client::{ChannelName, Client, Config, Publish, Pushes};
use serde_json::json;

use crate::{Failure, Output, second};

/// How long an echo may take.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(config: Config, count: u64, interval: u64, output: Output) -> Result<(), Failure> {
    let (sender, receiver) =
        (Client::connect(config.clone()).await?, Client::connect(second(config)?).await?);
    let target = ChannelName::of_client(&receiver.connected().await?);
    // Ignore other messages of this client.
    let mut pushes = receiver.pushes().acknowledge_by_hand();
    let mut times = Vec::new();
    for number in 1..=count {
        if number > 1 {
            tokio::time::sleep(Duration::from_millis(interval)).await;
        }
        let since = Instant::now();
        let message = Publish::json(target.clone(), &number).map_err(Failure::new)?;
        sender.publish(&message).await?;
        let echo = tokio::time::timeout(LIMIT, arrival(&mut pushes, target.as_str(), number));
        if !echo.await.unwrap_or(false) {
            return Err(Failure::new(format!("message {number} did not come back within {LIMIT:?}")));
        }
        let micros = since.elapsed().as_micros();
        times.push(micros);
        output.line(
            || format!("{number}: {micros} µs"),
            || json!({ "number": number, "micros": u64::try_from(micros).unwrap_or(u64::MAX) }),
        )?;
    }
    sender.close().await;
    receiver.close().await;
    times.sort_unstable();
    if let (false, [least, .., most]) = (output.json, times.as_slice()) {
        println!("least {least} µs, median {} µs, most {most} µs", times[times.len() / 2]);
    }
    Ok(())
}

async fn arrival(pushes: &mut Pushes, channel: &str, number: u64) -> bool {
    while let Some(push) = pushes.next().await {
        if push.channel() == channel && push.json::<u64>().ok() == Some(number) {
            return true;
        }
    }
    false
}
