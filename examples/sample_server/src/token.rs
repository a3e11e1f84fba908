//! Tokens: what `authAck` hands out and `conn` brings back (§10), and the secret that signs them.
//!
//! A token is a JSON Web Token under HMAC-SHA256. It names one client and the moment it ends, and
//! nothing about it is stored: whoever has the secret can check it, so it outlives a restart and holds
//! on every node with the same secret. Nothing here is ever logged or shown.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use jmqt_server::{AuthToken, ClientId};
use jwt_compact::alg::{Hs256, Hs256Key};
use jwt_compact::{AlgorithmExt as _, Claims, CreationError, Header, TimeOptions, UntrustedToken};
use serde::{Deserialize, Serialize};

/// How long a token holds: a day.
pub(crate) const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The environment variable that has the secret, where there is one.
pub(crate) const SECRET_VARIABLE: &str = "JMQT_TOKEN_SECRET";
/// The shortest secret in bytes: as long as the signature, so that the signature is the weaker part.
const SHORTEST_SECRET: usize = 32;

/// Makes tokens and checks them.
pub(crate) struct Tokens {
    key: Hs256Key,
    lifetime: TimeDelta,
}

/// Why a token does not prove what it should. The client is not told which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It was not made with this secret, or has been changed, or is no token at all.
    #[error("this is not a token of ours")]
    NotOurs,
    /// It was given to another client.
    #[error("the token is another client's")]
    OtherClient,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

/// The claim beside the standard `iat` and `exp`.
#[derive(Serialize, Deserialize)]
struct Subject {
    sub: String,
}

impl Tokens {
    pub(crate) fn new(secret: &Secret, lifetime: Duration) -> Self {
        let lifetime = TimeDelta::from_std(lifetime).unwrap_or(TimeDelta::MAX);
        Self { key: Hs256Key::new(&secret.0), lifetime }
    }

    /// A token for this client, from now on.
    pub(crate) fn issue(&self, client: &ClientId) -> Result<AuthToken, CreationError> {
        self.issue_at(client, Utc::now())
    }

    /// Whether this token is this client's, now.
    pub(crate) fn check(&self, client: &ClientId, token: &str) -> Result<(), TokenError> {
        self.check_at(client, token, Utc::now())
    }

    fn issue_at(&self, client: &ClientId, now: DateTime<Utc>) -> Result<AuthToken, CreationError> {
        let subject = Subject { sub: client.as_str().to_owned() };
        let claims = Claims::new(subject).set_duration_and_issuance(&clock(now), self.lifetime);
        Ok(AuthToken::new(Hs256.token(&Header::empty(), &claims, &self.key)?))
    }

    fn check_at(&self, client: &ClientId, token: &str, now: DateTime<Utc>) -> Result<(), TokenError> {
        let token = UntrustedToken::new(token).map_err(|_| TokenError::NotOurs)?;
        let token =
            Hs256.validator::<Subject>(&self.key).validate(&token).map_err(|_| TokenError::NotOurs)?;
        let claims = token.claims();
        if claims.custom.sub != client.as_str() {
            return Err(TokenError::OtherClient);
        }
        claims.validate_expiration(&clock(now)).map_err(|_| TokenError::Expired)?;
        Ok(())
    }
}

fn clock(now: DateTime<Utc>) -> TimeOptions<impl Fn() -> DateTime<Utc>> {
    TimeOptions::new(TimeDelta::zero(), move || now)
}

/// What tokens are signed with: text of 32 bytes or more, without the white space around it. Its
/// `Debug` is blank.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

/// Where a secret is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretOrigin {
    /// [`SECRET_VARIABLE`].
    Environment,
    /// A file, made now or at an earlier start.
    File(PathBuf),
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// Somebody could guess it.
    #[error("the token secret in {origin} has {found} bytes; it must have {SHORTEST_SECRET} or more")]
    TooShort { origin: SecretOrigin, found: usize },
    /// There is a file that cannot be read.
    #[error("cannot read the token secret {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// There is no file and none can be made.
    #[error("cannot make the token secret {}: {source} ({SECRET_VARIABLE} would do instead)", path.display())]
    NotMade { path: PathBuf, source: io::Error },
    /// The operating system has no random numbers.
    #[error("cannot make a token secret: {0}")]
    Random(getrandom::Error),
}

impl Secret {
    /// The secret in [`SECRET_VARIABLE`], else that in the file beside the store, which is made if it
    /// is not there.
    pub(crate) fn load(store: &Path) -> Result<(Self, SecretOrigin), SecretError> {
        Self::load_with(std::env::var_os(SECRET_VARIABLE).as_deref(), store)
    }

    fn load_with(variable: Option<&OsStr>, store: &Path) -> Result<(Self, SecretOrigin), SecretError> {
        // A variable that is set but empty is a mistake in somebody's script, and refused like any other.
        if let Some(text) = variable {
            let origin = SecretOrigin::Environment;
            return Ok((Self::parse(text.as_encoded_bytes(), &origin)?, origin));
        }
        let path = beside(store);
        let origin = SecretOrigin::File(path.clone());
        Ok((Self::in_file(&path, &origin)?, origin))
    }

    fn in_file(path: &Path, origin: &SecretOrigin) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = random_text().map_err(SecretError::Random)?;
                make(path, &secret)
                    .map_err(|source| SecretError::NotMade { path: path.to_owned(), source })?;
                // Read again, because another process may have been first: then its secret counts.
                fs::read(path).map_err(unreadable)?
            }
            text => text.map_err(unreadable)?,
        };
        warn_if_public(path);
        Self::parse(&text, origin)
    }

    /// A line's end is no part of it, so that `JMQT_TOKEN_SECRET="$(cat jmqt.db.secret)"` is the same.
    fn parse(text: &[u8], origin: &SecretOrigin) -> Result<Self, SecretError> {
        let text = text.trim_ascii();
        if text.len() < SHORTEST_SECRET {
            return Err(SecretError::TooShort { origin: origin.clone(), found: text.len() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl fmt::Display for SecretOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str(SECRET_VARIABLE),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// `jmqt.db` has its secret in `jmqt.db.secret`.
fn beside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".secret");
    name.into()
}

/// 32 random bytes in hexadecimal, and a line's end.
fn random_text() -> Result<String, getrandom::Error> {
    let mut bytes = [0; SHORTEST_SECRET];
    getrandom::fill(&mut bytes)?;
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Ok(digits.chain(["\n".to_owned()]).collect())
}

/// Makes the file with all that belongs in it, in one step, unless there is one by now.
///
/// Two processes that start together must not sign with two secrets, and neither may see half of one:
/// so it is written under another name, readable by its owner only, and then given its own name, which
/// only the first to ask for gets.
fn make(path: &Path, text: &str) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    private_folder().create(folder)?;
    let mut file = tempfile::Builder::new().prefix(".jmqt-secret-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(failed) => Err(failed.error),
        Ok(_) => sync_folder(folder),
    }
}

/// As the store makes it, which does so only later.
fn private_folder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true);
    builder
}

/// After a power failure the file must still have its name: tokens signed with it are out there.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(unix)]
fn warn_if_public(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!("The token secret {} can be read by others: chmod 600 it", path.display());
    }
}

#[cfg(not(unix))]
fn warn_if_public(_: &Path) {}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn client(name: &str) -> ClientId {
        ClientId::parse(name).unwrap()
    }

    fn tokens(secret: &str) -> Tokens {
        Tokens::new(&Secret::parse(secret.as_bytes(), &SecretOrigin::Environment).unwrap(), TOKEN_LIFETIME)
    }

    fn load(store: &Path) -> Secret {
        Secret::load_with(None, store).unwrap().0
    }

    #[test] // §10
    fn a_token_is_its_clients_until_its_time_is_over() {
        let (tokens, now) = (tokens(&"s".repeat(32)), Utc::now());
        let token = tokens.issue_at(&client("bob"), now).unwrap();
        let check_after = |seconds| {
            let then = now + TimeDelta::seconds(seconds);
            tokens.check_at(&client("bob"), token.reveal(), then)
        };
        assert_eq!(check_after(0), Ok(()));
        assert_eq!(check_after(86_399), Ok(()));
        assert_eq!(check_after(86_401), Err(TokenError::Expired));
        assert_eq!(tokens.check(&client("bob"), token.reveal()), Ok(()));
    }

    #[test] // §10
    fn a_token_is_no_other_clients() {
        let tokens = tokens(&"s".repeat(32));
        let token = tokens.issue(&client("bob")).unwrap();
        for other in ["Bob", "bo", "bobb", "alice"] {
            assert_eq!(tokens.check(&client(other), token.reveal()), Err(TokenError::OtherClient));
        }
    }

    #[test]
    fn any_name_that_is_a_client_id_gets_a_token() {
        let tokens = tokens(&"s".repeat(32));
        for name in ["a \"quoted\" name", "\u{0}", "José 🦀", &"x".repeat(256)] {
            let token = tokens.issue(&client(name)).unwrap();
            assert_eq!(tokens.check(&client(name), token.reveal()), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn a_token_with_one_character_changed_or_missing_is_refused() {
        let tokens = tokens(&"s".repeat(32));
        let token = tokens.issue(&client("bob")).unwrap().reveal().to_owned();
        for at in 0..token.len() {
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut changed = token.clone();
            changed.replace_range(at..=at, other);
            assert_eq!(tokens.check(&client("bob"), &changed), Err(TokenError::NotOurs), "at {at}");
            let cut = &token[..at];
            assert_eq!(tokens.check(&client("bob"), cut), Err(TokenError::NotOurs), "up to {at}");
        }
    }

    #[test]
    fn a_token_of_another_secret_or_none_at_all_is_refused() {
        let bob = client("bob");
        let foreign = tokens(&"t".repeat(32)).issue(&bob).unwrap();
        // {"alg":"none"} . {"exp":99999999999,"sub":"bob"}
        let unsigned = "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTk5LCJzdWIiOiJib2IifQ.";
        for token in
            [foreign.reveal(), unsigned, "", ".", "..", "...", "a.b.c", "test-token", "\u{0}", "é.é.é"]
        {
            assert_eq!(tokens(&"s".repeat(32)).check(&bob, token), Err(TokenError::NotOurs), "{token:?}");
        }
    }

    #[test]
    fn a_token_without_an_end_is_refused() {
        let tokens = tokens(&"s".repeat(32));
        let claims = Claims::new(Subject { sub: "bob".to_owned() });
        let endless = Hs256.token(&Header::empty(), &claims, &tokens.key).unwrap();
        assert_eq!(tokens.check(&client("bob"), &endless), Err(TokenError::Expired));
    }

    #[test]
    fn a_secret_is_made_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("not/there/yet/jmqt.db");
        let first = load(&store);
        assert_eq!(load(&store), first);
        assert_ne!(load(&folder.path().join("other.db")), first);
        let names: Vec<_> =
            fs::read_dir(store.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["jmqt.db.secret"], "nothing else is left behind");
    }

    #[cfg(unix)]
    #[test]
    fn the_secret_file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        load(&store);
        let mode = fs::metadata(beside(&store)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn processes_that_start_together_get_the_same_secret() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let store = folder.path().join("jmqt.db");
            let start = Barrier::new(8);
            let secrets: Vec<Secret> = thread::scope(|scope| {
                let open = || {
                    start.wait();
                    load(&store)
                };
                let openers: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                openers.into_iter().map(|opener| opener.join().unwrap()).collect()
            });
            assert!(secrets.iter().all(|secret| *secret == secrets[0]));
        }
    }

    #[test]
    fn who_comes_second_leaves_the_file_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jmqt.db.secret");
        make(&path, "first").unwrap();
        make(&path, "second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }

    #[test]
    fn the_environment_comes_first_and_needs_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        let text = "e".repeat(32);
        let (secret, origin) = Secret::load_with(Some(OsStr::new(&text)), &store).unwrap();
        assert_eq!((secret.0.as_slice(), origin), (text.as_bytes(), SecretOrigin::Environment));
        assert!(!beside(&store).exists());
    }

    #[test]
    fn the_text_of_the_file_in_the_environment_is_the_same_secret() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        let of_file = load(&store);
        let text = fs::read_to_string(beside(&store)).unwrap();
        let of_variable = Secret::load_with(Some(OsStr::new(text.trim_end())), &store).unwrap().0;
        assert_eq!(of_variable, of_file);
    }

    #[test]
    fn a_short_secret_is_refused_with_its_place_and_its_length_but_not_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        for short in ["", "   ", &"k".repeat(31), &format!(" {}\n", "k".repeat(31))] {
            let error = Secret::load_with(Some(OsStr::new(short)), &store).unwrap_err().to_string();
            let found = short.trim().len();
            let expected = format!("in JMQT_TOKEN_SECRET has {found} bytes; it must have 32 or more");
            assert!(error.contains(&expected) && !error.contains("kkk"), "{error}");
        }
        fs::write(beside(&store), "too short").unwrap();
        let error = Secret::load_with(None, &store).unwrap_err().to_string();
        assert!(error.contains("jmqt.db.secret has 9 bytes"), "{error}");
    }

    #[test]
    fn a_secret_that_can_be_neither_read_nor_made_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        fs::create_dir(beside(&store)).unwrap();
        let error = Secret::load_with(None, &store).unwrap_err();
        assert!(matches!(&error, SecretError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("jmqt.db.secret"), "{error}");

        fs::write(folder.path().join("file"), "").unwrap();
        // No folder can be made where a file is; which of the two fails depends on the system.
        let error = Secret::load_with(None, &folder.path().join("file/jmqt.db")).unwrap_err();
        assert!(error.to_string().contains("jmqt.db.secret"), "{error}");
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = Secret::parse(&[b'k'; 32], &SecretOrigin::Environment).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
