//! What a user may see, by the API server's RBAC.
//!
//! In: a user whom the API server has authenticated. Out: whether they may read a resource of a namespace. Must not: decide itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use netpol_kube::{Access, Error};
use tokio::time::Instant;

use super::protocol::GROUP;

/// How long an answer holds. A stream of drops asks for the namespace of each peer.
const REPETITION: Duration = Duration::from_secs(10);

/// Answers that are kept.
const MAX_KNOWN: usize = 10_000;

/// A user of the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// What a user wants to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deed {
    /// `list` or `watch`.
    pub(crate) verb: &'static str,
    /// Such as `drops`.
    pub(crate) resource: &'static str,
    /// `None`: all of them.
    pub(crate) namespace: Option<String>,
}

/// Asks the API server about rights.
pub(crate) struct Rights {
    access: Access,
    known: Mutex<BTreeMap<(User, Deed), (bool, Instant)>>,
}

impl Rights {
    pub(crate) fn new(access: Access) -> Self {
        Self { access, known: Mutex::default() }
    }

    /// Whether the user may do this.
    ///
    /// # Errors
    /// The API server does not answer.
    pub(crate) async fn may(&self, user: &User, deed: &Deed) -> Result<bool, Error> {
        let key = (user.clone(), deed.clone());
        if let Some(answer) = self.known(&key) {
            return Ok(answer);
        }
        let Deed { verb, resource, namespace } = deed;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    namespace: namespace.clone(),
                    verb: Some((*verb).to_owned()),
                    group: Some(GROUP.to_owned()),
                    resource: Some((*resource).to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.access.client());
        let reviewed = reviews.create(&PostParams::default(), &review).await?;
        let answer =
            reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, (answer, Instant::now() + REPETITION));
        Ok(answer)
    }

    fn known(&self, key: &(User, Deed)) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, until) = known.get(key)?;
        (*until > Instant::now()).then_some(*answer)
    }
}
