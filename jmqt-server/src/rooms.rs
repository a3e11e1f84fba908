//! Which room may know what: read off the source.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms through which messages pass without anybody knowing what a packet looks like, and what of the crate each
/// must not name: what is above it, and the rooms for bytes.
const ROOMS: [(&str, &[&str]); 4] = [
    ("hub", &["transport"]),
    ("outbox", &["hub", "bus", "transport"]),
    ("bus", &["hub", "outbox", "wire", "transport"]),
    ("store", &["hub", "outbox", "bus", "wire", "transport"]),
];

/// Above all of them.
const ABOVE: [&str; 6] = ["dispatch", "language", "session", "listener", "server", "handle"];

/// What languages have in common. Everything else in `jmqt_protocol` is packets and how they are written.
const WORDS: [&str; 11] = [
    "ChannelKind",
    "ChannelName",
    "ClientId",
    "DisconnectCode",
    "InvalidChannel",
    "InvalidClientId",
    "Persistence",
    "Qos",
    "Retain",
    "StatusCode",
    "MAX_DEPTH",
];

/// The source files of a room.
fn files(room: &str) -> Vec<PathBuf> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source.join(room), &mut files);
    files.extend(Some(source.join(format!("{room}.rs"))).filter(|file| file.exists()));
    assert!(!files.is_empty(), "room {room} has moved");
    files
}

/// The code of a file, without comments and tests.
fn code(file: &Path) -> String {
    if file.ends_with("tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The first words behind each `path::`, those in braces too: of `path::{A, b::C}`, `A` and `b`.
fn named<'c>(code: &'c str, path: &str) -> Vec<&'c str> {
    let word = |text: &'c str| {
        let end = text.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(text.len());
        &text[..end]
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(path) {
        let behind = &code[at + path.len()..];
        match behind.strip_prefix('{').and_then(|list| list.split('}').next()) {
            Some(list) => names.extend(list.split(',').map(|name| word(name.trim()))),
            None => names.push(word(behind)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn the_names_behind_a_path_are_found() {
    let code = "use jmqt_protocol::{Qos,\n    frame::NUL};\nlet x = jmqt_protocol::decode(y);";
    assert_eq!(named(code, "jmqt_protocol::"), ["Qos", "frame", "decode"]);
}

#[test] // what a second language needs: only `language`, `wire` and `transport` know the first one
fn hub_outbox_bus_and_store_name_no_packet_and_no_framing() {
    for (room, _) in ROOMS {
        for file in files(room) {
            let code = code(&file);
            for name in named(&code, "jmqt_protocol::") {
                assert!(WORDS.contains(&name), "{} names {name} of JMQT", file.display());
            }
        }
    }
}

#[test]
fn no_room_names_one_above_it() {
    for (room, others) in ROOMS {
        for file in files(room) {
            let code = code(&file);
            for name in named(&code, "crate::") {
                let is_above = ABOVE.contains(&name) || others.contains(&name);
                assert!(!is_above, "{} names the room {name}", file.display());
            }
        }
    }
}
