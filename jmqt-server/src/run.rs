//! The `main` of a server: runs it, and prints its error.

use std::process::ExitCode;
use std::time::Duration;

use crate::validators::BoxError;

/// How long blocking calls of the program may go on when it has ended. A read of the terminal never ends by itself.
const BLOCKING_CALLS_END: Duration = Duration::from_secs(1);

/// Runs an async program on a multi-threaded tokio runtime, and converts its result to an exit code
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
/// Blocking calls of the program that still run at its end (`spawn_blocking`, a read of the terminal) have one second.
///
/// This is for programs that do not need the runtime for anything else. Others use `#[tokio::main]` and print errors
/// themselves.
pub fn run(program: impl Future<Output = Result<(), BoxError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(program);
            runtime.shutdown_timeout(BLOCKING_CALLS_END);
            outcome
        }
        Err(error) => Err(format!("cannot start the async runtime: {error}").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", jmqt_log::with_causes(&*error));
            crate::exit::exit_code(&*error)
        }
    }
}
