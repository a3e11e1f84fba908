//! Tests that ARCHITECTURE.md is a true map: it names the rooms from top to bottom and what each imports, the code imports
//! nothing else, and no files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its module path, and its text without tests and comments.
struct File {
    path: String,
    module: Vec<String>,
    code: String,
}

impl File {
    fn room(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }
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

fn files() -> Vec<File> {
    let mut paths = Vec::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                Some(extension) if extension == "rs" => paths.push(path),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    let mut files: Vec<File> = paths.iter().map(|path| file(path)).collect();
    let only_in_tests: BTreeSet<Vec<String>> = files.iter().flat_map(test_modules).collect();
    files.retain(|file| !only_in_tests.contains(&file.module));
    for file in &mut files {
        let end = file.code.find("#[cfg(test)]\nmod tests {").unwrap_or(file.code.len());
        file.code.truncate(end);
    }
    assert!(files.len() > 100, "{} files were found", files.len());
    files
}

fn file(path: &Path) -> File {
    let relative = path.strip_prefix(source()).unwrap();
    let mut module: Vec<String> =
        relative.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
        module.pop();
    }
    let text = fs::read_to_string(path).unwrap();
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    File { path: relative.display().to_string(), module, code: code.join("\n") }
}

/// Modules that are files of their own and only there for tests.
fn test_modules(file: &File) -> Vec<Vec<String>> {
    let declared = file.code.split("#[cfg(test)]\n").skip(1);
    let names = declared.filter_map(|rest| {
        let line = rest.lines().next()?;
        line.trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';')
    });
    names.map(|name| file.module.iter().cloned().chain([name.to_owned()]).collect()).collect()
}

/// The paths that follow `from` in the code, up to what is no part of a path.
fn paths_from<'a>(code: &'a str, from: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(from).filter_map(move |(at, _)| {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':' || byte == b'$';
        let begins = at == 0 || !is_word(code.as_bytes()[at - 1]);
        let rest = &code[at + from.len()..];
        begins.then(|| &rest[..rest.bytes().take_while(|&byte| is_word(byte)).count()])
    })
}

/// The crate with JMQT's packets counts as a room.
const PACKETS: &str = "jmqt_protocol";

fn imported_rooms(file: &File) -> BTreeSet<&str> {
    let rooms = paths_from(&file.code, "crate::").map(|path| path.split("::").next().unwrap_or_default());
    let packets = file.code.contains(PACKETS).then_some(PACKETS);
    rooms.filter(|room| *room != file.room()).chain(packets).collect()
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
    let in_tree: BTreeSet<&str> = files.iter().map(File::room).chain([PACKETS]).collect();
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
    for file in files.iter().filter(|file| !RE_EXPORTS.contains(&file.room())) {
        for room in imported_rooms(file) {
            imports.entry(file.room().to_owned()).or_default().insert(room.to_owned());
            let row = rows.iter().find(|row| row.room == file.room());
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
        .filter(|file| file.code.contains(PACKETS))
        .map(|file| file.room().to_owned())
        .collect();
    assert_eq!(named, ["language", "packet_trace", "transport", "wire"].map(ToOwned::to_owned).into());
}

/// Private imports of a file, as module paths from the root of the crate.
fn imports_of(file: &File) -> Vec<Vec<String>> {
    let mut imports = Vec::new();
    for import in file.code.split("\nuse ").skip(1) {
        let import: String = import[..import.find(';').unwrap_or(import.len())].split_whitespace().collect();
        let (path, names) = match import.split_once("::{") {
            Some((path, names)) => (path.to_owned(), names.trim_end_matches('}').to_owned()),
            None => (import.clone(), String::new()),
        };
        let base: Vec<&str> = path.split("::").collect();
        let mut module: Vec<String> = match base[0] {
            "crate" => Vec::new(),
            "self" => file.module.clone(),
            "super" => file.module[..file.module.len().saturating_sub(1)].to_vec(),
            // A child of this file, or another crate; the caller decides which.
            _ => file.module.iter().cloned().chain([base[0].to_owned()]).collect(),
        };
        for part in &base[1..] {
            match *part {
                "super" => drop(module.pop()),
                part => module.push(part.to_owned()),
            }
        }
        match names.is_empty() {
            true => imports.push(module),
            false => imports.extend(names.split(',').filter(|name| !name.is_empty()).map(|name| {
                let name = name.trim_start_matches("self").split("::").map(ToOwned::to_owned);
                module.iter().cloned().chain(name).collect()
            })),
        }
    }
    imports
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let files = files();
    let by_module: BTreeMap<&[String], usize> =
        files.iter().enumerate().map(|(at, file)| (file.module.as_slice(), at)).collect();
    let arrows: Vec<BTreeSet<usize>> = files
        .iter()
        .map(|file| {
            let to = imports_of(file).into_iter().filter_map(|import| {
                let at = (1..=import.len()).rev().find_map(|end| by_module.get(&import[..end]).copied())?;
                // A file and its folder are one module, and a name of another crate resolves to the file itself.
                (!file.module.starts_with(&files[at].module)).then_some(at)
            });
            to.collect()
        })
        .collect();
    // Files without remaining imports are removed, until all remaining ones are in a circle or above one.
    let mut left: BTreeSet<usize> = (0..files.len()).collect();
    while let Some(at) = left.iter().copied().find(|&at| arrows[at].is_disjoint(&left)) {
        left.remove(&at);
    }
    // Files that no remaining file imports are removed too.
    while let Some(at) = left.iter().copied().find(|&at| left.iter().all(|&from| !arrows[from].contains(&at)))
    {
        left.remove(&at);
    }
    let circle: Vec<String> = left
        .iter()
        .flat_map(|&at| arrows[at].intersection(&left).map(move |&to| (at, to)))
        .map(|(from, to)| format!("{} imports {}", files[from].path, files[to].path))
        .collect();
    assert!(circle.is_empty(), "files import each other in a circle:\n{}", circle.join("\n"));
}
