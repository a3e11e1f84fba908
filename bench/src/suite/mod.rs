//! The suite: the rows, the alternation of runs, and the report.

pub(crate) mod contest;
pub(crate) mod report;
pub(crate) mod row;
pub(crate) mod rows;
pub(crate) mod target;
