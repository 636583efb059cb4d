//! Network namespaces by path.
//!
//! In: a path such as `/run/netns/cni-...`. Out: a handle that runs a closure in the namespace, on a separate
//! thread, so that the process itself never changes its namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use netpol_proto::ErrorCode;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why the namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not exist: the container is gone.
    #[error("network namespace {path} does not exist")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The path exists but cannot be opened.
    #[error("cannot open network namespace {path}")]
    Open {
        /// The path.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The file is no network namespace, or the plugin may not enter it.
    #[error("cannot enter network namespace {path}")]
    Enter {
        /// The path.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The namespace is the plugin's own.
    #[error("network namespace {path} is the host's own")]
    Own {
        /// The path.
        path: PathBuf,
    },
}

impl Error {
    /// The CNI error code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Missing { .. } => ErrorCode::UNKNOWN_CONTAINER,
            Self::Open { .. } | Self::Enter { .. } => ErrorCode::IO,
            Self::Own { .. } => ErrorCode::INVALID_NETNS,
        }
    }
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
}

impl Netns {
    /// Opens the namespace at a path. The namespace exists at least as long as the handle.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Open`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                Error::Missing { path: path.into() }
            } else {
                Error::Open { path: path.into(), source }
            }
        })?;
        Ok(Self { path: path.into(), file })
    }

    /// Refuses the plugin's own namespace, because its interfaces are the host's.
    ///
    /// # Errors
    /// [`Error::Own`], [`Error::Open`].
    pub fn refuse_own(&self) -> Result<(), Error> {
        let own = Path::new("/proc/thread-self/ns/net");
        let open = |source| Error::Open { path: own.into(), source };
        let own = std::fs::metadata(own).map_err(open)?;
        let this = self.file.metadata().map_err(open)?;
        if (own.dev(), own.ino()) == (this.dev(), this.ino()) {
            return Err(Error::Own { path: self.path.clone() });
        }
        Ok(())
    }

    /// Runs `inside` in the namespace. Sockets that it opens belong to that namespace, also when they are used later.
    ///
    /// # Errors
    /// [`Error::Enter`].
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let enter = |source| Error::Enter { path: self.path.clone(), source };
        let thread = || -> io::Result<T> {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(inside())
        };
        let outcome = std::thread::scope(|scope| {
            let handle = std::thread::Builder::new().spawn_scoped(scope, thread)?;
            handle.join().unwrap_or_else(|_panic| Err(io::Error::other("thread panicked")))
        });
        outcome.map_err(enter)
    }

    /// The path, as the runtime passed it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file descriptor, for netlink requests that name a namespace.
    pub fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The open namespace.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_and_our_own_namespace_have_their_own_codes() {
        let missing = Netns::open(Path::new("/run/netns/nonexistent")).unwrap_err();
        assert_eq!(missing.code(), ErrorCode::UNKNOWN_CONTAINER);
        let own = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(own.refuse_own().unwrap_err().code(), ErrorCode::INVALID_NETNS);
    }

    #[test]
    fn a_file_that_is_no_namespace_cannot_be_entered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let netns = Netns::open(file.path()).unwrap();
        netns.refuse_own().unwrap();
        let error = netns.run(|| ()).unwrap_err();
        assert!(matches!(error, Error::Enter { .. }), "{error:?}");
    }
}
