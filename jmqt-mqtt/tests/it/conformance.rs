//! docs/mqtt-conformance.md names tests that exist, for every statement.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources of this crate, of the server and of the client, tests included, and the tests with real processes.
fn sources() -> String {
    fn read(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    for crate_folder in [".", "../jmqt-server", "../jmqt-client"] {
        for folder in ["src", "tests/it"] {
            read(&root().join(crate_folder).join(folder), &mut text);
        }
    }
    read(&root().join("../torture/tests"), &mut text);
    text
}

/// The rows of one version: statement, part, tests.
fn rows(version: &str) -> Vec<(String, String, Vec<String>)> {
    let text = fs::read_to_string(root().join("../docs/mqtt-conformance.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(version)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| MQTT-"));
    rows.map(|row| {
        let columns: Vec<_> = row.trim_matches('|').split(" | ").map(|column| column.trim()).collect();
        let [statement, _, part, test] = columns[..] else { panic!("{row} has not four columns") };
        let names = test.split(", ").filter(|name| !name.is_empty());
        (statement.to_owned(), part.to_owned(), names.map(|name| name.trim_matches('`').to_owned()).collect())
    })
    .collect()
}

#[test]
fn every_numbered_statement_has_one_row() {
    for (version, count) in [("MQTT 5.0", 251), ("MQTT 3.1.1", 141)] {
        let rows = rows(version);
        let numbers: BTreeSet<_> = rows.iter().map(|(statement, ..)| statement).collect();
        assert_eq!((rows.len(), numbers.len()), (count, count), "{version}");
    }
}

#[test]
fn named_tests_exist_and_every_statement_has_one_or_a_reason() {
    let sources = sources();
    for (statement, part, tests) in [rows("MQTT 5.0"), rows("MQTT 3.1.1")].concat() {
        let has_reason = ["not applicable: ", "open: "].iter().any(|reason| part.contains(reason));
        assert!(has_reason || !tests.is_empty(), "{statement} has neither a test nor a reason");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "{statement}: there is no test {test}");
        }
    }
}

#[test]
fn every_statement_that_the_sources_cite_has_a_row() {
    let known: BTreeSet<String> =
        [rows("MQTT 5.0"), rows("MQTT 3.1.1")].concat().into_iter().map(|row| row.0).collect();
    let sources = sources();
    let cited = sources.split("MQTT-").skip(1).map(|after| {
        let end =
            after.find(|character: char| !matches!(character, '0'..='9' | '.' | '-')).unwrap_or(after.len());
        format!("MQTT-{}", after[..end].trim_end_matches(['-', '.']))
    });
    for cited in cited.filter(|cited| cited.matches('.').count() == 2) {
        assert!(known.contains(&cited), "{cited} is cited and has no row");
    }
}
