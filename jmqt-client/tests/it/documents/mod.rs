//! The examples in README.md and the other documents work: a test compiles, parses or runs each. An example without a test
//! fails.

mod certificates;
#[cfg(feature = "cli")]
mod command_line;
mod readme;
mod shell;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jmqt_server::Config;

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A fenced block of a document.
#[derive(Debug)]
struct Snippet {
    /// The document's path in the repository.
    file: String,
    /// The line of the fence.
    line: usize,
    /// What follows the fence's backticks.
    language: String,
    text: String,
}

impl Snippet {
    /// Where it is, for messages.
    fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

/// The documents of the repository, by path.
fn documents() -> BTreeMap<String, String> {
    let mut documents = BTreeMap::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                if !name.starts_with('.') && !["target", "node_modules", "jmqt-data"].contains(&&*name) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                let inside = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                documents.insert(inside, fs::read_to_string(path).unwrap());
            }
        }
    }
    documents
}

/// All fenced blocks of all documents, without the indentation that their fences have.
fn snippets() -> Vec<Snippet> {
    let mut snippets = Vec::new();
    for (file, text) in documents() {
        let mut open: Option<(Snippet, usize)> = None;
        for (index, line) in text.lines().enumerate() {
            let indentation = line.len() - line.trim_start().len();
            let fence = line.trim_start().strip_prefix("```");
            match (open.take(), fence) {
                (None, None) => {}
                (None, Some(language)) => {
                    let (language, text) = (language.trim().to_owned(), String::new());
                    open =
                        Some((Snippet { file: file.clone(), line: index + 1, language, text }, indentation));
                }
                (Some((snippet, _)), Some(_)) => snippets.push(snippet),
                (Some((mut snippet, indentation)), None) => {
                    let own = line.char_indices().find(|(at, letter)| *at >= indentation || *letter != ' ');
                    snippet.text.push_str(own.map_or("", |(at, _)| &line[at..]));
                    snippet.text.push('\n');
                    open = Some((snippet, indentation));
                }
            }
        }
        assert!(open.is_none(), "{file}: a block is not closed");
    }
    assert!(snippets.len() > 30, "{}", snippets.len());
    snippets
}

/// Those of a language.
fn in_language(language: &str) -> Vec<Snippet> {
    snippets().into_iter().filter(|snippet| snippet.language == language).collect()
}

/// Documents whose JavaScript is run by `jmqt-js/test/readme.test.ts`.
const JAVASCRIPT: [&str; 2] = ["README.md", "jmqt-js/README.md"];
/// Its JSON is what jmqtd and a web backend tell each other.
const BACKEND: &str = "jmqt-broker/README.md";
/// Compared with a program and its page by the tests of `examples/tutorial`.
const TUTORIAL: &str = "docs/tutorial.md";
/// Documents whose sections of `load_balancer.conf` the tests of `jmqt-lb` parse.
const LOAD_BALANCER: [&str; 2] = ["docs/load-balancer.md", "jmqt-lb/README.md"];

#[test]
fn every_example_of_the_documents_is_looked_at_by_a_test() {
    let root = root();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let javascript_tests = read("jmqt-js/test/readme.test.ts");
    let mut unknown = Vec::new();
    for snippet in snippets() {
        let file = &*snippet.file;
        let is_looked_at = match &*snippet.language {
            "text" => true, // what a program prints, and drawings
            "rust" if file == TUTORIAL => true,
            "rust" | "rust,no_run" => is_compiled(file),
            "html" | "js" => {
                file == TUTORIAL
                    || JAVASCRIPT.contains(&file)
                        && javascript_tests.contains(file.trim_start_matches("jmqt-js/"))
            }
            "ini" => LOAD_BALANCER.contains(&file) || OF_OTHERS.contains(&snippet.first_line()),
            "nginx" | "haproxy" | "redis" | "yaml" => OF_OTHERS.contains(&snippet.first_line()),
            "toml" | "json" | "sh" | "sql" => true, // by the tests below, wherever it is
            _ => false,
        };
        if !is_looked_at {
            unknown.push(format!("{} ({})", snippet.place(), snippet.language));
        }
    }
    assert!(unknown.is_empty(), "no test looks at these: {unknown:?}");
}

/// Whether the documentation tests of a crate compile the Rust of this document: that of its own README.md, of the
/// repository's, or of the folder `docs`.
fn is_compiled(document: &str) -> bool {
    let (of_crate, path) = match document.strip_suffix("/README.md") {
        Some(of_crate) => (of_crate, "../README.md".to_owned()),
        None if document == "README.md" => ("jmqt-client", "../../README.md".to_owned()),
        None => ("jmqt-server", format!("../../{document}")),
    };
    let included = format!("include_str!({path:?})");
    fs::read_to_string(root().join(of_crate).join("src/lib.rs")).is_ok_and(|lib| lib.contains(&included))
}

/// Configurations of other programs, by their first lines: nothing here can parse them. Try one before it is listed.
const OF_OTHERS: [&str; 7] = [
    "# redis.conf",
    "[mysqld]",
    "global",
    "map $http_upgrade $jmqt { default 8000; websocket 8012; }   # in http { }, page and WebSocket",
    "proxy_http_version 1.1;",
    "worker_rlimit_nofile 20000;",
    "scrape_configs:",
];

impl Snippet {
    fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}

#[test]
fn settings_in_the_documents_are_settings_of_the_server() {
    for snippet in in_language("toml") {
        if snippet.text.contains("[dependencies]") {
            check_dependencies(&snippet);
            continue;
        }
        // A file that mentions no port listens nowhere.
        let text = format!(
            "{}\n{}",
            snippet.text,
            if snippet.text.contains("PORT") { "" } else { "SOCKET_PORT = 0" }
        );
        let config = Config::from_text(&text, [("", ""); 0]);
        config.unwrap_or_else(|error| panic!("{}: {error}", snippet.place()));
    }
}

/// Crates of this repository that a document lists are there, with the features and the version it names.
fn check_dependencies(snippet: &Snippet) {
    let place = snippet.place();
    let manifest: toml::Table = snippet.text.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
    for (name, dependency) in manifest["dependencies"].as_table().unwrap() {
        let Ok(text) = fs::read_to_string(root().join(name).join("Cargo.toml")) else { continue };
        let own: toml::Table = text.parse().unwrap();
        let features = own.get("features").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        for feature in dependency.get("features").and_then(toml::Value::as_array).into_iter().flatten() {
            assert!(
                features.contains_key(feature.as_str().unwrap()),
                "{place}: {name} has no feature {feature:?}"
            );
        }
        if let Some(path) = dependency.get("path").and_then(toml::Value::as_str) {
            assert!(path.ends_with(&format!("/{name}")), "{place}: {path}");
        }
        let version = dependency.get("version").unwrap_or(dependency).as_str();
        if let Some(version) = version {
            assert!(env!("CARGO_PKG_VERSION").starts_with(version), "{place}: {name} {version}");
        }
    }
}

#[test]
fn packets_in_the_documents_are_packets() {
    for snippet in in_language("json") {
        for line in snippet.text.lines() {
            let wrong = if snippet.file == BACKEND {
                serde_json::from_str::<BTreeMap<String, serde_json::Value>>(line)
                    .err()
                    .map(|it| it.to_string())
            } else {
                jmqt_protocol::decode(line).err().map(|it| it.to_string())
            };
            assert_eq!(wrong, None, "{}: {line}", snippet.place());
        }
    }
}

#[test]
fn the_documents_grant_the_rights_that_the_server_needs() {
    let advice = fs::read_to_string(root().join("jmqt-server/src/store/mysql/open.rs")).unwrap();
    for snippet in in_language("sql") {
        let grant = snippet.text.lines().find_map(|line| line.strip_prefix("GRANT "));
        let (rights, _) = grant
            .and_then(|grant| grant.split_once(" ON jmqt.* TO "))
            .unwrap_or_else(|| panic!("{}", snippet.place()));
        assert!(advice.contains(&format!("GRANT {rights} ON ")), "{}: {rights}", snippet.place());
    }
}
