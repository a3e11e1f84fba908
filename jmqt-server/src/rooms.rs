//! Tests that ARCHITECTURE.md is a true map: it names the rooms from top to bottom and what each imports, the code imports
//! nothing else, and no files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use test_support::{SourceFile, circular_imports, paths_from, source_files};

fn room_of(file: &SourceFile) -> &str {
    file.module.first().map_or("lib", String::as_str)
}

/// These import what they re-export, which is all that is public.
const RE_EXPORTS: [&str; 2] = ["lib", "prelude"];

/// What ARCHITECTURE.md says of a room.
struct Row {
    room: String,
    imports: BTreeSet<String>,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn map() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    fs::read_to_string(path).unwrap()
}

/// The part of ARCHITECTURE.md under a heading.
fn section<'a>(map: &'a str, heading: &str) -> &'a str {
    let start = map.find(&format!("## {heading}\n")).unwrap_or_else(|| panic!("no section {heading:?}"));
    let rest = &map[start + 3..];
    &rest[..rest.find("\n## ").unwrap_or(rest.len())]
}

fn files() -> Vec<SourceFile> {
    let files = source_files(&source());
    assert!(files.len() > 100, "{} files were found", files.len());
    files
}

/// The crates with the packets of the languages count as rooms.
const PACKETS: [&str; 2] = ["jmqt_protocol", "jmqt_mqtt"];

fn packets_in(file: &SourceFile) -> Vec<&str> {
    PACKETS.into_iter().filter(|&packets| file.code.contains(packets)).collect()
}

fn imported_rooms(file: &SourceFile) -> BTreeSet<&str> {
    let rooms = paths_from(&file.code, "crate::").map(|path| path.split("::").next().unwrap_or_default());
    rooms.filter(|room| *room != room_of(file)).chain(packets_in(file)).collect()
}

fn rows(map: &str) -> Vec<Row> {
    let table = section(map, "Rooms").lines().filter(|line| line.starts_with("| `"));
    let rows = table.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let names = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
        };
        let (rooms, imports) = (names(cells[1]), names(cells[3]).into_iter().collect::<BTreeSet<_>>());
        rooms.into_iter().map(move |room| Row { room, imports: imports.clone() })
    });
    rows.flatten().collect()
}

#[test]
fn the_table_has_every_room_once_and_no_arrow_goes_up() {
    let map = map();
    let rows = rows(&map);
    let in_table: BTreeSet<&str> = rows.iter().map(|row| row.room.as_str()).collect();
    assert_eq!(in_table.len(), rows.len(), "a room is in the table twice");
    let files = files();
    let in_tree: BTreeSet<&str> = files.iter().map(room_of).chain(PACKETS).collect();
    assert_eq!(in_table, in_tree, "left: rooms in ARCHITECTURE.md; right: rooms in src");
    for (at, row) in rows.iter().enumerate() {
        let below: BTreeSet<&str> = rows[at + 1..].iter().map(|row| row.room.as_str()).collect();
        for import in &row.imports {
            assert!(
                below.contains(import.as_str()),
                "ARCHITECTURE.md lets `{}` import `{import}`, which is not below it",
                row.room
            );
        }
    }
}

#[test]
fn rooms_import_what_the_table_allows_and_all_of_it() {
    let map = map();
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let rows = rows(&map);
    let files = files();
    for file in files.iter().filter(|file| !RE_EXPORTS.contains(&room_of(file))) {
        for room in imported_rooms(file) {
            imports.entry(room_of(file).to_owned()).or_default().insert(room.to_owned());
            let row = rows.iter().find(|row| row.room == room_of(file));
            if row.is_none_or(|row| !row.imports.contains(room)) {
                wrong.push(format!("{} imports `{room}`", file.path));
            }
        }
    }
    for row in rows.iter().filter(|row| !RE_EXPORTS.contains(&row.room.as_str())) {
        let used = imports.remove(&row.room).unwrap_or_default();
        for import in row.imports.difference(&used) {
            wrong.push(format!("the table lets `{}` import `{import}`, and no file does", row.room));
        }
    }
    assert!(wrong.is_empty(), "against the table of rooms in ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_files_on_the_path_of_a_message_exist() {
    let map = map();
    let way = section(&map, "The path of a message");
    let named = way.split(|letter: char| !(letter.is_ascii_alphanumeric() || "_/.-".contains(letter)));
    let named: Vec<&str> = named.filter(|word| word.ends_with(".rs") && word.len() > 3).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(
            source().join(name).is_file(),
            "ARCHITECTURE.md names {name}, which is not in jmqt-server/src"
        );
    }
}

#[test] // what a second language needs
fn only_languages_encoders_and_their_trace_name_a_packet() {
    let named: BTreeSet<String> = files()
        .iter()
        // The mapping of payloads is a part of the messages, and filters and topics are a part of the hub, the store, the system's topics
        // and the rules for channels: they are no packets.
        .filter(|file| {
            !["message", "hub", "ready", "store", "system_topics"].contains(&room_of(file))
                && !packets_in(file).is_empty()
        })
        .map(|file| room_of(file).to_owned())
        .collect();
    assert_eq!(named, ["language", "packet_trace", "transport", "wire"].map(ToOwned::to_owned).into());
}

#[test] // all else is called by the name of its room
fn only_the_composition_and_the_sessions_are_methods_of_the_hub() {
    let files = files();
    let methods = files.iter().filter(|file| file.code.contains("\nimpl Hub {"));
    let mut paths: Vec<&str> = methods.map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["hub/mod.rs", "hub/sessions.rs"]);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let circle = circular_imports(&files());
    assert!(circle.is_empty(), "files import each other in a circle:\n{circle}");
}
