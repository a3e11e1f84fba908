//! When a commit to the SQLite file counts as done.

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Synchronous {
    /// Once the disk has it: it survives a power failure.
    #[default]
    Full,
    /// Once the operating system has it: it survives the end of this process, and a power failure
    /// may undo the last commits.
    Normal,
}
