//! docs/mqtt-conformance.md is true as far as it is about this crate.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All sources of the crate, tests included.
fn sources() -> String {
    ["src", "tests/it"]
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).unwrap())
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect()
}

/// The rows of one version: statement, part, test.
fn rows(version: &str) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(root().join("../docs/mqtt-conformance.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(version)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| MQTT-"));
    rows.map(|row| {
        let columns: Vec<_> = row.trim_matches('|').split(" | ").map(|column| column.trim()).collect();
        let [statement, _, part, test] = columns[..] else { panic!("{row} has not four columns") };
        (statement.to_owned(), part.to_owned(), test.trim_matches('`').to_owned())
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
fn named_tests_exist_and_every_codec_statement_has_one() {
    let sources = sources();
    for (statement, part, test) in [rows("MQTT 5.0"), rows("MQTT 3.1.1")].concat() {
        if test.is_empty() {
            assert!(!part.starts_with("codec"), "{statement} is for the codec and has no test");
        } else {
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
