//! An INI file as sections of `key = value` lines with their line numbers.

use std::collections::HashSet;

use super::problems::Problems;

/// The name of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Title<'t> {
    Options,
    Mappings,
    /// `[mapping ADDRESS]`, with the text of the address.
    Mapping(&'t str),
}

/// A section with its entries.
#[derive(Debug)]
pub(super) struct Section<'t> {
    pub(super) line: usize,
    pub(super) title: Title<'t>,
    pub(super) entries: Vec<Entry<'t>>,
}

/// One `key = value`, both trimmed.
#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub(super) line: usize,
    pub(super) key: &'t str,
    pub(super) value: &'t str,
}

/// Cuts a file up. What is wrong is noted and passed over.
pub(super) fn sections<'t>(text: &'t str, problems: &mut Problems) -> Vec<Section<'t>> {
    let mut sections: Vec<Section<'t>> = Vec::new();
    let mut keys = HashSet::new();
    // Entries of a section that is wrong would only be wrong once more.
    let mut is_section_known = true;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, content) in text.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line))) {
        if content.is_empty() {
            continue;
        }
        if let Some(name) = heading(content) {
            let title = title(name);
            is_section_known = title.is_some();
            match title {
                None => problems.note(
                    line,
                    content,
                    "unknown section; expected [options], [mappings] or [mapping ADDRESS]",
                ),
                Some(title) if sections.iter().any(|section| section.title == title) => {
                    problems.note(line, content, "duplicate section");
                    is_section_known = false;
                }
                Some(title) => {
                    sections.push(Section { line, title, entries: Vec::new() });
                    keys.clear();
                }
            }
            continue;
        }
        let Some((key, value)) = content.split_once('=') else {
            problems.note(line, content, "expected `key = value` or `[section]`");
            continue;
        };
        if !is_section_known {
            continue;
        }
        let entry = Entry { line, key: key.trim(), value: value.trim() };
        match sections.last_mut() {
            None => problems.note(
                line,
                entry.key,
                "a line before the first section; expected [options] or [mappings] above it",
            ),
            Some(section) if keys.insert(entry.key) => section.entries.push(entry),
            Some(_) => problems.note(line, entry.key, "duplicate key"),
        }
    }
    sections
}

/// The line up to a `#` or `;` that begins it or follows white space, trimmed.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (index, c) in line.char_indices() {
        if matches!(c, '#' | ';') && before.is_whitespace() {
            return line[..index].trim();
        }
        before = c;
    }
    line.trim()
}

/// The text in the brackets of a heading. `[::1]:8010 = …` is not a heading.
fn heading(content: &str) -> Option<&str> {
    let inner = content.strip_prefix('[')?.strip_suffix(']')?;
    (!content.contains('=')).then(|| inner.trim())
}

fn title(name: &str) -> Option<Title<'_>> {
    match name {
        "options" => Some(Title::Options),
        "mappings" => Some(Title::Mappings),
        _ => {
            let (word, address) = name.split_once(char::is_whitespace)?;
            (word == "mapping").then(|| Title::Mapping(address.trim()))
        }
    }
}
