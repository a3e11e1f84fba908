//! `jmqtd admin-key`: changes the file with the keys of operators.

use std::path::Path;

use jmqt_server::BoxError;
use jmqt_server::admin::{add_key, remove_key};

/// Makes a key and prints it. Standard output has the key alone, so that it can be stored in a file.
pub(crate) fn add(file: &Path, name: &str, scope: &str) -> Result<(), BoxError> {
    let key = add_key(file, name, scope.parse()?)?;
    eprintln!(
        "{} has a new key of {name:?} with the scope {scope}. This is the key, which is stored nowhere else:",
        file.display()
    );
    println!("{key}");
    Ok(())
}

/// Removes the keys with a name.
pub(crate) fn remove(file: &Path, name: &str) -> Result<(), BoxError> {
    remove_key(file, name)?;
    println!("There is no key of {name:?} in {} any more", file.display());
    Ok(())
}
