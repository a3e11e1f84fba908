//! The chat of docs/tutorial.md: accounts with passwords, rooms, and announcements from the server's terminal.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jmqt_server::prelude::*;
use jmqt_server::ready::{EditError, IdentitySource, Login, PasswordFile};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Mutex;

const USERS: &str = "users.passwd";
const ANNOUNCEMENTS: &str = "room/announcements";

/// A message of the chat: `{"text":"Hello"}`.
#[derive(Deserialize)]
struct Message {
    text: String,
}

/// Who has an account may read and write in every room.
struct Rooms;

fn is_room(channel: &ChannelName) -> bool {
    channel.as_str().starts_with("room/")
}

#[async_trait]
impl SubValidator for Rooms {
    async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
        Ok(if is_room(request.channel) { Verdict::Allow } else { Verdict::NOT_ALLOWED })
    }
}

#[async_trait]
impl PubValidator for Rooms {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        if !is_room(request.channel) || request.channel.as_str() == ANNOUNCEMENTS {
            return Ok(PubVerdict::NOT_ALLOWED);
        }
        match request.json::<Message>() {
            Ok(message) if (1..=2_000).contains(&message.text.len()) => Ok(PubVerdict::Allow),
            _ => Ok(PubVerdict::Refuse(StatusCode::INVALID_PACKET)),
        }
    }
}

/// Lets users in who know their password, and creates accounts.
struct Door {
    login: Login,
    users: PasswordFile,
    /// Held while an account is created, so that two people cannot take one name.
    creation: Mutex<()>,
}

/// The data of `auth`: `{"username":"alice","password":"...","sign_up":true}`.
#[derive(Deserialize)]
struct Credentials {
    username: String,
    password: String,
    #[serde(default)]
    sign_up: bool,
}

#[async_trait]
impl AuthValidator for Door {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        if let Ok(credentials) = request.json::<Credentials>()
            && credentials.sign_up
            && let Err(refusal) = self.sign_up(credentials).await?
        {
            return Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, refusal));
        }
        self.login.validate_auth(request).await
    }
}

impl Door {
    /// Creates an account, or says why not.
    async fn sign_up(
        &self,
        Credentials { username, password, .. }: Credentials,
    ) -> Result<Result<(), String>, BoxError> {
        let _one_at_a_time = self.creation.lock().await;
        if self.users.has_user(&username) {
            return Ok(Err(format!("the name {username} is taken")));
        }
        if password.len() < 8 {
            return Ok(Err("a password has at least 8 characters".to_owned()));
        }
        // To hash a password takes some milliseconds of processor time: not on a thread that serves connections.
        let add = move || PasswordFile::set(Path::new(USERS), &username, password.as_bytes());
        match tokio::task::spawn_blocking(add).await? {
            Ok(()) => self.users.reload()?,
            Err(error @ (EditError::Name(_) | EditError::Password)) => return Ok(Err(error.to_string())),
            Err(error) => return Err(error.into()), // logged; the client is told that the server has failed
        }
        Ok(Ok(()))
    }
}

/// What is typed at the server's terminal appears in the room for announcements.
async fn announce(server: ServerHandle) -> Result<(), BoxError> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(text) = lines.next_line().await? {
        let message = std::collections::BTreeMap::from([("text", text)]);
        server
            .force_pub(Publish::json(ChannelName::parse(ANNOUNCEMENTS)?, &message)?.at_least_once())
            .await?;
    }
    Ok(())
}

async fn serve() -> Result<(), BoxError> {
    let config = Config::load(None)?;
    let _log = logging::init("Chat", &config.log)?;
    File::options().append(true).create(true).mode(0o600).open(USERS)?; // the first time, an empty file
    let users = PasswordFile::open(USERS)?;
    let login = Login::new(TokenIssuer::from_config(&config)?).ask(users.clone());
    let server = Server::builder(config)
        .validate_auth(Door { login: login.clone(), users, creation: Mutex::new(()) })
        .validate_conn(login)
        .validate_sub(Rooms)
        .validate_pub(Rooms)
        .start()
        .await?;
    tokio::spawn(announce(server.handle()));
    server.run_until_signal().await?;
    Ok(())
}

fn main() -> std::process::ExitCode {
    jmqt_server::run(serve())
}

#[cfg(test)]
mod tests {
    use jmqt_server::Payload;
    use jmqt_server::testing::{TestClient, TestServer};

    use super::*;

    #[tokio::test]
    async fn nobody_but_the_server_announces() {
        let alice = TestClient::new(&TestServer::new(), ClientId::parse("alice").unwrap());
        let data = Payload::parse(r#"{"text":"I am the boss"}"#).unwrap().into();
        for (name, verdict) in [("room/lobby", PubVerdict::Allow), (ANNOUNCEMENTS, PubVerdict::NOT_ALLOWED)] {
            let channel = ChannelName::parse(name).unwrap();
            assert_eq!(Rooms.validate_pub(&alice.publish(&channel, &data)).await.unwrap(), verdict);
        }
    }
}
