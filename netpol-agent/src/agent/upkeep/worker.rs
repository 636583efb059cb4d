//! One thread for slow work that must not delay the event loop: one job after the other.
//!
//! It is a thread of its own and not one of the runtime's pool, because a thread reuses the memory that its jobs have
//! freed, while each thread of a pool would keep its own.

use std::io;
use std::sync::mpsc;
use std::thread;

use tracing::error;

type Job = Box<dyn FnOnce() + Send>;

/// The thread. Dropped: it ends after the jobs that it has been given.
#[derive(Debug)]
pub(in crate::agent) struct Worker(mpsc::Sender<Job>);

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(in crate::agent) fn start() -> io::Result<Self> {
        let (jobs_in, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job());
        thread::Builder::new().name("worker".to_owned()).spawn(work)?;
        Ok(Self(jobs_in))
    }

    /// Runs a job after all earlier ones. Does not wait for it.
    pub(in crate::agent) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.0.send(Box::new(job)).is_err() {
            error!("worker thread has ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_jobs_run_one_after_the_other_on_one_thread() {
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
