//! The questions of the page, answered by the model.
//!
//! In: path, query and body of a request that was let in. Out: JSON. Must not: check who asks.

use http::Uri;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::answers::{ExplainQuestion, PolicyName, WhatIfQuestion};
use super::super::model::Model;
use super::super::worker::Worker;

/// The only path that takes a body.
pub(super) const WHAT_IF: &str = "/api/what-if";

/// The answer as JSON; `None` if there is no such question.
///
/// # Errors
/// The question is not understood, or the model cannot answer it.
pub(super) async fn answer(
    worker: &Worker,
    uri: &Uri,
    body: &[u8],
) -> anyhow::Result<Option<Vec<u8>>> {
    let found = match uri.path() {
        "/api/overview" => {
            let is_again = uri.query() == Some("again");
            ask(worker, move |model| {
                if is_again {
                    model.load()?;
                }
                model.overview()
            })
            .await
        }
        "/api/explain" => {
            let question: ExplainQuestion = question(uri)?;
            ask(worker, move |model| model.explain(&question)).await
        }
        "/api/policy" => {
            let question: PolicyName = question(uri)?;
            ask(worker, move |model| model.policy(&question)).await
        }
        WHAT_IF => {
            let question: WhatIfQuestion = serde_json::from_slice(body)?;
            ask(worker, move |model| model.what_if(&question)).await
        }
        _ => return Ok(None),
    };
    found.map(Some)
}

/// The answer is written on the model's thread, because a large one takes time.
async fn ask<T: Serialize>(
    worker: &Worker,
    question: impl FnOnce(&mut Model) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<Vec<u8>> {
    worker.ask(move |model| Ok(serde_json::to_vec(&question(model)?)?)).await?
}

/// The question in a query: JSON in its only parameter, percent-encoded.
fn question<T: DeserializeOwned>(uri: &Uri) -> anyhow::Result<T> {
    let encoded = uri.query().and_then(|query| query.strip_prefix("q=")).unwrap_or_default();
    Ok(serde_json::from_str(&percent_decode_str(encoded).decode_utf8()?)?)
}
