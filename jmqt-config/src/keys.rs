//! The keys of a program, and the key that a misspelt one was meant to be.

/// The keys of a program.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// Every key.
    pub known: &'static [&'static str],
    /// Keys of a program that reads its own values from the same file. Usually none.
    pub also: &'static [&'static str],
    /// Keys whose values are never shown.
    pub secret: &'static [&'static str],
    /// What the names of the program's environment variables begin with.
    pub prefix: &'static str,
    /// What becomes of a variable with that prefix that is not a key.
    pub variables: Variables,
}

/// What becomes of an environment variable that has the program's prefix and is not one of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variables {
    /// It is a mistake: nothing else uses the prefix.
    Own,
    /// It is a mistake only if it looks like a misspelt key; otherwise it belongs to another program.
    Shared,
}

/// This many typing errors make one key of another; more make another word.
const TYPING_ERRORS: usize = 2;

impl Keys {
    fn all(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().chain(self.also).copied()
    }

    /// The key of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&'static str> {
        self.all().find(|key| *key == name)
    }

    /// The secret key whose value is in a file, if `name` is that of a variable with the path of such a file.
    pub(crate) fn find_file_of(&self, name: &str) -> Option<&'static str> {
        let key = name.strip_suffix("_FILE")?;
        self.secret.iter().copied().find(|secret| *secret == key)
    }

    /// The key that `name` is most likely a misspelling of.
    pub(crate) fn nearest(&self, name: &str) -> Option<&'static str> {
        let name = plain(name);
        let keys = self.all().map(|key| (distance(&name, &plain(key)), key));
        let (distance, key) = keys.min_by_key(|(distance, _)| *distance)?;
        (distance <= TYPING_ERRORS).then_some(key)
    }
}

/// Without regard to capitals and to the kind of separator.
fn plain(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.', ' '], "_")
}

/// How many letters must be inserted, deleted, replaced, or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 0..from.len() {
        let mut row = vec![i + 1];
        for j in 0..to.len() {
            let replaced = last[j] + usize::from(from[i] != to[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i] == to[j - 1] && from[i - 1] == to[j] {
                let swapped: usize = before_last[j - 1];
                best = best.min(swapped + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys = Keys {
        known: &["SOCKET_PORT", "LOG_MODE", "MYSQL_PSWD", "retries"],
        also: &["ACL_FILE"],
        secret: &[],
        prefix: "JMQT_",
        variables: Variables::Shared,
    };

    #[test]
    fn a_misspelt_key_is_recognised() {
        assert_eq!(KEYS.nearest("SOKET_PORT"), Some("SOCKET_PORT"));
        assert_eq!(KEYS.nearest("SOCKTE_PORT"), Some("SOCKET_PORT"));
        assert_eq!(KEYS.nearest("socket_port"), Some("SOCKET_PORT"));
        assert_eq!(KEYS.nearest("LOG-MODE"), Some("LOG_MODE"));
        assert_eq!(KEYS.nearest("MYSQL_PASWD"), Some("MYSQL_PSWD"));
        assert_eq!(KEYS.nearest("retrys"), Some("retries"));
        assert_eq!(KEYS.nearest("ACL-FILES"), Some("ACL_FILE"));
    }

    #[test]
    fn another_word_is_not_taken_for_a_key() {
        for word in ["TOKEN_SECRET", "REMOTE_PORT", "REMOTE_HOST", "PORT", "HOST", "URL", ""] {
            assert_eq!(KEYS.nearest(word), None, "{word}");
        }
    }
}
