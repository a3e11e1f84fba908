//! `jmqt` with an MQTT server: `--url mqtt://host`, or such a URL in a `client.conf`, a profile or the environment.

mod doctor;
mod publish;
mod request;
mod subscribe;

use std::ffi::OsString;
use std::path::Path;

use jmqt_client::mqtt::{Client, ConnectError, Error, Options, Publish, ReasonCode, Server, Version, Will};

use crate::arguments::{Arguments, Command, ConnectionArguments, Input, WillMqtt};
use crate::peer::{Target, qos};
use crate::{Failure, Output, bench, note, random_name};

/// Whether the server that the options name speaks MQTT; `file`: the configuration.
pub(crate) fn is_meant(connection: &ConnectionArguments, file: Option<&Path>) -> Result<bool, Failure> {
    match &connection.url {
        Some(url) => Ok(Server::is_url(url) || connection.mqtt),
        None => Ok(connection.mqtt || Options::are_meant(file, std::env::vars_os())?),
    }
}

pub(crate) async fn run(arguments: Arguments, file: Option<&Path>) -> Result<(), Failure> {
    let output = Output { json: arguments.connection.json };
    let (mut options, is_named) = options(&arguments.connection, file)?;
    match arguments.command {
        Command::Pub { channel, input, mqtt } => {
            options.will = will(&mqtt.will)?;
            // No topic begins so: in JMQT it is the channel of a client.
            let topic = match channel.strip_prefix('#').filter(|client| !client.is_empty()) {
                Some(client) => format!("$p2p/{}", jmqt_mqtt::client_to_topic(client)),
                None => channel,
            };
            publish::run(options, ("pub", topic), input, mqtt, output).await
        }
        Command::P2p { input: Input { clear: true, .. }, .. } => {
            Err(Failure::usage("--clear: point-to-point channels have no retained message"))
        }
        Command::P2p { client, input, mqtt } => {
            let client = client.strip_prefix('#').unwrap_or(&client);
            let topic = format!("$p2p/{}", jmqt_mqtt::client_to_topic(client));
            options.will = will(&mqtt.will)?;
            publish::run(options, ("p2p", topic), input, mqtt, output).await
        }
        Command::Sub { persistent: true, .. } if !is_named => Err(Failure::usage(
            "--persistent keeps the session for a client that comes back: add --name NAME",
        )),
        Command::Sub { channels, filters, persistent, count, headers, time, format, mqtt } => {
            let own = format!("$p2p/{}", jmqt_mqtt::client_to_topic(&options.client_id));
            let channels = channels.into_iter().map(|name| if name == "#me" { own.clone() } else { name });
            let filters = channels.chain(filters).collect();
            let headers = headers || arguments.connection.verbose;
            let wanted = subscribe::Wanted { filters, persistent, count, headers, time, format };
            subscribe::run(options, wanted, *mqtt, output).await
        }
        Command::Request { channel, data, mqtt } => {
            request::run(options, &channel, data.unwrap_or_default(), mqtt, output).await
        }
        Command::Bench(load) => {
            bench::run(Target::Mqtt(Box::new(options)), load, arguments.connection.timeout, output).await
        }
        Command::Doctor { topic } => doctor::run(options, topic, output).await,
        _ => Err(Failure::usage(
            "with an MQTT server there are only `jmqt pub`, `sub`, `p2p`, `request`, `bench` and `doctor`",
        )),
    }
}

/// Connects. A server may refuse a client because of its will, and before MQTT 5 cannot say so.
async fn connect(options: Options) -> Result<Client, Failure> {
    let has_will = options.will.is_some();
    Client::connect(options).await.map_err(|error| {
        let advises = has_will
            && matches!(&error, ConnectError::Refused { reason: ReasonCode::NOT_AUTHORIZED, message, .. } if message.is_empty());
        let failure = Failure::from(error);
        if !advises {
            return failure;
        }
        let message = format!("{}; or this user may not publish the will: leave out --will-topic", failure.message);
        failure.reworded(message)
    })
}

fn will(given: &WillMqtt) -> Result<Option<Will>, Failure> {
    let Some(topic) = &given.will_topic else { return Ok(None) };
    let message = Publish::new(topic, given.will_message.clone().unwrap_or_default())?;
    let message = message.qos(qos(given.will_qos.unwrap_or(0)));
    let will = Will::new(if given.will_retain { message.retained() } else { message });
    Ok(Some(will.after(given.will_delay.unwrap_or_default())))
}

/// File or profile, then environment, then options. `true` if somebody said who we are.
fn options(connection: &ConnectionArguments, file: Option<&Path>) -> Result<(Options, bool), Failure> {
    if connection.auth.is_some() || connection.token.is_some() || connection.token_file.is_some() {
        return Err(Failure::usage("MQTT has no auth data and tokens: use mqtt://user:password@host"));
    }
    if connection.trace {
        return Err(Failure::usage("with an MQTT server there is no --trace"));
    }
    let mut options = match &connection.url {
        None => Options::load(file)?,
        Some(url) => {
            let mut options = Options::load_with(file, without_url())?;
            options.servers = Server::list(&as_mqtt(url, connection.mqtt)).map_err(Failure::usage)?;
            options
        }
    };
    if let Some(name) = connection.name.as_ref().or(connection.client_id.as_ref()) {
        options.client_id.clone_from(name);
    }
    let is_named = !options.client_id.is_empty();
    if !is_named {
        options.client_id = random_name()?;
    }
    if connection.v3 {
        options.version = Version::V3_1_1;
    }
    connection.set_tls(&mut options.tls);
    if connection.insecure {
        note(format_args!(
            "WARNING: --insecure: the server's certificate is not checked. Anybody on the way can be the server, and read \
             and change everything, passwords included"
        ));
    }
    options.websocket_headers.extend(connection.websocket_headers.iter().cloned());
    Ok((options, is_named))
}

/// The environment, without the URL in it and in a file: an option has another one.
pub(crate) fn without_url() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().chain([("JMQT_CLIENT_URL".into(), OsString::new())])
}

/// With --mqtt, `ws://` and `wss://` are URLs of MQTT servers too.
pub(crate) fn as_mqtt(url: &str, is_mqtt: bool) -> String {
    let one = |url: &str| match url.trim() {
        url if is_mqtt && (url.starts_with("ws://") || url.starts_with("wss://")) => format!("mqtt+{url}"),
        url => url.to_owned(),
    };
    url.split(',').map(one).collect::<Vec<_>>().join(",")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused { .. } | Error::NotAvailable { .. } => Self::refused(error),
            Error::InvalidTopic { .. } | Error::NotInVersion { .. } | Error::Encode(_) => Self::usage(error),
            Error::Stopped(_) | Error::Closed | Error::Timeout { .. } => Self::disconnected(error),
            _ => Self::new(error),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Reach(reach) => {
                Self::unreachable(reach, "mqtt:// 1883, mqtts:// 8883, mqtt+ws:// 8083, mqtt+wss:// 8084")
            }
            ConnectError::Refused { .. } => Self::refused(error),
            ConnectError::Option { .. } | ConnectError::Will(_) => Self::usage(error),
            _ => Self::disconnected(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_the_option_mqtt_a_websocket_url_is_one_of_mqtt() {
        assert_eq!(as_mqtt("ws://a, wss://b,mqtt://c", true), "mqtt+ws://a,mqtt+wss://b,mqtt://c");
        assert_eq!(as_mqtt("ws://a", false), "ws://a");
    }
}
