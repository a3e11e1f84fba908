//! Headers of the request that opens a WebSocket.

use std::fmt;
use std::str::FromStr;

/// A header of the request that opens a WebSocket, such as `Cookie: session=1`. Its value is shown nowhere.
///
/// ```
/// use jmqt_client::Header;
///
/// let header: Header = "Authorization: Bearer abc".parse()?;
/// assert_eq!(format!("{header:?}"), "Header(Authorization: ..)");
/// # Ok::<(), jmqt_client::InvalidHeader>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A text is not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}; expected `Name: value`, such as `Cookie: session=1`")]
pub struct InvalidHeader(&'static str);

/// What the client sets itself.
const OWN: [&str; 4] = ["host", "connection", "upgrade", "content-length"];

impl FromStr for Header {
    type Err = InvalidHeader;

    fn from_str(line: &str) -> Result<Self, InvalidHeader> {
        let (name, value) =
            line.split_once(':').ok_or(InvalidHeader("a header has a colon behind its name"))?;
        let (name, value) = (name.trim(), value.trim());
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(InvalidHeader("the name of the header has a character that may not be there"));
        }
        let lower = name.to_ascii_lowercase();
        if OWN.contains(&lower.as_str()) || lower.starts_with("sec-websocket-") {
            return Err(InvalidHeader("the client sets this header itself"));
        }
        if !value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            return Err(InvalidHeader("the value of the header has a character that is not printable ASCII"));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({}: ..)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_name_and_a_value_and_none_that_the_client_sets() {
        let header: Header = "Cookie:  a=b; c=d ".parse().unwrap();
        assert_eq!((header.name.as_str(), header.value.as_str()), ("Cookie", "a=b; c=d"));
        for (line, problem) in [
            ("secret", "a colon"),
            (": secret", "the name"),
            ("A B: secret", "the name"),
            ("Host: secret", "sets this header itself"),
            ("sec-websocket-key: secret", "sets this header itself"),
            ("A: secret\r\nB: c", "printable ASCII"),
        ] {
            let error = line.parse::<Header>().unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains("secret"), "{line}: {error}");
        }
    }
}
