//! `jmqtd passwd`: changes a password file.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use jmqt_server::BoxError;
use jmqt_server::ready::PasswordFile;
use zeroize::Zeroizing;

/// Sets the password of a user, which it asks for.
pub(crate) fn set(file: &Path, user: &str) -> Result<(), BoxError> {
    let is_new = !file.exists();
    let password = ask(user)?;
    PasswordFile::set(file, user, password.as_bytes())?;
    let made = if is_new { " (a new file, which only its owner can read)" } else { "" };
    println!("The password of {user:?} is in {}{made}", file.display());
    Ok(())
}

/// Removes a user.
pub(crate) fn remove(file: &Path, user: &str) -> Result<(), BoxError> {
    PasswordFile::remove(file, user)?;
    println!("There is no user {user:?} in {} any more", file.display());
    Ok(())
}

/// A password is not shown while it is typed, and is never an argument, which others on this machine could see.
fn ask(user: &str) -> Result<Zeroizing<String>, BoxError> {
    if !io::stdin().is_terminal() {
        let mut line = Zeroizing::new(String::new());
        io::stdin().read_line(&mut line)?;
        return Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let password = Zeroizing::new(rpassword::prompt_password(format!("Password of {user}: "))?);
    let again = Zeroizing::new(rpassword::prompt_password("The same again: ")?);
    if password != again {
        return Err("the two passwords differ; nothing was changed".into());
    }
    Ok(password)
}
