//! Why following a kind was interrupted, and what follows from that.

use std::time::Duration;

use super::access::Error;
use super::request::End;

/// A watch that ends sooner, without a word, did not work.
pub(super) const MIN_WATCH: Duration = Duration::from_secs(5);

/// Why following has to be taken up again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] Error),
    /// The watch ended by itself.
    #[error(transparent)]
    Ended(#[from] End),
    /// Nothing came for so long that the connection may be dead.
    #[error("the watch is silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// The server sent an error instead of an event.
    #[error("the watch was given up by the server: {code} {reason}: {message}")]
    GivenUp {
        /// HTTP status.
        code: u16,
        /// The status in one word.
        reason: String,
        /// The server's words.
        message: String,
    },
    /// The server did not answer a streaming list as one.
    #[error("the server does not know streaming lists")]
    NoStreamingList,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Read lists in pages from now on, at once.
    OnlyPages,
    /// Read this list in pages, at once.
    Pages,
    /// From the same version, at once: nothing is wrong.
    GoOn,
    /// From the same version, after a while.
    Retry,
    /// From a new list, after a while.
    NewList,
    /// From a new list, at once if it is the first in a row: the server answers, and has only forgotten the version.
    Relist,
}

impl Failure {
    /// Where to go on after the watch or list that lasted so long.
    pub(super) fn remedy(&self, phase: Phase, lasted: Duration) -> Remedy {
        match self {
            Self::NoStreamingList => Remedy::OnlyPages,
            Self::Request(error) => match (error.status(), phase) {
                (Some(400 | 422), Phase::StreamingList) => Remedy::OnlyPages,
                (Some(410), Phase::Watch) => Remedy::Relist,
                (Some(400 | 404 | 410 | 422), _) => Remedy::NewList,
                _ => Remedy::Retry,
            },
            Self::Ended(End::Closed) if lasted >= MIN_WATCH => Remedy::GoOn,
            Self::Ended(End::Closed | End::Broken(_) | End::Dead(_)) => Remedy::Retry,
            Self::Silent(_) => Remedy::GoOn,
            Self::GivenUp { .. } if phase == Phase::StreamingList => Remedy::Pages,
            Self::GivenUp { code: 410, .. } => Remedy::Relist,
            Self::Ended(End::Garbled(_) | End::Endless) | Self::GivenUp { .. } => Remedy::NewList,
        }
    }

    /// Whether something is wrong that the user should know of at once: not when a connection ends,
    /// or a version is too old, as happens every day.
    pub(super) fn is_serious(&self) -> bool {
        match self {
            Self::Request(error) => error.status() != Some(410),
            Self::GivenUp { code, .. } => *code != 410,
            Self::Silent(_) | Self::Ended(End::Dead(_) | End::Garbled(_) | End::Endless) => true,
            Self::Ended(End::Closed | End::Broken(_)) | Self::NoStreamingList => false,
        }
    }

    /// Whether a client that reads its configuration again may fare better: the server refuses the
    /// credentials, or cannot be reached or trusted.
    pub(super) fn wants_new_client(&self) -> bool {
        match self {
            Self::Request(error @ Error::Request { .. }) => {
                matches!(error.status(), None | Some(401))
            }
            Self::Request(_)
            | Self::Ended(_)
            | Self::Silent(_)
            | Self::GivenUp { .. }
            | Self::NoStreamingList => false,
        }
    }
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The beginning of a watch that sends what exists first.
    StreamingList,
    /// A list in pages.
    Pages,
    /// A watch after a known version.
    Watch,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16) -> Failure {
        let status = kube::core::Status { code, ..kube::core::Status::default() };
        Failure::Request(Error::from(kube::Error::Api(Box::new(status))))
    }

    fn check(failure: &Failure, phase: Phase, expected: Remedy) {
        assert_eq!(failure.remedy(phase, Duration::ZERO), expected, "{failure} {phase:?}");
    }

    #[test]
    fn a_refused_streaming_list_is_read_in_pages_and_a_refused_version_anew() {
        check(&answer(422), Phase::StreamingList, Remedy::OnlyPages);
        check(&answer(422), Phase::Watch, Remedy::NewList);
        check(&answer(410), Phase::Watch, Remedy::Relist);
        check(&answer(410), Phase::Pages, Remedy::NewList);
    }

    #[test]
    fn an_error_event_ends_a_streaming_list_for_once_and_a_watch_for_good() {
        let given_up = |code| Failure::GivenUp {
            code,
            reason: "InternalError".to_owned(),
            message: "no".to_owned(),
        };
        for code in [410, 500] {
            check(&given_up(code), Phase::StreamingList, Remedy::Pages);
        }
        check(&given_up(410), Phase::Watch, Remedy::Relist);
        check(&given_up(500), Phase::Watch, Remedy::NewList);
    }

    #[test]
    fn a_server_in_trouble_costs_no_new_list() {
        for code in [401, 403, 429, 500, 503] {
            check(&answer(code), Phase::Watch, Remedy::Retry);
        }
        check(&Failure::Ended(End::Closed), Phase::Watch, Remedy::Retry);
    }

    #[test]
    fn a_watch_that_lasted_goes_on_at_once() {
        let closed = Failure::Ended(End::Closed);
        assert_eq!(closed.remedy(Phase::Watch, MIN_WATCH), Remedy::GoOn);
    }

    #[test]
    fn only_refused_credentials_and_broken_ways_ask_for_a_new_client() {
        assert!(answer(401).wants_new_client());
        assert!(!answer(403).wants_new_client());
        assert!(!answer(500).wants_new_client());
    }
}
