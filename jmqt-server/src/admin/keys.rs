//! The file with the keys of operators: lines of `name:scope:hash`, where `hash` is the SHA-256 of a key, in hexadecimal.
//!
//! A key has 256 random bits, so nobody can find it by trying, and a slow hash like those of passwords would protect nothing
//! more. A lost file shows no key. A name may have several keys: for a change of keys, the new one is added before the old
//! one is removed.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;

use crate::watched::{FileError, Problem, Watched, warn_if_public};

/// The beginning of every key, so that tools which look for secrets find one.
const PREFIX: &str = "jmqt_";
const RANDOM_BYTES: usize = 32;
const HASH_BYTES: usize = digest::SHA256_OUTPUT_LEN;
const MOST_KEYS: usize = 1000;
const EXPECTED: &str = "expected NAME:SCOPE:HASH, where SCOPE is metrics, read or write, and HASH is the SHA-256 of the key in 64 hexadecimal digits";

/// What the owner of a key may do. Each scope includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scope {
    /// Read metrics.
    Metrics,
    /// See everything.
    Read,
    /// Publish, subscribe, disconnect and so on.
    Write,
}

impl Scope {
    /// The name in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let scopes = [Self::Metrics, Self::Read, Self::Write];
        scopes.into_iter().find(|scope| scope.as_str() == text).ok_or("expected metrics, read or write")
    }
}

/// A key that cannot be added or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The name is empty, too long, or has other characters.
    #[error(
        "{0:?} cannot be the name of a key: expected 1 to 64 letters, digits, dots, hyphens and underscores"
    )]
    Name(String),
    /// The file has mistakes, or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file has no key with this name.
    #[error("{} has no key with the name {name:?}", path.display())]
    NoSuchKey {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The file has too many keys.
    #[error("{} has {MOST_KEYS} keys, the most that are possible", .0.display())]
    TooMany(PathBuf),
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The operating system provides no random numbers.
    #[error("the system provides no random numbers: {0}")]
    Random(String),
}

/// One line of the file.
struct Entry {
    name: String,
    scope: Scope,
    hash: [u8; HASH_BYTES],
}

/// The owner of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) name: String,
    pub(super) scope: Scope,
}

/// The keys, read again when their file changes.
pub(super) struct Keys(Watched<Vec<Entry>>);

impl Keys {
    pub(super) fn open(path: &PathBuf) -> Result<Self, FileError> {
        warn_if_public(path);
        Watched::open(path, parse).map(Self)
    }

    /// The owner of a key. Takes the same time whether and where the file has it.
    pub(super) fn holder(&self, key: &[u8]) -> Option<Holder> {
        find(&self.0.get(), key)
    }
}

fn find(entries: &[Entry], key: &[u8]) -> Option<Holder> {
    let hash = digest::digest(&digest::SHA256, key);
    let mut found = None;
    for entry in entries {
        let differing =
            entry.hash.iter().zip(hash.as_ref()).fold(0, |so_far, (one, other)| so_far | (one ^ other));
        if std::hint::black_box(differing) == 0 {
            found = Some(entry);
        }
    }
    found.map(|entry| Holder { name: entry.name.clone(), scope: entry.scope })
}

fn is_name(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(is_of_name)
}

fn parse(text: &str) -> Result<Vec<Entry>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match entry(line) {
            Some(entry) => entries.push(entry),
            None => problems.push(Problem::in_line(number, EXPECTED)), // a line may have a key, which is not shown
        }
    }
    if entries.len() > MOST_KEYS {
        problems.push(Problem::of_file(format!("{} keys; expected {MOST_KEYS} at most", entries.len())));
    }
    if problems.is_empty() { Ok(entries) } else { Err(problems) }
}

fn entry(line: &str) -> Option<Entry> {
    let mut parts = line.split(':');
    let (name, scope, hash) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !is_name(name) {
        return None;
    }
    Some(Entry { name: name.to_owned(), scope: scope.parse().ok()?, hash: from_hex(hash)? })
}

fn from_hex(text: &str) -> Option<[u8; HASH_BYTES]> {
    if text.len() != 2 * HASH_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; HASH_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a key, adds its hash to a file, and returns the key, which is stored nowhere. Creates the file, which only its owner
/// can read, if it is missing. A server that uses the file reads it again within three seconds.
///
/// ```
/// use jmqt_server::admin::{Scope, add_key};
///
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("admin.keys");
/// let key = add_key(&file, "prometheus", Scope::Metrics)?;
/// println!("Authorization: Bearer {key}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`KeyError`]; the file is unchanged.
pub fn add_key(path: &Path, name: &str, scope: Scope) -> Result<String, KeyError> {
    if !is_name(name) {
        return Err(KeyError::Name(name.to_owned()));
    }
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| KeyError::Random(error.to_string()))?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let mut text = read(path)?;
    if parse(&text).is_ok_and(|entries| entries.len() >= MOST_KEYS) {
        return Err(KeyError::TooMany(path.to_owned()));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let hash = to_hex(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    text.push_str(&format!("{name}:{scope}:{hash}\n"));
    write(path, &text)?;
    Ok(key)
}

/// The number of keys in a file.
///
/// # Errors
/// The file cannot be read, or has mistakes.
pub fn count_keys(path: &Path) -> Result<usize, FileError> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| FileError::Unreadable { path: path.to_owned(), key: None, source })?;
    let entries = parse(&text).map_err(|problems| FileError::Invalid { path: path.to_owned(), problems })?;
    Ok(entries.len())
}

/// Removes all keys with this name from a file.
///
/// # Errors
/// [`KeyError`]; the file is unchanged.
pub fn remove_key(path: &Path, name: &str) -> Result<(), KeyError> {
    let text = read(path)?;
    let is_kept = |line: &&str| entry(line.trim()).is_none_or(|entry| entry.name != name);
    let kept: Vec<&str> = text.lines().filter(is_kept).collect();
    if kept.len() == text.lines().count() {
        return Err(KeyError::NoSuchKey { path: path.to_owned(), name: name.to_owned() });
    }
    write(path, &kept.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// The text of a file without mistakes; nothing if there is no file.
fn read(path: &Path) -> Result<String, KeyError> {
    match fs::read_to_string(path) {
        Ok(text) => match parse(&text) {
            Ok(_) => Ok(text),
            Err(problems) => Err(FileError::Invalid { path: path.to_owned(), problems }.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(FileError::Unreadable { path: path.to_owned(), key: None, source }.into()),
    }
}

/// Replaces a file, which only its owner can read then.
fn write(path: &Path, text: &str) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Its mode is 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(path) {
        // A file of root that the server reads as another user must stay readable for it.
        use std::os::unix::fs::MetadataExt as _;
        let _ = std::os::unix::fs::chown(file.path(), Some(metadata.uid()), Some(metadata.gid()));
    }
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_hash_and_both_keys_of_a_name_are_valid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let first = add_key(&path, "alice", Scope::Read).unwrap();
        let second = add_key(&path, "alice", Scope::Write).unwrap();
        let entries = parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let scope = |key: &str| find(&entries, key.as_bytes()).map(|holder| (holder.name, holder.scope));
        assert_eq!(scope(&first), Some(("alice".to_owned(), Scope::Read)));
        assert_eq!(scope(&second), Some(("alice".to_owned(), Scope::Write)));
        assert_eq!(scope(&first[1..]), None);
        assert_eq!(scope(""), None);
        assert!(first.len() == 48 && first.starts_with(PREFIX) && first != second, "{first}");
        remove_key(&path, "alice").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        assert!(matches!(remove_key(&path, "alice"), Err(KeyError::NoSuchKey { .. })));
    }

    #[test]
    fn comments_and_other_keys_stay_when_one_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let hash = "0".repeat(64);
        fs::write(&path, format!("# keys\nalice:read:{hash}\nbob:write:{hash}")).unwrap();
        remove_key(&path, "alice").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("# keys\nbob:write:{hash}\n"));
        add_key(&path, "carol", Scope::Metrics).unwrap();
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .starts_with(&format!("# keys\nbob:write:{hash}\ncarol:metrics:"))
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_belongs_to_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        add_key(&path, "alice", Scope::Read).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_mistake_is_named_by_its_line_and_shows_no_key() {
        let hash = "0".repeat(64);
        for wrong in [
            "jmqt_secret",
            "a:b",
            &format!("a:all:{hash}"),
            &format!("a:read:{hash}0"),
            &format!("a b:read:{hash}"),
            &format!("a:read:{hash}:x"),
            &format!("a:read:+{}", &hash[1..]),
        ] {
            let problems = parse(&format!("# keys\n\n{wrong}\n")).err().unwrap();
            assert_eq!(problems, [Problem::in_line(3, EXPECTED)]);
        }
        assert!(matches!(
            add_key(Path::new("/nonexistent/keys"), "a:b", Scope::Read),
            Err(KeyError::Name(_))
        ));
    }
}
