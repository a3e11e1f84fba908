//! The `main` of a server: runs it, and prints its error for people to read.

use std::error::Error;
use std::process::ExitCode;

use crate::validators::BoxError;

/// Runs an async program on a tokio runtime of all processors, and turns its outcome into an exit code
/// ([`exit_code`](crate::exit_code)). An error is
/// printed to stderr as text, with its causes.
///
/// ```no_run
/// use jmqt_server::prelude::*;
///
/// async fn serve() -> Result<(), BoxError> {
///     let config = Config::load(None)?;
///     // ...
/// #   let _ = config;
///     Ok(())
/// }
///
/// fn main() -> std::process::ExitCode {
///     jmqt_server::run(serve())
/// }
/// ```
///
/// It is for programs that have nothing else to do with a runtime. Others use `#[tokio::main]` and print errors
/// themselves.
pub fn run(program: impl Future<Output = Result<(), BoxError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(program),
        Err(error) => Err(format!("cannot start the async runtime: {error}").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&*error));
            crate::exit_code(&*error)
        }
    }
}

/// The error's text, followed by those of its causes that it does not repeat.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no commit")]
    struct Outer(#[source] std::io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("no commit: {0}")]
    struct Repeating(#[source] std::io::Error);

    #[test]
    fn an_error_is_text_with_each_cause_once() {
        let full = || std::io::Error::other("disk full");
        assert_eq!(with_causes(&Outer(full())), "no commit: disk full");
        assert_eq!(with_causes(&Repeating(full())), "no commit: disk full");
    }
}
