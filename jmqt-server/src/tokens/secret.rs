//! The secret that signs tokens: from the environment, or from a file beside the store. Never logged or shown.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::validators::BoxError;

/// The environment variable with the secret.
pub const SECRET_VARIABLE: &str = "JMQT_TOKEN_SECRET";
/// The environment variable with the path of a file that has the secret, as container platforms and service managers give one.
pub const SECRET_FILE_VARIABLE: &str = "JMQT_TOKEN_SECRET_FILE";
/// The shortest secret in bytes: as long as the signature, so that the signature is the weaker part.
const SHORTEST_SECRET: usize = 32;

/// The secret that signs tokens: text of 32 bytes or more, without the white space around it. Its
/// `Debug` output hides the value.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret {
    bytes: Vec<u8>,
    origin: SecretOrigin,
}

/// The source of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SecretOrigin {
    /// [`SECRET_VARIABLE`].
    Environment,
    /// A file, created now or at an earlier start.
    File(PathBuf),
    /// The application: [`TokenSecret::new`].
    Application,
    /// Random numbers: [`TokenSecret::random`].
    Random,
}

/// An error while loading or creating the secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The secret is too short, and could be guessed.
    #[error("the token secret in {origin} has {found} bytes; it must have {SHORTEST_SECRET} or more")]
    TooShort {
        /// The source of the secret.
        origin: SecretOrigin,
        /// Its length in bytes.
        found: usize,
    },
    /// The file cannot be read.
    #[error("cannot read the token secret {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is missing and cannot be created.
    #[error("cannot create the token secret {}: {source} (alternatively, set {SECRET_VARIABLE})", path.display())]
    NotMade {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The operating system provides no random numbers.
    #[error("cannot generate a token secret: {0}")]
    Random(BoxError),
}

impl TokenSecret {
    /// A secret that the application provides: text of 32 bytes or more, without the white space
    /// around it.
    ///
    /// # Errors
    /// [`SecretError::TooShort`].
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        Self::parse(secret.as_ref(), SecretOrigin::Application)
    }

    /// A random secret of this process.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn random() -> Result<Self, SecretError> {
        let text = random_text().map_err(|error| SecretError::Random(error.into()))?;
        Self::parse(text.as_bytes(), SecretOrigin::Random)
    }

    /// Loads the secret from the environment variable [`SECRET_VARIABLE`], from the file that [`SECRET_FILE_VARIABLE`] names, or from a file named after the SQLite file
    /// (`jmqt.db.secret` beside `jmqt.db`). A missing file is created, readable by its owner only.
    ///
    /// # Errors
    /// [`SecretError`] names the place that cannot be used, and the cause.
    pub fn load(config: &Config) -> Result<Self, SecretError> {
        if let Some(file) = named_file() {
            return Self::in_named_file(&file);
        }
        let secret = Self::load_with(std::env::var_os(SECRET_VARIABLE).as_deref(), &config.sqlite_path)?;
        if config.redis.is_some() && matches!(secret.origin, SecretOrigin::File(_)) {
            tracing::warn!(target: "jmqt::app", "the token secret is in a file of this node: set {SECRET_VARIABLE} to the same value on all nodes, or tokens are valid on the node that issued them only");
        }
        Ok(secret)
    }

    /// Checks that [`load`](Self::load) can use the environment variable or an existing file. Creates no file.
    ///
    /// # Errors
    /// As of [`load`](Self::load).
    pub fn check(config: &Config) -> Result<(), SecretError> {
        if let Some(file) = named_file() {
            return Self::in_named_file(&file).map(drop);
        }
        Self::check_with(std::env::var_os(SECRET_VARIABLE).as_deref(), &config.sqlite_path)
    }

    fn check_with(variable: Option<&OsStr>, store: &Path) -> Result<(), SecretError> {
        match beside(store).try_exists() {
            Ok(false) if variable.is_none() => Ok(()), // the first start creates it
            _ => Self::load_with(variable, store).map(drop),
        }
    }

    /// The source of the secret.
    #[must_use]
    pub const fn origin(&self) -> &SecretOrigin {
        &self.origin
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn load_with(variable: Option<&OsStr>, store: &Path) -> Result<Self, SecretError> {
        // A variable that is set but empty is probably a mistake in a script, and is refused as too short.
        if let Some(text) = variable {
            return Self::parse(text.as_encoded_bytes(), SecretOrigin::Environment);
        }
        Self::in_file(&beside(store))
    }

    /// The secret in a file that must exist: it is shared, so it is not created here.
    fn in_named_file(path: &Path) -> Result<Self, SecretError> {
        let text =
            fs::read(path).map_err(|source| SecretError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, SecretOrigin::File(path.to_owned()))
    }

    fn in_file(path: &Path) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = random_text().map_err(|error| SecretError::Random(error.into()))?;
                make(path, &secret)
                    .map_err(|source| SecretError::NotMade { path: path.to_owned(), source })?;
                // Read the file again, because another process may have created it first: then its secret counts.
                fs::read(path).map_err(unreadable)?
            }
            text => text.map_err(unreadable)?,
        };
        warn_if_public(path);
        Self::parse(&text, SecretOrigin::File(path.to_owned()))
    }

    /// The line end is not part of the secret, so that `JMQT_TOKEN_SECRET="$(cat jmqt.db.secret)"` is the same.
    fn parse(text: &[u8], origin: SecretOrigin) -> Result<Self, SecretError> {
        let text = text.trim_ascii();
        if text.len() < SHORTEST_SECRET {
            return Err(SecretError::TooShort { origin, found: text.len() });
        }
        Ok(Self { bytes: text.to_owned(), origin })
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

impl fmt::Display for SecretOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str(SECRET_VARIABLE),
            Self::File(path) => path.display().fmt(f),
            Self::Application => f.write_str("the application"),
            Self::Random => f.write_str("memory"),
        }
    }
}

/// The file of [`SECRET_FILE_VARIABLE`], unless [`SECRET_VARIABLE`] has the secret itself.
fn named_file() -> Option<PathBuf> {
    if std::env::var_os(SECRET_VARIABLE).is_some() {
        return None;
    }
    std::env::var_os(SECRET_FILE_VARIABLE).map(PathBuf::from)
}

/// `jmqt.db` has its secret in `jmqt.db.secret`.
fn beside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".secret");
    name.into()
}

/// 32 random bytes in hexadecimal, and a line end.
fn random_text() -> Result<String, getrandom::Error> {
    let mut bytes = [0; SHORTEST_SECRET];
    getrandom::fill(&mut bytes)?;
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    Ok(digits.chain(["\n".to_owned()]).collect())
}

/// Creates the file with its content in one atomic step, unless it exists.
///
/// Two processes that start together must not sign with two secrets, and neither may read an incomplete secret.
/// So the file is written under a temporary name, readable by its owner only, and then linked to its final name, which
/// succeeds for the first process only.
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

/// Creates the folder in the same way as the store does later.
fn private_folder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true);
    builder
}

/// Syncs the folder: after a power failure the file must still exist, because clients have tokens signed with it.
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

    fn load(store: &Path) -> TokenSecret {
        TokenSecret::load_with(None, store).unwrap()
    }

    #[test]
    fn a_file_that_is_named_must_exist_and_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let error = TokenSecret::in_named_file(&path).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the token secret ") && !path.exists(), "{error}");
        fs::write(&path, format!("{}\n", "x".repeat(SHORTEST_SECRET))).unwrap();
        assert_eq!(
            TokenSecret::in_named_file(&path).unwrap().as_bytes(),
            "x".repeat(SHORTEST_SECRET).as_bytes()
        );
        fs::write(&path, "short").unwrap();
        assert!(matches!(TokenSecret::in_named_file(&path), Err(SecretError::TooShort { found: 5, .. })));
    }

    #[test]
    fn a_secret_is_created_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("not/there/yet/jmqt.db");
        let first = load(&store);
        assert_eq!(load(&store), first);
        assert_ne!(load(&folder.path().join("other.db")).as_bytes(), first.as_bytes());
        let names: Vec<_> =
            fs::read_dir(store.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["jmqt.db.secret"], "nothing else is left behind");
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_the_secret_file() {
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
            let secrets: Vec<TokenSecret> = thread::scope(|scope| {
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
    fn the_second_process_keeps_the_secret_file_of_the_first() {
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
        let secret = TokenSecret::load_with(Some(OsStr::new(&text)), &store).unwrap();
        assert_eq!(secret.as_bytes(), text.as_bytes());
        assert_eq!(*secret.origin(), SecretOrigin::Environment);
        assert!(!beside(&store).exists());
    }

    #[test]
    fn the_text_of_the_file_in_the_environment_is_the_same_secret() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        let of_file = load(&store);
        let text = fs::read_to_string(beside(&store)).unwrap();
        let of_variable = TokenSecret::load_with(Some(OsStr::new(text.trim_end())), &store).unwrap();
        assert_eq!(of_variable.as_bytes(), of_file.as_bytes());
    }

    #[test]
    fn a_short_secret_is_refused_with_its_place_and_its_length_but_not_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        for short in ["", "   ", &"k".repeat(31), &format!(" {}\n", "k".repeat(31))] {
            let error = TokenSecret::load_with(Some(OsStr::new(short)), &store).unwrap_err().to_string();
            let found = short.trim().len();
            let expected = format!("in JMQT_TOKEN_SECRET has {found} bytes; it must have 32 or more");
            assert!(error.contains(&expected) && !error.contains("kkk"), "{error}");
        }
        fs::write(beside(&store), "too short").unwrap();
        let error = TokenSecret::load_with(None, &store).unwrap_err().to_string();
        assert!(error.contains("jmqt.db.secret has 9 bytes"), "{error}");
    }

    #[test]
    fn an_unreadable_secret_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("jmqt.db");
        fs::create_dir(beside(&store)).unwrap();
        let error = TokenSecret::load_with(None, &store).unwrap_err();
        assert!(matches!(&error, SecretError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("jmqt.db.secret"), "{error}");

        fs::write(folder.path().join("file"), "").unwrap();
        // A folder cannot be created where a file exists; which of the two operations fails depends on the system.
        let error = TokenSecret::load_with(None, &folder.path().join("file/jmqt.db")).unwrap_err();
        assert!(error.to_string().contains("jmqt.db.secret"), "{error}");
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = TokenSecret::new([b'k'; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "TokenSecret(..)");
    }
}
