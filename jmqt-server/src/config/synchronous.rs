//! When a commit to the SQLite file counts as done.

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Synchronous {
    /// A commit counts when it is on disk: it survives a power failure.
    #[default]
    Full,
    /// A commit counts when the operating system has it: it survives the end of this process, but a power failure
    /// may undo the last commits.
    Normal,
}
