//! An agent with answers chosen by the test, which records its requests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use netpol_proto::{Request, Response};

type Answer = Box<dyn Fn(&Request) -> Response + Send + Sync>;

struct Shared {
    requests: Mutex<Vec<Request>>,
    answer: Answer,
    stopped: AtomicBool,
}

/// Listens until dropped.
pub(crate) struct FakeAgent {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl FakeAgent {
    /// Accepts every request.
    pub(crate) fn willing(path: &Path) -> Self {
        Self::start(path, |_| Response::Ok)
    }

    /// Answers by a function, which runs while the plugin waits, so that it can inspect the plugin's work so far.
    pub(crate) fn start(
        path: &Path,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            answer: Box::new(answer),
            stopped: AtomicBool::new(false),
        });
        let agent = Self { path: path.into(), shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&shared, &stream.unwrap()));
            }
        });
        agent
    }

    /// The requests so far, oldest first.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The verbs of [`Self::requests`].
    pub(crate) fn verbs(&self) -> Vec<&'static str> {
        self.requests().iter().map(Request::verb).collect()
    }
}

fn serve(shared: &Shared, mut stream: &UnixStream) {
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).unwrap();
    let request: Request = netpol_proto::decode(&line).unwrap();
    let response = (shared.answer)(&request);
    shared.requests.lock().unwrap().push(request);
    // The plugin may have been killed.
    stream.write_all(&netpol_proto::encode(&response).unwrap()).ok();
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then closes the socket.
        UnixStream::connect(&self.path).ok();
        std::fs::remove_file(&self.path).ok();
    }
}
