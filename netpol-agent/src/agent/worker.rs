//! One thread for what takes time and must not hold up the event loop: one thing after the other.
//!
//! A thread of its own and not the runtime's pool: what is allocated and freed there is used again by the next thing, where each
//! thread of a pool would keep its own.

use std::io;
use std::sync::mpsc;
use std::thread;

use tracing::error;

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends when this does, and what it has been given is done.
#[derive(Debug)]
pub(super) struct Worker(mpsc::Sender<Job>);

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no thread.
    pub(super) fn start() -> io::Result<Self> {
        let (jobs_in, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job());
        thread::Builder::new().name("beside".to_owned()).spawn(work)?;
        Ok(Self(jobs_in))
    }

    /// Does this after all that has been given before.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.0.send(Box::new(job)).is_err() {
            error!("the thread beside the event loop has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_done_one_after_the_other_and_all_of_them() {
        let worker = Worker::start().unwrap();
        let (done_in, done) = mpsc::channel();
        for number in 0..3 {
            let done_in = done_in.clone();
            worker.run(move || done_in.send((number, thread::current().id())).unwrap());
        }
        drop((worker, done_in));
        let done: Vec<_> = done.into_iter().collect();
        assert_eq!(done.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(done.iter().all(|(_, id)| *id == done[0].1 && *id != thread::current().id()));
    }
}
