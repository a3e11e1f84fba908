//! The suite: which rows there are, how their runs alternate, and how the result reads.

pub(crate) mod contest;
pub(crate) mod report;
pub(crate) mod row;
pub(crate) mod rows;
pub(crate) mod target;
