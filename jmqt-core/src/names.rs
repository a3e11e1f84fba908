//! Validated names: channels, clients, tokens (§9.d, §10, protocol.md 2.8).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest channel name, in bytes (protocol.md 2.8).
pub const MAX_CHANNEL_BYTES: usize = 512;
/// The longest channel name that other languages than JMQT can make, in bytes.
pub const MAX_EXACT_CHANNEL_BYTES: usize = 2048;
/// The longest client id, in bytes (protocol.md 2.8).
pub const MAX_CLIENT_ID_BYTES: usize = 256;

/// A channel name, trimmed, 1 to 512 bytes (protocol.md 2.8). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

/// The kind of a channel, determined by its first character (§9.d).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// A channel for publishing and subscribing.
    Plain,
    /// `$name`: a request to the server application.
    Control,
    /// `#clientId`: the point-to-point channel of one client.
    PeerToPeer,
}

/// The name is empty, a sigil alone, or longer than [`MAX_CHANNEL_BYTES`]: status 11.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a channel name must have 1 to 512 bytes and must not be `$` or `#`")]
pub struct InvalidChannel;

impl ChannelName {
    /// Trims and validates the name that a JMQT client sent, or an application. This and [`exact`](Self::exact) are the only
    /// constructors, so later code need not validate again.
    ///
    /// # Errors
    /// [`InvalidChannel`] if the rest is empty, a sigil alone, or longer than 512 bytes.
    pub fn parse(raw: &str) -> Result<Self, InvalidChannel> {
        let name = raw.trim();
        if matches!(name, "" | "$" | "#") || name.len() > MAX_CHANNEL_BYTES {
            return Err(InvalidChannel);
        }
        Ok(Self(name.into()))
    }

    /// Validates a name without trimming it, which may be longer: from an MQTT client, the store, or another node.
    ///
    /// # Errors
    /// [`InvalidChannel`] if it is empty, a sigil alone, or longer than 2,048 bytes.
    pub fn exact(name: &str) -> Result<Self, InvalidChannel> {
        if matches!(name, "" | "$" | "#") || name.len() > MAX_EXACT_CHANNEL_BYTES {
            return Err(InvalidChannel);
        }
        Ok(Self(name.into()))
    }

    /// The point-to-point channel of a client: `#` and its id (§9.d).
    #[must_use]
    pub fn of_client(client: &ClientId) -> Self {
        Self(format!("#{client}").into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind of the channel.
    #[must_use]
    pub fn kind(&self) -> ChannelKind {
        match self.0.as_bytes()[0] {
            b'$' => ChannelKind::Control,
            b'#' => ChannelKind::PeerToPeer,
            _ => ChannelKind::Plain,
        }
    }

    /// The client of a point-to-point channel; `None` for other channels and for a name that no client can have.
    #[must_use]
    pub fn peer(&self) -> Option<ClientId> {
        ClientId::parse(self.0.strip_prefix('#')?).ok()
    }
}

/// A client id: 1 to 256 bytes without surrounding white space (protocol.md 2.8). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Arc<str>);

/// The id is empty, longer than [`MAX_CLIENT_ID_BYTES`], or has surrounding white space: status 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client id must have 1 to 256 bytes and no surrounding white space")]
pub struct InvalidClientId;

impl ClientId {
    /// Validates `raw`, without trimming, because two spellings must not be the same client.
    ///
    /// # Errors
    /// [`InvalidClientId`] if it is empty, longer than 256 bytes, or has surrounding white space.
    pub fn parse(raw: &str) -> Result<Self, InvalidClientId> {
        if raw.is_empty() || raw.len() > MAX_CLIENT_ID_BYTES || raw.trim().len() != raw.len() {
            return Err(InvalidClientId);
        }
        Ok(Self(raw.into()))
    }

    /// The id of a group of clients, for servers: a space and the name, so no client has it.
    ///
    /// # Errors
    /// [`InvalidClientId`] if the name is empty or longer than 255 bytes.
    pub fn of_group(name: &str) -> Result<Self, InvalidClientId> {
        if name.is_empty() || name.len() >= MAX_CLIENT_ID_BYTES {
            return Err(InvalidClientId);
        }
        Ok(Self(format!(" {name}").into()))
    }

    /// Validates an id that a server has stored: of a client, or of a group.
    ///
    /// # Errors
    /// [`InvalidClientId`] if it is neither.
    pub fn stored(raw: &str) -> Result<Self, InvalidClientId> {
        raw.strip_prefix(' ').map_or_else(|| Self::parse(raw), Self::of_group)
    }

    /// Returns `true` for the id of a [group](Self::of_group).
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.0.starts_with(' ')
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! name {
    ($name:ident, $error:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Allows lookups by `&str` in maps keyed by the name: both hash as `str` does.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(raw: &str) -> Result<Self, $error> {
                Self::parse(raw)
            }
        }
    };
}

name!(ChannelName, InvalidChannel);
name!(ClientId, InvalidClientId);

/// The token that `authAck` contains and `conn` sends back (§10). Its `Debug` output is blank.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthToken(Box<str>);

impl AuthToken {
    /// Wraps a token, whose content only the application knows.
    #[must_use]
    pub fn new(token: impl Into<Box<str>>) -> Self {
        Self(token.into())
    }

    /// The text of the token. Never log it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // protocol.md 2.8
    fn channel_names_are_trimmed_and_bounded() {
        assert_eq!(ChannelName::parse(" news\t").unwrap().as_str(), "news");
        assert_eq!(ChannelName::parse(&"x".repeat(512)).unwrap().as_str().len(), 512);
        for bad in ["", "  ", "$", " # ", &"x".repeat(513)] {
            assert_eq!(ChannelName::parse(bad), Err(InvalidChannel), "{bad:?}");
        }
    }

    #[test] // §9.d
    fn the_first_character_determines_the_kind() {
        let kind = |name| ChannelName::parse(name).unwrap().kind();
        assert_eq!(kind("news"), ChannelKind::Plain);
        assert_eq!(kind(" $list"), ChannelKind::Control);
        assert_eq!(kind("#bob"), ChannelKind::PeerToPeer);
    }

    #[test] // protocol.md 2.8
    fn client_ids_are_taken_as_they_are_or_refused() {
        assert_eq!(ClientId::parse("bob smith").unwrap().as_str(), "bob smith");
        for bad in ["", " bob", "bob\n", &"x".repeat(257)] {
            assert_eq!(ClientId::parse(bad), Err(InvalidClientId), "{bad:?}");
        }
    }

    #[test]
    fn no_client_has_the_id_of_a_group() {
        let group = ClientId::of_group("g/a/+").unwrap();
        assert!(group.is_group() && ClientId::parse(group.as_str()).is_err());
        assert_eq!(ClientId::stored(group.as_str()), Ok(group));
        let bob = ClientId::parse("bob").unwrap();
        assert!(!bob.is_group());
        assert_eq!(ClientId::stored("bob"), Ok(bob));
        assert!(ClientId::of_group(&"x".repeat(255)).is_ok());
        for bad in ["", &"x".repeat(256)] {
            assert_eq!(ClientId::of_group(bad), Err(InvalidClientId));
        }
        assert_eq!(ClientId::stored("bob "), Err(InvalidClientId));
    }

    #[test]
    fn a_token_does_not_show_in_debug_output() {
        assert!(!format!("{:?}", AuthToken::new("secret")).contains("secret"));
    }
}
