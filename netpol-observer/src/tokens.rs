//! Which node an agent is of, by its token.
//!
//! In: a token. Out: the node of the pod that it is bound to. Must not: believe what an agent says itself; keep a token.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use netpol_kube::{Access, Error};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::protocol::AUDIENCE;

/// How long an answer of the API server holds. Each agent connects again and again.
const REPETITION: Duration = Duration::from_mins(1);

/// What a token says of the pod that it is bound to. The node is there from Kubernetes 1.30 on.
const POD: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the API server does not review tokens: {0}")]
    Unreviewed(#[from] Error),
    #[error("the token is not valid for the audience {AUDIENCE}")]
    Invalid,
    #[error("the token is of {0}, not of the agents")]
    OfAnother(String),
    #[error("the token is bound to no pod")]
    Unbound,
    #[error("pod {0}, which the token is bound to, does not exist or has no node")]
    NoPod(String),
}

/// Asks the API server about tokens.
pub(crate) struct Tokens {
    access: Access,
    namespace: String,
    /// The user that agents are.
    user: String,
    known: Mutex<BTreeMap<[u8; 32], (String, Instant)>>,
}

impl Tokens {
    /// For agents with this service account.
    pub(crate) fn new(access: Access, namespace: String, service_account: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{service_account}");
        Self { access, namespace, user, known: Mutex::default() }
    }

    /// The node of the agent with this token.
    pub(crate) async fn node(&self, token: &str) -> Result<String, Refusal> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(node) = self.known(&digest) {
            return Ok(node);
        }
        let spec =
            TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let client = self.access.client();
        let reviews = Api::<TokenReview>::all(client.clone());
        let reviewed =
            reviews.create(&PostParams::default(), &review).await.map_err(Error::from)?;
        let node = match owner(&self.user, reviewed.status)? {
            TokenOwner::OnNode(node) => node,
            TokenOwner::Pod { name, uid } => {
                let pods = Api::<Pod>::namespaced(client, &self.namespace);
                let pod = pods.get_opt(&name).await.map_err(Error::from)?;
                let pod = pod.filter(|pod| pod.metadata.uid == uid);
                let node = pod.and_then(|pod| pod.spec?.node_name);
                node.ok_or(Refusal::NoPod(name))?
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, until)| *until > Instant::now());
        known.insert(digest, (node.clone(), Instant::now() + REPETITION));
        Ok(node)
    }

    fn known(&self, digest: &[u8; 32]) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (node, until) = known.get(digest)?;
        (*until > Instant::now()).then(|| node.clone())
    }
}

/// Whom a token belongs to.
#[derive(Debug, PartialEq, Eq)]
enum TokenOwner {
    /// A pod of this node.
    OnNode(String),
    /// This pod.
    Pod { name: String, uid: Option<String> },
}

fn owner(expected: &str, status: Option<TokenReviewStatus>) -> Result<TokenOwner, Refusal> {
    let status = status.unwrap_or_default();
    let is_for_us = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
    if status.authenticated != Some(true) || !is_for_us {
        return Err(Refusal::Invalid);
    }
    let UserInfo { username, extra, .. } = status.user.unwrap_or_default();
    let username = username.unwrap_or_default();
    if username != expected {
        return Err(Refusal::OfAnother(username));
    }
    let extra = extra.unwrap_or_default();
    let only = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) => Some(value.clone()),
        Some(_) | None => None,
    };
    match (only(NODE), only(POD)) {
        (Some(node), _) => Ok(TokenOwner::OnNode(node)),
        (None, Some(name)) => Ok(TokenOwner::Pod { name, uid: only(POD_UID) }),
        (None, None) => Err(Refusal::Unbound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "system:serviceaccount:netpol-system:netpol-agent";

    fn status(username: &str, audience: &str, extra: &[(&str, &[&str])]) -> TokenReviewStatus {
        let of = |(key, values): &(&str, &[&str])| {
            ((*key).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
        };
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(UserInfo {
                username: Some(username.to_owned()),
                extra: Some(extra.iter().map(of).collect()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn only_an_agents_token_for_this_audience_names_a_node() {
        let both: &[(&str, &[&str])] = &[(NODE, &["n1"]), (POD, &["agent-x"])];
        let found = owner(AGENT, Some(status(AGENT, AUDIENCE, both))).unwrap();
        assert_eq!(found, TokenOwner::OnNode("n1".to_owned()));
        let older = status(AGENT, AUDIENCE, &[(POD, &["agent-x"]), (POD_UID, &["u"])]);
        let pod = TokenOwner::Pod { name: "agent-x".to_owned(), uid: Some("u".to_owned()) };
        assert_eq!(owner(AGENT, Some(older)).unwrap(), pod);

        let refused = |status| owner(AGENT, status).unwrap_err().to_string();
        assert!(refused(None).contains("not valid"));
        let failed =
            TokenReviewStatus { authenticated: Some(false), ..status(AGENT, AUDIENCE, both) };
        assert!(refused(Some(failed)).contains("not valid"));
        assert!(refused(Some(status(AGENT, "api", both))).contains("not valid"));
        let other = "system:serviceaccount:shop:netpol-agent";
        assert!(refused(Some(status(other, AUDIENCE, both))).contains(other));
        assert!(refused(Some(status(AGENT, AUDIENCE, &[]))).contains("no pod"));
        let several: &[(&str, &[&str])] = &[(NODE, &["n1", "n2"])];
        assert!(refused(Some(status(AGENT, AUDIENCE, several))).contains("no pod"));
    }
}
