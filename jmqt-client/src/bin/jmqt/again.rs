//! The command that a hint tells somebody to type: as the same client, to the same server.

use std::path::Path;

use crate::arguments::ConnectionArguments;

/// The connection options of this call, for a shell. Secrets are replaced by a word in capitals.
pub(crate) struct Again {
    options: String,
    is_named: bool,
}

impl Again {
    pub(crate) fn new(given: &ConnectionArguments, is_named: bool) -> Self {
        let path = |path: &Option<std::path::PathBuf>| path.as_deref().map(Path::to_string_lossy).map(quoted);
        // A URL may hold more than an address.
        let url = given
            .url
            .as_deref()
            .map(|url| if url.contains(['@', '?']) { "URL".to_owned() } else { quoted(url) });
        let text = |text: &Option<String>| text.as_deref().map(quoted);
        let stand_in = |secret: &Option<String>, word: &str| secret.as_ref().map(|_| word.to_owned());
        let mut options = String::new();
        for (option, value) in [
            ("--config", path(&given.config)),
            ("--profile", text(&given.profile)),
            ("--url", url),
            ("--name", text(&given.name)),
            ("--auth", stand_in(&given.auth, "JSON")),
            ("--client-id", text(&given.client_id)),
            ("--token", stand_in(&given.token, "TOKEN")),
            ("--token-file", path(&given.token_file)),
            ("--ca", path(&given.ca)),
            ("--cert", path(&given.cert)),
            ("--key", path(&given.key)),
            ("--server-name", text(&given.server_name)),
        ] {
            if let Some(value) = value {
                options.push_str(&format!(" {option} {value}"));
            }
        }
        if given.insecure {
            options.push_str(" --insecure");
        }
        Self { options, is_named }
    }

    /// Shows what waits on this channel.
    pub(crate) fn sub(&self, channel: &str) -> String {
        if channel.starts_with('#') {
            return format!("jmqt sub '#me'{}", self.options);
        }
        let persistent = if self.is_named { " -p" } else { "" };
        format!("jmqt sub {}{persistent}{}", always_quoted(channel), self.options)
    }

    /// Is rid of this channel.
    pub(crate) fn unsub(&self, channel: &str) -> String {
        format!("jmqt unsub {}{}", always_quoted(channel), self.options)
    }
}

fn quoted(text: impl AsRef<str>) -> String {
    let text = text.as_ref();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:,=+".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { always_quoted(text) }
}

fn always_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::Arguments;

    fn again(options: &[&str]) -> Again {
        let arguments = [&["jmqt", "sub", "other"], options].concat();
        Again::new(&Arguments::parse_from(arguments).connection, true)
    }

    #[test]
    fn the_command_is_whole_and_tells_no_secret() {
        let shown = again(&["--profile", "home", "--url", "jmqt://localhost:8010", "--name", "it's me"]);
        let options = r"--profile home --url jmqt://localhost:8010 --name 'it'\''s me'";
        assert_eq!(shown.sub("a b"), format!("jmqt sub 'a b' -p {options}"));
        assert_eq!(shown.sub("#me"), format!("jmqt sub '#me' {options}"));
        assert_eq!(shown.unsub("news"), format!("jmqt unsub 'news' {options}"));
        for secret in [
            &["--auth", r#"{"a":"secret"}"#][..],
            &["--url", "wss://u:secret@x"],
            &["--client-id", "c", "--token", "secret"],
        ] {
            assert!(!again(secret).sub("news").contains("secret"), "{secret:?}");
        }
    }
}
