//! The source files of a crate and what they import from each other, for tests of its structure.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file without tests and comments.
#[derive(Debug)]
pub struct SourceFile {
    /// The path below `src`.
    pub path: String,
    /// The path of its module: empty for `lib.rs` and `main.rs`.
    pub module: Vec<String>,
    /// The text.
    pub code: String,
}

/// The files below this `src` folder, without those that only tests compile.
#[must_use]
pub fn source_files(src: &Path) -> Vec<SourceFile> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders = vec![src.to_owned()];
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
    let mut files: Vec<SourceFile> = paths.iter().map(|path| read(src, path)).collect();
    let only_in_tests: BTreeSet<Vec<String>> = files.iter().flat_map(test_modules).collect();
    files.retain(|file| !only_in_tests.contains(&file.module));
    for file in &mut files {
        let end = file.code.find("#[cfg(test)]\nmod tests {").unwrap_or(file.code.len());
        file.code.truncate(end);
    }
    files
}

fn read(src: &Path, path: &Path) -> SourceFile {
    let relative = path.strip_prefix(src).unwrap();
    let mut module: Vec<String> =
        relative.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    let text = fs::read_to_string(path).unwrap();
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    SourceFile { path: relative.display().to_string(), module, code: code.join("\n") }
}

/// Modules in files of their own that only tests compile.
fn test_modules(file: &SourceFile) -> Vec<Vec<String>> {
    let declared = file.code.split("#[cfg(test)]\n").skip(1);
    let names = declared.filter_map(|rest| {
        let line = rest.lines().next()?;
        line.trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';')
    });
    names.map(|name| file.module.iter().cloned().chain([name.to_owned()]).collect()).collect()
}

/// The paths that follow `from` in the code, up to the first character that cannot be in a path.
pub fn paths_from<'a>(code: &'a str, from: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(from).filter_map(move |(at, _)| {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':' || byte == b'$';
        let begins = at == 0 || !is_word(code.as_bytes()[at - 1]);
        let rest = &code[at + from.len()..];
        begins.then(|| &rest[..rest.bytes().take_while(|&byte| is_word(byte)).count()])
    })
}

/// What a file imports from its crate, as module paths from the root of the crate.
fn imports_of(file: &SourceFile) -> Vec<Vec<String>> {
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
    let inline = paths_from(&file.code, "crate::").filter(|path| !path.is_empty());
    imports.extend(inline.map(|path| path.split("::").map(ToOwned::to_owned).collect()));
    imports
}

/// The imports that are part of a circle of files, one per line; empty if no files import each other in a circle.
#[must_use]
pub fn circular_imports(files: &[SourceFile]) -> String {
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
    circle.join("\n")
}
