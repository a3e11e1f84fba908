use std::collections::BTreeMap;

use jmqt_server::prelude::*;

/// Everybody is who they say they are: `{"client_name":"alice"}`. A real application asks for a password here.
struct Believe(TokenIssuer);

#[async_trait]
impl AuthValidator for Believe {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        let data: BTreeMap<String, String> = request.json().unwrap_or_default();
        let name = data.get("client_name").or(data.get("username")); // of an MQTT client
        match request.client_id(name.map_or("", String::as_str)) {
            Ok(client) => Ok(self.0.grant(client)?), // a signed token, valid for a day
            Err(error) => Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, error.to_string())),
        }
    }
}

async fn serve() -> Result<(), BoxError> {
    let config = Config::load(None)?; // or Some("server.conf".as_ref())
    let _log = logging::init("MyServer", &config.log)?;
    let tokens = TokenIssuer::from_config(&config)?; // JMQT_TOKEN_SECRET, or a file beside the database
    let server = Server::builder(config)
        .validate_auth(Believe(tokens.clone()))
        .validate_conn(tokens) // only with a token that `Believe` has granted
        .validate_sub(AllowAll)
        .validate_pub(AllowAll)
        .start()
        .await?;
    server.run_until_signal().await?;
    Ok(())
}

fn main() -> std::process::ExitCode {
    jmqt_server::run(serve())
}
