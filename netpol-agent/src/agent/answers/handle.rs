//! Questions to the event loop from other tasks.

use tokio::sync::{mpsc, oneshot};

use crate::agent::state::Agent;

/// A question: runs between two steps of the event loop.
pub(in crate::agent) type Question<K> = Box<dyn FnOnce(&mut Agent<K>) + Send>;

/// Sends questions to the event loop. Cheap to clone.
#[derive(Debug)]
pub struct Handle<K> {
    questions: mpsc::Sender<Question<K>>,
}

impl<K> Clone for Handle<K> {
    fn clone(&self) -> Self {
        Self { questions: self.questions.clone() }
    }
}

impl<K: 'static> Handle<K> {
    /// A handle, and the receiver of its questions for the event loop.
    pub(in crate::agent) fn new() -> (Self, mpsc::Receiver<Question<K>>) {
        let (questions, asked) = mpsc::channel(16);
        (Self { questions }, asked)
    }

    /// Asks, and waits for the answer; `None` if the event loop has ended.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Agent<K>) -> R + Send + 'static,
    ) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        let question: Question<K> = Box::new(move |agent| {
            // The task that asked may have ended.
            drop(reply.send(question(agent)));
        });
        self.questions.send(question).await.ok()?;
        answer.await.ok()
    }
}
