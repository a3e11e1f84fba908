//! Secrets that are put into every input are in no output (docs: SECURITY.md).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jmqt_client::mqtt::{Client, Publish, Qos};
use serde_json::json;

use crate::backend::Web;
use crate::support::{Broker, Folder, refusal, text};

/// Part of every secret here. What is not secret (user names, channels) is without it.
const CANARY: &str = "canary";
const TOKEN_SECRET: &str = "canary-token-secret-of-more-than-32-bytes";

fn signed(claims: &serde_json::Value, secret: &str) -> String {
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "HS256"})), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A broker with a password file, tokens and a web backend, which logs everything it can log.
fn broker(web: &Web) -> (Broker, String) {
    let secret = "canary-jwt-secret-of-more-than-32-bytes";
    let folder = Folder::new(&format!(
        "AUTH = 'password_file, jwt, http'\nPASSWORD_FILE = 'users.passwd'\nJWT_SECRET_FILE = 'jwt.secret'\nACL = 'none'\n\
         HTTP_AUTH_URL = '{url}?key=canary-query'\nHTTP_REQUEST_URL = '{url}'\nHTTP_SECRET_FILE = 'backend.secret'\n\
         LOG_MODE = 'TRC'\nLOG_PATH = 'jmqtd.log'\nSYS_INTERVAL_SECONDS = 1\nWEBSOCKET_PORT = 0",
        url = web.url
    ));
    folder.add_user("bob", "canary-bob");
    folder.write("jwt.secret", secret);
    folder.write("backend.secret", "canary-backend\n");
    (folder.start_in(3, &[("JMQT_TOKEN_SECRET", TOKEN_SECRET)]), secret.to_owned())
}

#[tokio::test]
async fn no_secret_is_in_a_log_in_an_argument_or_in_a_metric() {
    let web = Web::start();
    let (broker, secret) = broker(&web);
    let expiry = 4_102_444_800_u64;
    let token = signed(&json!({"sub": "carol", "exp": expiry, "jti": "canary-claim"}), &secret);
    let wrong = signed(
        &json!({"sub": "carol", "exp": expiry, "jti": "canary-claim"}),
        "canary-another-secret-of-32-bytes-or-so",
    );

    // MQTT: passwords and tokens, right and wrong.
    for (user, password) in [("bob", "canary-bob"), ("alice", "canary-password"), ("carol", token.as_str())] {
        let client: Client = broker.login(user, password).await.unwrap();
        let message = Publish::new("news", "canary-payload".to_owned()).unwrap().at_least_once();
        client.publish(&message.retained()).await.unwrap();
    }
    for (user, password) in [("bob", "canary-wrong"), ("nobody", "canary-wrong"), ("carol", wrong.as_str())] {
        refusal(broker.login(user, password).await);
    }

    // JMQT: the same, packets that are none, and tokens that are none.
    for data in [
        json!({"username": "bob", "password": "canary-bob"}),
        json!({"token": token}),
        json!({"token": wrong}),
        json!({"username": "bob", "password": "canary-wrong"}),
        json!({"username": ["canary-list"], "password": 7}),
        json!("canary-text"),
    ] {
        let mut client = test_support::Client::open(broker.jmqt);
        client.send(&format!(r#"{{"auth":{{"dt":{data}}}}}"#));
        client.expect(r#"{"authAck":"#);
    }
    let mut client = test_support::Client::open(broker.jmqt);
    client.send(r#"{"auth":{"dt":{"password":"canary-cut"#);
    client.send(r#"{"auth":{"dt":"canary-dt","dt":"canary-twice"}}"#);
    client.expect(r#"{"authAck":{"st":10"#);
    client.send(r#"{"conn":{"at":"canary-token","cl":"bob"}}"#);
    client.expect(r#"{"connAck":{"st":6"#);
    drop(client);
    let (mut client, token_of_broker) =
        broker.jmqt_client("bob", r#"{"username":"bob","password":"canary-bob"}"#);
    client.send(r#"{"pub":{"cn":"news","dt":"canary-data","q":1,"id":"1"}}"#);
    client.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#);
    client.send(r#"{"pub":{"cn":"$request","dt":"canary-data","id":"2"}}"#);
    client.expect(r#"{"pubAck":{"st":1,"id":"2""#);

    // $SYS, which everybody may read.
    let watcher = broker.login("bob", "canary-bob").await.unwrap();
    let mut metrics = watcher.subscribe("$SYS/#", Qos::AtMostOnce).await.unwrap();
    for _ in 0..20 {
        let message = metrics.next().await.unwrap();
        assert!(!format!("{message:?}").contains(CANARY), "{message:?}");
    }

    let log = std::fs::read_to_string(broker.folder.path("jmqtd.log")).unwrap();
    let console = broker.program.log_lines("").join("\n");
    for (what, said) in [("log file", &log), ("console", &console)] {
        assert!(said.contains("bob"), "{what}: something is logged");
        for line in said.lines() {
            assert!(!line.contains(CANARY), "{what}: {line}");
            assert!(!line.contains(&token_of_broker) && !line.contains(&token), "{what}: {line}");
        }
    }
    let arguments = std::fs::read(format!("/proc/{}/cmdline", broker.program.id())).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(CANARY));
    only_the_owner_can_read(&broker.folder);
}

/// What the broker has created.
fn only_the_owner_can_read(folder: &Folder) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut created = 0;
    for entry in std::fs::read_dir(folder.path(".")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("jmqt.db") || name == "users.passwd" || name == "jmqtd.log" {
            created += 1;
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            // A group may read the log, as that of other services.
            let expected: &[u32] = if name == "jmqtd.log" { &[0o600, 0o640] } else { &[0o600] };
            assert!(expected.contains(&mode), "{name}: {mode:o}");
        }
    }
    assert!(created >= 4, "{created}");
}

#[test]
fn no_secret_is_in_an_error_about_a_configuration() {
    for (configuration, files) in [
        ("PASSWORD_FILE = 'f'\nAUTH = 'password_file'", "bob canary-password"),
        ("PASSWORD_FILE = 'f'\nAUTH = 'password_file'", "bob:canary-password"),
        ("PASSWORD_FILE = 'f'\nAUTH = 'password_file'", "bob:$argon2id$canary"),
        ("JWT_SECRET_FILE = 'f'\nAUTH = 'jwt'", "canary"),
        (
            "JWT_KEY_FILE = 'f'\nAUTH = 'jwt'",
            "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----",
        ),
        ("JWT_KEY_FILE = 'f'\nAUTH = 'jwt'", r#"{"keys":[{"kty":"oct","k":"canary"}]}"#),
        ("HTTP_AUTH_URL = 'http://127.0.0.1/'\nHTTP_SECRET_FILE = 'f'\nAUTH = 'http'", "canary canary"),
        ("HTTP_AUTH_URL = 'http://bob:canary@127.0.0.1/'\nAUTH = 'http'", ""),
        ("AUTH = 'anonymous'\nENABLE_MYSQL = true\nMYSQL_PSWD = canary", ""),
        ("AUTH = 'anonymous'\nENABLE_MYSQL = true\nMYSQL_PSWD = ['canary']", ""),
        ("AUTH = 'anonymous'\nENABLE_REDIS = true\nREDIS_PASSWORD = {canary = 1}", ""),
    ] {
        let folder = Folder::new(&format!("ACL = 'none'\n{configuration}"));
        folder.write("f", files);
        for arguments in [&["--check"][..], &[], &["health", "--config", "jmqtd.conf"]] {
            let output = folder.run(arguments);
            assert!(!output.status.success(), "{configuration}");
            assert!(!text(&output).contains(CANARY), "{configuration}: {}", text(&output));
        }
    }
    let folder = Folder::new("ACL = 'none'\nAUTH = 'anonymous'");
    let output = folder.run_in(&[], &[("JMQT_TOKEN_SECRET", CANARY.to_owned())]);
    assert!(!output.status.success() && !text(&output).contains(CANARY), "{}", text(&output));
}

#[test]
fn a_file_with_secrets_that_others_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let web = Web::start();
    let (broker, _) = broker(&web);
    let public: Vec<String> = broker.program.log_lines("has access to");
    let named = |name: &str| public.iter().any(|line| line.contains(name));
    let mode = |name: &str| {
        std::fs::metadata(Path::new(&broker.folder.path(name))).unwrap().permissions().mode() & 0o007
    };
    for name in ["jwt.secret", "backend.secret", "users.passwd"] {
        assert_eq!(named(name), mode(name) != 0, "{name}: {public:?}");
    }
}
