//! Drops as server-sent events.
//!
//! In: access to the agents. Out: the body of a response that goes on while somebody reads it. Must not: fail; a problem is an event.

use std::convert::Infallible;

use futures::{FutureExt as _, StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::live::{self, AccessArgs, DropEvent};

/// The agents cannot be found.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "failed")]
struct Failed {
    reason: String,
}

/// Begins to follow the drops of all nodes. The place is free again when the reader has gone.
pub(super) fn stream(
    access: AccessArgs,
    place: OwnedSemaphorePermit,
) -> UnsyncBoxBody<Bytes, Infallible> {
    let begun = async move { live::events(&access).await }.into_stream();
    let events = begun.flat_map(|begun| match begun {
        Err(error) => {
            let failed = event(&Failed { reason: format!("{error:#}") });
            stream::once(async { failed }).boxed()
        }
        Ok(received) => {
            let next = async |mut received: tokio::sync::mpsc::Receiver<DropEvent>| {
                let next = received.recv().await?;
                Some((event(&next), received))
            };
            stream::unfold(received, next).boxed()
        }
    });
    // A comment at once, so that the browser knows that the connection is open.
    let opened = stream::once(async { ": open\n\n".to_owned() });
    let frames = opened.chain(events).map(move |text| {
        let _held = &place;
        Ok(Frame::data(Bytes::from(text)))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// An event with a JSON value. JSON of one line has no line break.
fn event(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) => format!("data: {json}\n\n"),
        Err(_) => String::new(),
    }
}
