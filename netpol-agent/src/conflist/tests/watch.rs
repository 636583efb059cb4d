//! The watch: when the entry is added, put back, and what is reported.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::time::Duration;

use netpol_proto::{ErrorCode, Response};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A watch in a thread of its own.
struct Watched {
    node: Node,
    root: TempDir,
    stop: Option<mpsc::Sender<()>>,
    events: mpsc::Receiver<Event>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watched {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        answer(&root, Response::Ok);
        Self::start(files, root)
    }

    fn without_agent(files: &[(&str, &str)]) -> Self {
        Self::start(files, tempfile::tempdir().unwrap())
    }

    fn start(files: &[(&str, &str)], root: TempDir) -> Self {
        let node = Node::new(files);
        fs::write(root.path().join("plugin"), "plugin").unwrap();
        fs::create_dir(root.path().join("bin")).unwrap();
        let options = Options {
            conf_dir: node.directory.clone(),
            bin_dir: root.path().join("bin"),
            plugin: root.path().join("plugin"),
            entry: entry(),
            socket: root.path().join("cni.sock"),
            interval: Duration::from_millis(2),
        };
        let (stop, stopped) = mpsc::channel();
        let (sender, events) = mpsc::channel();
        let thread = thread::spawn(move || {
            watch(&options, &stopped, &mut |event| drop(sender.send(event)));
        });
        Self { node, root, stop: Some(stop), events, thread: Some(thread) }
    }

    /// The events up to and including the first that is wanted.
    fn until(&self, is_wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            events.push(self.events.recv_timeout(DEADLINE).expect("the event in time"));
            if events.last().is_some_and(&is_wanted) {
                return events;
            }
        }
    }

    /// Stops the watch. Returns its remaining events.
    fn end(mut self) -> Vec<Event> {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
        self.events.try_iter().collect()
    }
}

/// Starts an agent that gives this answer to one request.
fn answer(root: &TempDir, response: Response) {
    let listener = UnixListener::bind(root.path().join("cni.sock")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        assert!(request.contains("STATUS"), "{request}");
        stream.write_all(&netpol_proto::encode(&response).unwrap()).unwrap();
    });
}

fn is_insert(event: &Event) -> bool {
    matches!(event, Event::Step(Step::Replace { purpose: Purpose::Insert, .. }))
}

fn is_in_place(event: &Event) -> bool {
    matches!(event, Event::InPlace(_))
}

fn is_problem(event: &Event) -> bool {
    matches!(event, Event::Problem(_))
}

#[test]
fn a_watch_waits_for_the_network_and_installs_again_when_flannel_rewrites_its_file() {
    let watched = Watched::new(&[]);
    watched.until(is_problem);
    watched.node.write("10-flannel.conflist", FLANNEL);
    watched.until(is_in_place);
    for _ in 0..3 {
        watched.node.write("10-flannel.conflist", FLANNEL);
        watched.until(is_insert);
    }
    fs::remove_file(watched.root.path().join("bin/netpol-cni")).unwrap();
    watched.until(|event| matches!(event, Event::Binary(Binary::Copied(_))));
    assert_eq!(watched.node.read("10-flannel.conflist"), FLANNEL_WITH_NETPOL);
    watched.end();
}

#[test]
fn a_watch_does_not_react_to_its_own_writes() {
    let watched = Watched::new(&[("10-flannel.conflist", FLANNEL)]);
    watched.until(is_in_place);
    // A second network that sorts behind gets no entry until the first one is gone, so the polls before send no event.
    watched.node.write("20-other.conflist", CALICO);
    fs::remove_file(watched.node.directory.join("10-flannel.conflist")).unwrap();
    let events = watched.until(is_in_place);
    assert!(!events.iter().any(is_problem), "{events:?}");
    assert_eq!(events.iter().filter(|event| is_insert(event)).count(), 1, "{events:?}");
    let more = watched.end();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn a_watch_reports_an_error_once_and_waits_for_its_end() {
    let watched = Watched::new(&[("10-flannel.conflist", "{")]);
    watched.until(is_problem);
    watched.node.write("10-flannel.conflist", FLANNEL);
    let events = watched.until(is_in_place);
    // The first poll reported two: the file, and that there is no other one.
    assert!(events.iter().filter(|event| is_problem(event)).count() <= 1, "{events:?}");
    watched.node.write("10-flannel.conflist", "{\"name\": 1");
    watched.until(is_problem);
    watched.node.write("10-flannel.conflist", FLANNEL);
    watched.until(is_in_place);
    watched.end();
}

fn is_waiting(event: &Event) -> bool {
    matches!(event, Event::Problem(Error::NoAgent { .. }))
}

#[test]
fn the_entry_waits_until_the_agent_has_served() {
    let watched = Watched::without_agent(&[("10-flannel.conflist", FLANNEL)]);
    watched.until(is_waiting);
    let early = Response::error(ErrorCode::NOT_AVAILABLE, "not listed yet: pods");
    answer(&watched.root, early);
    let events = watched.until(is_waiting);
    assert!(!events.iter().any(is_in_place), "{events:?}");
    watched.node.check(&[("10-flannel.conflist", FLANNEL)]);
    fs::remove_file(watched.root.path().join("cni.sock")).unwrap();
    answer(&watched.root, Response::Ok);
    watched.until(is_in_place);
    assert_eq!(watched.node.read("10-flannel.conflist"), FLANNEL_WITH_NETPOL);
    // The agent has ended, and Flannel writes its file.
    watched.node.write("10-flannel.conflist", FLANNEL);
    watched.until(is_insert);
    watched.end();
}

#[test]
fn an_entry_that_was_there_is_put_back_without_an_agent() {
    let backup = "10-flannel.conflist.netpol-backup";
    let copied = [("10-flannel.conflist", FLANNEL), (backup, FLANNEL)];
    let second = FLANNEL_WITH_NETPOL.replace("cbr0", "cbr1");
    let named = [("10-flannel.conflist", FLANNEL), ("20-second.conflist", second.as_str())];
    for files in [copied, named] {
        let watched = Watched::without_agent(&files);
        watched.until(is_in_place);
        assert_eq!(watched.node.read("10-flannel.conflist"), FLANNEL_WITH_NETPOL);
        watched.end();
    }
}
