//! The thread that owns the model.
//!
//! In: questions as functions. Out: their results. Must not: run two questions at the same time, or end before its last owner.

use std::sync::mpsc;
use std::thread;

use anyhow::Context as _;
use tokio::sync::oneshot;

use super::model::{Model, Options};
use super::source::Source;

type Question = Box<dyn FnOnce(&mut Model) + Send>;

/// The thread of the model, whose engines belong to one thread. Meanwhile the server goes on.
#[derive(Clone)]
pub(super) struct Worker {
    questions: mpsc::Sender<Question>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(super) fn start(source: Source, options: Options) -> anyhow::Result<Self> {
        let (questions, received) = mpsc::channel::<Question>();
        let work = move || {
            let mut model = Model::new(source, options);
            for question in received {
                question(&mut model);
            }
        };
        // Not joined: it ends with the last sender.
        drop(thread::Builder::new().name("model".to_owned()).spawn(work).context("no thread")?);
        Ok(Self { questions })
    }

    /// Lets the model do something, after what it was asked before.
    ///
    /// # Errors
    /// The thread has ended.
    pub(super) fn tell(
        &self,
        task: impl FnOnce(&mut Model) + Send + 'static,
    ) -> anyhow::Result<()> {
        self.questions.send(Box::new(task)).ok().context("the model has ended")
    }

    /// The result of a question.
    ///
    /// # Errors
    /// The thread has ended.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Model) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (result, received) = oneshot::channel();
        let asked = move |model: &mut Model| {
            // The browser may have gone.
            drop(result.send(question(model)));
        };
        self.tell(asked)?;
        received.await.context("the model has ended")
    }
}
