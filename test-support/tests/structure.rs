//! The structure of all crates of this repository.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::path::{Path, PathBuf};

use test_support::{SourceFile, circular_imports, source_files};

/// The `src` folders of all crates, and of programs in folders of their own.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let children = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().join("src")).filter(|src| src.is_dir()).collect::<Vec<_>>()
    };
    let mut sources = [children(&root), children(&root.join("examples"))].concat();
    sources.push(root.join("jmqt-client/src/bin/jmqt"));
    sources
}

#[test]
fn no_files_of_a_crate_import_each_other_in_a_circle() {
    let sources = sources();
    assert!(sources.len() > 10, "only {sources:?} were found");
    for src in sources {
        let circle = circular_imports(&source_files(&src));
        assert!(circle.is_empty(), "in {}, files import each other in a circle:\n{circle}", src.display());
    }
}

#[test]
fn a_circle_of_files_is_found() {
    let file = |name: &str, code: &str| SourceFile {
        path: format!("{name}.rs"),
        module: vec![name.to_owned()],
        code: format!("//! A file.\n{code}"),
    };
    let files = [
        file("above", "use crate::left::Left;"),
        file("left", "use std::fmt;\nuse crate::right::{Right, Wrong};"),
        file("right", "fn right() { crate::left::left(); }"),
        file("below", ""),
    ];
    assert_eq!(circular_imports(&files), "left.rs imports right.rs\nright.rs imports left.rs");
    assert_eq!(circular_imports(&files[..2]), "");
}
