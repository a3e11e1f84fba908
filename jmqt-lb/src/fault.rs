//! The cause of a connection that could not be made.

use std::io;

/// The cause of a connection to a backend that could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Backend,
    /// This machine has no address of the backend's family, or no port left for connections to that
    /// address. It may have for another backend.
    Way,
    /// This machine ran out of something that connections to every backend need.
    Machine,
}

impl Fault {
    pub(crate) fn of(error: &io::Error) -> Self {
        use rustix::io::Errno;
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRNOTAVAIL) => Self::Way,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC) => Self::Machine,
            _ => Self::Backend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_local_resources_is_no_fault_of_a_backend() {
        let of = |number| Fault::of(&io::Error::from_raw_os_error(number));
        assert_eq!(of(24), Fault::Machine); // EMFILE
        assert_eq!(of(28), Fault::Machine); // ENOSPC: no more sockets may be watched
        assert_eq!(of(99), Fault::Way); // EADDRNOTAVAIL
        assert_eq!(of(111), Fault::Backend); // ECONNREFUSED
        assert_eq!(Fault::of(&io::ErrorKind::TimedOut.into()), Fault::Backend);
    }
}
