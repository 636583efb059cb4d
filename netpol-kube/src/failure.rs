//! Failures of lists and watches, and the remedy for each.

use std::time::Duration;

use super::access::Error;
use super::request::End;

/// A watch that ends sooner without an error did not work.
pub(super) const MIN_WATCH: Duration = Duration::from_secs(5);

/// Why a list or watch ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] Error),
    /// The stream of lines ended.
    #[error(transparent)]
    Ended(#[from] End),
    /// No line arrived for this long, not even a bookmark.
    #[error("the watch has been silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// The server sent an `ERROR` event.
    #[error("the API server ended the watch: {code} {reason}: {message}")]
    ErrorEvent {
        /// HTTP status.
        code: u16,
        /// `reason` of the status.
        reason: String,
        /// `message` of the status.
        message: String,
    },
    /// The server treated a streaming list as an ordinary watch.
    #[error("the API server does not support streaming lists")]
    NoStreamingList,
}

/// The receiving end of the updates was dropped.
pub(super) struct Stopped;

/// Why a step of a list or watch ended without success.
pub(super) enum Stop {
    /// The list or watch failed.
    Failed(Failure),
    /// The receiving end of the updates was dropped.
    Stopped,
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<Stopped> for Stop {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// How to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// List in pages, now and from now on, without delay.
    OnlyPages,
    /// List in pages this time, without delay.
    Pages,
    /// Watch from the same version, without delay.
    GoOn,
    /// Try the same again, after a delay.
    Retry,
    /// List again, after a delay.
    NewList,
    /// List again, without delay if the previous list was followed by events: the server works, and only the version is too
    /// old.
    Relist,
}

impl Failure {
    /// How to continue after this failure of a list or watch that lasted for `lasted`.
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
            Self::ErrorEvent { .. } if phase == Phase::StreamingList => Remedy::Pages,
            Self::ErrorEvent { code: 410, .. } => Remedy::Relist,
            Self::Ended(End::Garbled(_) | End::Endless) | Self::ErrorEvent { .. } => {
                Remedy::NewList
            }
        }
    }

    /// Whether the failure is reported at once. A closed connection or a version that is too old is not, because both are part
    /// of normal operation.
    pub(super) fn is_serious(&self) -> bool {
        match self {
            Self::Request(error) => error.status() != Some(410),
            Self::ErrorEvent { code, .. } => *code != 410,
            Self::Silent(_) | Self::Ended(End::Dead(_) | End::Garbled(_) | End::Endless) => true,
            Self::Ended(End::Closed | End::Broken(_)) | Self::NoStreamingList => false,
        }
    }

    /// Whether the server has nothing under the path of the request.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Request(error) if error.status() == Some(404))
    }

    /// Whether the server refused the request for want of rights.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Request(error) if error.status() == Some(403))
    }

    /// Whether a client from a configuration that is read again may succeed: the server refused the credentials, or could not
    /// be reached or authenticated.
    pub(super) fn wants_new_client(&self) -> bool {
        match self {
            Self::Request(error @ Error::Request { .. }) => {
                matches!(error.status(), None | Some(401))
            }
            Self::Request(_)
            | Self::Ended(_)
            | Self::Silent(_)
            | Self::ErrorEvent { .. }
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
    fn a_refused_streaming_list_is_listed_in_pages_and_a_refused_version_again() {
        check(&answer(422), Phase::StreamingList, Remedy::OnlyPages);
        check(&answer(422), Phase::Watch, Remedy::NewList);
        check(&answer(410), Phase::Watch, Remedy::Relist);
        check(&answer(410), Phase::Pages, Remedy::NewList);
    }

    #[test]
    fn an_error_event_in_a_streaming_list_leads_to_pages_and_in_a_watch_to_a_new_list() {
        let error_event = |code| Failure::ErrorEvent {
            code,
            reason: "InternalError".to_owned(),
            message: "no".to_owned(),
        };
        for code in [410, 500] {
            check(&error_event(code), Phase::StreamingList, Remedy::Pages);
        }
        check(&error_event(410), Phase::Watch, Remedy::Relist);
        check(&error_event(500), Phase::Watch, Remedy::NewList);
    }

    #[test]
    fn a_failing_server_causes_no_new_list() {
        for code in [401, 403, 429, 500, 503] {
            check(&answer(code), Phase::Watch, Remedy::Retry);
        }
        check(&Failure::Ended(End::Closed), Phase::Watch, Remedy::Retry);
    }

    #[test]
    fn a_watch_that_lasted_continues_without_delay() {
        let closed = Failure::Ended(End::Closed);
        assert_eq!(closed.remedy(Phase::Watch, MIN_WATCH), Remedy::GoOn);
    }

    #[test]
    fn only_refused_credentials_and_unreachable_servers_need_a_new_client() {
        assert!(answer(401).wants_new_client());
        assert!(!answer(403).wants_new_client());
        assert!(!answer(500).wants_new_client());
    }
}
