//! What may be shown to people: no character that could steer their terminal.

use std::io::IsTerminal as _;

/// The present time, as it is printed.
pub(crate) fn now() -> String {
    chrono::Local::now().format("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}

/// For standard output. A terminal gets no character that could steer it or turn the direction of writing; what reads a pipe
/// gets every byte.
pub(crate) fn printed(text: String) -> String {
    if std::io::stdout().is_terminal() { harmless(text) } else { text }
}

/// For standard error, by the same rule.
pub(crate) fn noted(text: String) -> String {
    if std::io::stderr().is_terminal() { harmless(text) } else { text }
}

fn harmless(text: String) -> String {
    if !text.contains(steers) {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if steers(letter) {
            // As JSON writes it, so that data stays the same.
            shown.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            shown.push(letter);
        }
    }
    shown
}

fn steers(letter: char) -> bool {
    (letter.is_control() && letter != '\t' && letter != '\n')
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_steer_a_terminal_are_recognised() {
        for letter in ['\u{1b}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{7f}'] {
            assert!(steers(letter), "{letter:?}");
        }
        for letter in ['a', 'é', '\t', '漢', '\u{200d}'] {
            assert!(!steers(letter), "{letter:?}");
        }
        assert_eq!(harmless("a\u{9b}b".to_owned()), "a\\u009bb");
    }
}
