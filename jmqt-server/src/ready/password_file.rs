//! Users with passwords, from a file.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jmqt_core::ClientId;
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::identity::{Answer, Credentials, Identity, IdentitySource};
use super::turns::{Crowded, Turns};
use super::unavailable::Unavailable;
use crate::log_limit::log_limited;
use crate::validators::BoxError;
use crate::watched::{FileError, Problem, Watched, warn_if_public};

/// The longest user name, in bytes.
const LONGEST_NAME: usize = 200;
/// A hash, with the default parameters, of a password that nobody knows.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LW5vYm9keQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// The most passwords that are remembered as right.
const MOST_REMEMBERED: usize = 100_000;
/// The most iterations of a hash of `mosquitto_passwd`, and the most memory (KiB), passes and lanes of one of argon2: a login must not
/// hold a core for minutes.
const MOST_ITERATIONS: u32 = 1_000_000;
const MOST_COST: [(&str, u32); 3] = [("m", 1 << 20), ("t", 100), ("p", 64)];

/// A file with a user in each line: the name, a colon, and the hash of the password.
///
/// ```text
/// # Lines that begin with # are comments.
/// alice:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$...
/// ```
///
/// [`PasswordFile::set`] writes such lines, and so does `jmqtd passwd`. Hashes are those of argon2, and those of `mosquitto_passwd`
/// (`$7$`, PBKDF2), so that a password file of Mosquitto can be used as it is. The file is looked at every second, and
/// read again when it has changed. A token that a client has got does not count any more when its user has another password; nor does a
/// session, once it is validated again ([`ServerHandle::revalidate`](crate::ServerHandle::revalidate)).
///
/// To check a password takes a core for a while, and 19 MiB of memory, which is the purpose of such hashes. At most as many are
/// checked at once as there are cores, of the addresses of clients in turn: who sends very many wrong ones delays the logins of
/// others by one check at most. A password that was right is remembered, as a keyed hash in memory, so that devices that
/// reconnect do not wait.
#[derive(Clone)]
pub struct PasswordFile {
    users: Watched<Users>,
    checks: Turns,
    remembered: Arc<Remembered>,
}

impl std::fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PasswordFile({} users)", self.users.get().len())
    }
}

/// The hash of each user.
type Users = HashMap<Box<str>, Box<str>>;

/// A user name that cannot be in a password file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user name has 1 to {LONGEST_NAME} bytes, no colon, no control character, no space around it, and no # at its beginning"
)]
pub struct InvalidUserName;

/// A password file cannot be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The user name.
    #[error(transparent)]
    Name(#[from] InvalidUserName),
    /// There is no such user.
    #[error("there is no user {0:?} in this file")]
    NoSuchUser(String),
    /// The password is empty, or longer than 1,024 bytes.
    #[error("a password has 1 to 1024 bytes")]
    Password,
    /// The file cannot be read or written.
    #[error("cannot change {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The password cannot be hashed.
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
}

impl PasswordFile {
    /// Reads the file. Warns in the log if every user of the machine can read it.
    ///
    /// # Errors
    /// [`FileError`] names every mistake with its line.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        warn_if_public(&path);
        let users = Watched::open(path, parse)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { users, checks: Turns::new(cores), remembered: Arc::default() })
    }

    /// Reads the file now. It is read by itself within three seconds after it has changed.
    ///
    /// # Errors
    /// As [`open`](Self::open); the users that were read before stay.
    pub fn reload(&self) -> Result<(), FileError> {
        self.users.reload()
    }

    /// Calls this each time after the file was read again, on the thread that has read it: it must not block.
    pub fn on_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.users.on_change(listener);
    }

    /// The number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.get().len()
    }

    /// Whether there is no user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a user to a password file, or changes the password. Creates the file, readable for its owner alone, if it is missing.
    /// Comments and other lines stay as they are. The change is on disk when this returns.
    ///
    /// # Errors
    /// [`EditError`]; the file is unchanged.
    pub fn set(path: &Path, user: &str, password: &[u8]) -> Result<(), EditError> {
        check_name(user)?;
        if password.is_empty() || password.len() > 1024 {
            return Err(EditError::Password);
        }
        let hash = Argon2::default().hash_password(password).map_err(EditError::Hash)?;
        let line = format!("{user}:{hash}");
        edit(path, user, Some(&line)).map(drop)
    }

    /// Removes a user from a password file.
    ///
    /// # Errors
    /// [`EditError`]; the file is unchanged.
    pub fn remove(path: &Path, user: &str) -> Result<(), EditError> {
        let was_there = edit(path, user, None)?;
        if was_there { Ok(()) } else { Err(EditError::NoSuchUser(user.to_owned())) }
    }

    /// Whether this is the password of this hash. Waits for a turn of this address; an error says that too many wait.
    async fn check(
        &self,
        hash: Box<str>,
        password: &[u8],
        address: Option<IpAddr>,
    ) -> Result<bool, BoxError> {
        if self.remembered.contains(&hash, password) {
            return Ok(true);
        }
        let password = Zeroizing::new(password.to_vec());
        let turn = match self.checks.take(address).await {
            Ok(turn) => turn,
            Err(Crowded) => {
                log_limited!(warn, target: "jmqt::app", ?address, "refused a login: too many passwords wait to be checked");
                return Err(Unavailable::because("too many passwords wait to be checked").into());
            }
        };
        let remembered = Arc::clone(&self.remembered);
        let checking = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let is_right = is_password(&hash, &password);
            if is_right {
                remembered.insert(&hash, &password);
            }
            is_right
        });
        Ok(checking.await?)
    }
}

#[async_trait]
impl IdentitySource for PasswordFile {
    async fn identify(&self, credentials: &Credentials<'_>) -> Result<Answer, BoxError> {
        let (Some(user), Some(password)) = (credentials.user, credentials.password) else {
            return Ok(Answer::NotMine);
        };
        let address = credentials.connection.map(|connection| connection.remote.ip());
        let Some(hash) = self.users.get().get(user).cloned() else {
            // As long as for a user, so that nobody finds out by the time which names are those of users.
            self.check(NOBODY.into(), password, address).await?;
            return Ok(Answer::NotMine);
        };
        Ok(match self.check(hash.clone(), password, address).await? {
            true => Answer::Known(identity(user, &hash)),
            false => Answer::Refused("wrong password".to_owned()),
        })
    }

    async fn restore(&self, user: &str) -> Result<Option<Identity>, BoxError> {
        Ok(self.users.get().get(user).map(|hash| identity(user, hash)))
    }

    /// Not if the user was removed, or has another password.
    async fn is_current(&self, known: &Identity) -> Result<bool, BoxError> {
        let Some(user) = &known.user else { return Ok(true) };
        let users = self.users.get();
        Ok(users.get(user).is_some_and(|hash| identity(user, hash).revision == known.revision))
    }

    fn has_user(&self, user: &str) -> bool {
        self.users.get().contains_key(user)
    }
}

/// The identity of a user. Its tokens count as long as the password has this hash.
fn identity(user: &str, hash: &str) -> Identity {
    let digest = digest::digest(&digest::SHA256, hash.as_bytes());
    Identity::of_user(user).revision(&STANDARD.encode(&digest.as_ref()[..9]))
}

/// Pairs of hash and password that were found to belong together, each as a hash with a key of this process.
struct Remembered {
    /// `None` if there are no random numbers: then nothing is remembered.
    key: Option<hmac::Key>,
    pairs: Mutex<HashSet<[u8; 32]>>,
}

impl Default for Remembered {
    fn default() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        let is_random = getrandom::fill(key.as_mut_slice()).is_ok();
        let key = is_random.then(|| hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
        Self { key, pairs: Mutex::default() }
    }
}

impl Remembered {
    fn of(&self, hash: &str, password: &[u8]) -> Option<[u8; 32]> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        context.update(hash.as_bytes());
        context.update(&[0]);
        context.update(password);
        context.sign().as_ref().try_into().ok()
    }

    fn contains(&self, hash: &str, password: &[u8]) -> bool {
        let Some(pair) = self.of(hash, password) else { return false };
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).contains(&pair)
    }

    fn insert(&self, hash: &str, password: &[u8]) {
        let Some(pair) = self.of(hash, password) else { return };
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        // Pairs of passwords that were changed stay until then.
        if pairs.len() >= MOST_REMEMBERED {
            pairs.clear();
        }
        pairs.insert(pair);
    }
}

fn check_name(user: &str) -> Result<(), InvalidUserName> {
    let is_valid = user.len() <= LONGEST_NAME
        && !user.starts_with('#')
        && !user.contains(':')
        && !user.chars().any(char::is_control)
        && ClientId::parse(user).is_ok();
    if is_valid { Ok(()) } else { Err(InvalidUserName) }
}

/// Reads the lines of a password file.
fn parse(text: &str) -> Result<Users, Vec<Problem>> {
    let (mut users, mut problems) = (Users::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok((user, _)) if users.contains_key(user) => {
                problems
                    .push(Problem::in_line(index + 1, format!("the user {user:?} is in this file twice")));
            }
            Ok((user, hash)) => drop(users.insert(user.into(), hash.into())),
            Err(problem) => problems.push(Problem::in_line(index + 1, problem)),
        }
    }
    if problems.is_empty() { Ok(users) } else { Err(problems) }
}

/// The user and the hash. An error does not quote the line, which may hold a password.
fn parse_line(line: &str) -> Result<(&str, &str), String> {
    let (user, hash) = line.split_once(':').ok_or("expected NAME:HASH; `jmqtd passwd` writes such lines")?;
    check_name(user).map_err(|error| error.to_string())?;
    let is_known = if hash.starts_with("$7$") {
        Pbkdf2::read(hash).is_some()
    } else {
        hash.starts_with("$argon2") && PasswordHash::new(hash).is_ok_and(|hash| is_affordable(&hash))
    };
    if is_known {
        return Ok((user, hash));
    }
    Err(format!(
        "the password of {user:?} is not a hash of argon2 ($argon2id$...) or of mosquitto_passwd ($7$...); `jmqtd passwd` writes one"
    ))
}

/// Whether an argon2 hash is complete, and a login with it takes seconds at most.
fn is_affordable(hash: &PasswordHash) -> bool {
    let cost =
        |(name, most): (&'static str, u32)| hash.params.get_decimal(name).is_none_or(|value| value <= most);
    hash.salt.is_some() && hash.hash.is_some() && MOST_COST.into_iter().all(cost)
}

/// Whether this is the password of this hash. Takes as long as the hash demands.
fn is_password(hash: &str, password: &[u8]) -> bool {
    if hash.starts_with("$7$") {
        return Pbkdf2::read(hash).is_some_and(|hash| hash.is_of(password));
    }
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// A hash of `mosquitto_passwd`: `$7$`, iterations, salt and hash, of PBKDF2 with HMAC-SHA512.
struct Pbkdf2 {
    iterations: std::num::NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Pbkdf2 {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("$7$")?.split('$');
        let (iterations, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let (salt, hash) = (STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?);
        if parts.next().is_some() || hash.len() != 64 {
            return None;
        }
        let iterations: std::num::NonZeroU32 = iterations.parse().ok()?;
        (iterations.get() <= MOST_ITERATIONS).then_some(Self { iterations, salt, hash })
    }

    fn is_of(&self, password: &[u8]) -> bool {
        pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, self.iterations, &self.salt, password, &self.hash).is_ok()
    }
}

/// Replaces the line of a user, adds one, or with `None` removes it. Returns whether the user was in the file.
fn edit(path: &Path, user: &str, line: Option<&str>) -> Result<bool, EditError> {
    // A link stays one.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let failed = |source| EditError::File { path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && line.is_some() => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let is_of_user = |line: &str| line.trim_start().split_once(':').is_some_and(|(name, _)| name == user);
    let (mut written, mut was_there) = (String::with_capacity(text.len() + 200), false);
    for old in text.lines() {
        let new = if is_of_user(old) {
            let is_first = !std::mem::replace(&mut was_there, true);
            line.filter(|_| is_first)
        } else {
            Some(old)
        };
        if let Some(new) = new {
            written.push_str(new);
            written.push('\n');
        }
    }
    if let Some(line) = line.filter(|_| !was_there) {
        written.push_str(line);
        written.push('\n');
    }
    replace(path, &written).map_err(failed)?;
    Ok(was_there)
}

/// Writes a file beside this one and gives it the name: whoever reads sees the old content or the new one. Owner and permissions of an
/// existing file stay; a new one can be read by its owner alone.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    if let Ok(metadata) = fs::metadata(path) {
        file.as_file().set_permissions(metadata.permissions())?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt as _, fchown};

            let made = file.as_file().metadata()?;
            if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
                fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
            }
        }
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in which `alice` has the password `secret`.
    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        PasswordFile::set(&path, "alice", b"secret").unwrap();
        (folder, path)
    }

    async fn login(file: &PasswordFile, user: &str, password: &str) -> Answer {
        let credentials =
            Credentials { user: Some(user), password: Some(password.as_bytes()), ..Credentials::default() };
        file.identify(&credentials).await.unwrap()
    }

    #[tokio::test]
    async fn a_user_is_known_by_the_right_password_alone() {
        let (_folder, path) = file();
        let users = PasswordFile::open(&path).unwrap();
        for _ in 0..2 {
            let answer = login(&users, "alice", "secret").await;
            assert!(matches!(answer, Answer::Known(it) if it.user.as_deref() == Some("alice")));
            for wrong in ["Secret", "secret ", "", "secret\0"] {
                assert!(matches!(login(&users, "alice", wrong).await, Answer::Refused(_)), "{wrong:?}");
            }
        }
        assert!(matches!(login(&users, "bob", "secret").await, Answer::NotMine));
        assert!(matches!(users.identify(&Credentials::default()).await.unwrap(), Answer::NotMine));
    }

    #[tokio::test]
    async fn a_changed_password_and_a_removed_user_count_after_the_file_was_read_again() {
        let (_folder, path) = file();
        let users = PasswordFile::open(&path).unwrap();
        assert!(matches!(login(&users, "alice", "secret").await, Answer::Known(_)));
        PasswordFile::set(&path, "alice", b"other").unwrap();
        users.reload().unwrap();
        assert!(matches!(login(&users, "alice", "secret").await, Answer::Refused(_)));
        assert!(matches!(login(&users, "alice", "other").await, Answer::Known(_)));
        assert!(users.restore("alice").await.unwrap().is_some());
        PasswordFile::remove(&path, "alice").unwrap();
        users.reload().unwrap();
        assert!(matches!(login(&users, "alice", "other").await, Answer::NotMine));
        assert!(users.restore("alice").await.unwrap().is_none());
        let error = PasswordFile::remove(&path, "alice").unwrap_err();
        assert_eq!(error.to_string(), "there is no user \"alice\" in this file");
    }

    #[test]
    fn editing_keeps_other_lines_and_permissions() {
        let (_folder, path) = file();
        let alice = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("# people\n\n{alice}")).unwrap();
        PasswordFile::set(&path, "bob", b"1").unwrap();
        PasswordFile::set(&path, "alice", b"2").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["# people", "", "alice", "bob"]);
        assert!(!text.contains(alice.trim()), "the password of alice has changed");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            PasswordFile::remove(&path, "bob").unwrap();
            assert_eq!(mode(&path), 0o640);
        }
    }

    #[test]
    fn hashes_of_mosquitto_passwd_are_understood() {
        // mosquitto_passwd -b -c users bob correct-horse (Mosquitto 2.0.11)
        let hash = "$7$101$OPW9IBy7sLnkdEng$uXQLyTEyTmymOXTsnnsfH7Xs/WWs4hh2auHaqr+tKwWrfLaGZR7O89caeUs/AcQ/kH5+RJIo/E7Ige6gNZ8Fag==";
        assert_eq!(parse_line(&format!("bob:{hash}")), Ok(("bob", hash)));
        assert!(is_password(hash, b"correct-horse"));
        assert!(!is_password(hash, b"correct-horses"));
    }

    #[test]
    fn mistakes_are_named_with_their_lines_and_without_what_may_be_a_password() {
        let text = "alice:hunter2\nhunter2\n\n# fine\n:$argon2id$\nbob:$6$c2FsdA==$aGFzaA==\ncarol:$argon2id$\n\
            dora:$argon2id$v=19$m=19456,t=4294967295,p=1$bm9ib2R5LW5vYm9keQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let problems: Vec<_> = parse(text).unwrap_err().iter().map(Problem::to_string).collect();
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(problems[0].starts_with("line 1: the password of \"alice\" is not a hash"), "{problems:?}");
        assert!(problems[1].starts_with("line 2: expected NAME:HASH"), "{problems:?}");
        assert!(problems[2].starts_with("line 5: a user name has"), "{problems:?}");
        assert!(problems[3].starts_with("line 6: the password of \"bob\" is not"), "{problems:?}");
        assert!(!problems.concat().contains("hunter2"), "{problems:?}");
    }

    #[test]
    fn names_that_would_break_the_file_or_the_client_id_are_refused() {
        let (_folder, path) = file();
        for name in ["", " a", "a:b", "#a", "a\nb", &"x".repeat(201)] {
            assert!(matches!(PasswordFile::set(&path, name, b"1"), Err(EditError::Name(_))), "{name:?}");
        }
        assert!(matches!(PasswordFile::set(&path, "bob", b""), Err(EditError::Password)));
    }
}
