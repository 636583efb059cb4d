//! Kills a process before a chosen system call, by `strace`, so that the product needs no hook for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::wait::{LIMIT, Look, until};

/// System calls with effects outside the process. Those missing on an architecture are skipped.
const CALLS: [&str; 12] = [
    "bpf",
    "?rename",
    "?renameat",
    "?renameat2",
    "?unlink",
    "?unlinkat",
    "?mkdir",
    "?mkdirat",
    "?rmdir",
    "sendto",
    "sendmsg",
    "mount",
];

/// A point in time: before a thread of the process makes a system call for the n-th time since tracing began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The system call.
    pub call: String,
    /// Counted from 1.
    pub n: usize,
    /// The call's arguments when it was recorded.
    pub kind: String,
}

/// The tracer's task.
#[derive(Clone, Debug)]
pub enum Task {
    /// Record system calls.
    Watch,
    /// Kill the process at this point.
    Kill(Point),
}

impl Task {
    /// The arguments of `strace`, with its output file.
    fn args(&self, output: &Path) -> Vec<String> {
        let mut args: Vec<_> = ["-f", "-qq", "-o"].map(str::to_owned).into();
        args.push(output.display().to_string());
        args.push("-e".to_owned());
        match self {
            Self::Watch => args.push(format!("trace={}", CALLS.join(","))),
            Self::Kill(Point { call, n, kind: _ }) => {
                args.extend([format!("trace={call}"), "-e".to_owned()]);
                args.push(format!("inject={call}:signal=SIGKILL:when={n}"));
            }
        }
        args
    }

    /// Command prefix for tracing a command from its start. The traced process stays the direct child of its parent.
    pub fn prefix(&self, output: &Path) -> Vec<String> {
        let mut prefix = vec!["strace".to_owned(), "-D".to_owned()];
        prefix.extend(self.args(output));
        prefix
    }
}

/// `strace`, attached to a running process. Dropped, it detaches.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    output: PathBuf,
}

impl Tracer {
    /// Attaches to all threads of a process, and waits until it has.
    ///
    /// `strace` lists the threads once. It misses one that a thread not yet attached starts meanwhile, so it is started anew
    /// until it has all.
    ///
    /// # Errors
    /// It cannot be started, or does not attach.
    pub fn attach(pid: u32, task: &Task, output: &Path) -> Result<Self> {
        until("the tracer of all threads", LIMIT, || {
            let mut strace = Command::new("strace");
            strace.args(task.args(output)).args(["-p", &pid.to_string()]);
            let strace = strace.stdin(Stdio::null()).spawn().context("starting strace")?;
            let tracer = Self { strace, output: output.to_owned() };
            let attached = until("the tracer of all threads", LIMIT / 5, || {
                let n_left = n_untraced(pid)?;
                Ok(if n_left == 0 {
                    Look::Done(())
                } else {
                    Look::NotYet(format!("{n_left} are not"))
                })
            });
            Ok(match attached {
                Ok(()) => Look::Done(tracer),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })
    }

    /// Detaches and returns the recorded calls.
    ///
    /// # Errors
    /// The output cannot be read.
    pub fn finish(mut self) -> Result<Vec<Point>> {
        self.let_go();
        points(&self.output)
    }

    fn let_go(&mut self) {
        // SIGTERM makes it detach; it may have ended with the process.
        let pid = i32::try_from(self.strace.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let (Some(pid), Ok(None)) = (pid, self.strace.try_wait()) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.strace.wait().ok();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The number of threads of a process without a tracer.
fn n_untraced(pid: u32) -> Result<usize> {
    let mut n_untraced = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that has ended has none.
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        n_untraced += usize::from(status.lines().any(|line| line == "TracerPid:\t0"));
    }
    Ok(n_untraced)
}

/// The points in the output of `strace`, in chronological order. Equal points of several threads count once.
///
/// # Errors
/// The file cannot be read.
pub fn points(output: &Path) -> Result<Vec<Point>> {
    let text =
        fs::read_to_string(output).with_context(|| format!("reading {}", output.display()))?;
    Ok(read_points(&text))
}

fn read_points(text: &str) -> Vec<Point> {
    let mut n_by_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut points = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, args)) = rest.trim_start().split_once('(') else { continue };
        if !call.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            // A signal, an exit, or the second half of a call.
            continue;
        }
        let n = n_by_thread.entry((thread, call)).or_default();
        *n += 1;
        if seen.insert((call, *n)) {
            let kind = args.split([',', ')']).next().filter(|_| call == "bpf").unwrap_or_default();
            points.push(Point { call: call.to_owned(), n: *n, kind: format!("{call} {kind}") });
        }
    }
    points
}

/// A selection of points: first and last of each kind if there are enough, and others at even distances. `turn` shifts the
/// selection.
///
/// # Errors
/// There are no points at all.
pub fn choose(points: &[Point], n_wanted: usize, turn: usize) -> Result<Vec<Point>> {
    ensure!(!points.is_empty(), "no system calls were recorded");
    if n_wanted >= points.len() {
        return Ok(points.to_vec());
    }
    let mut ends: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (i, point) in points.iter().enumerate() {
        ends.entry(&point.kind).or_insert([i, i])[1] = i;
    }
    let ends: BTreeSet<usize> = ends.into_values().flatten().collect();
    // Half of the selection for first and last points, the rest for those between.
    let spread = |candidates: &[usize], n: usize| -> Vec<usize> {
        let n = n.min(candidates.len());
        let at = |i: usize| candidates.get((i * candidates.len() / n + turn) % candidates.len());
        (0..n).filter_map(|i| at(i).copied()).collect()
    };
    let ends: Vec<usize> = ends.into_iter().collect();
    let mut chosen: BTreeSet<usize> = spread(&ends, n_wanted.div_ceil(2)).into_iter().collect();
    let others: Vec<usize> = (0..points.len()).filter(|i| !chosen.contains(i)).collect();
    chosen.extend(spread(&others, n_wanted - chosen.len()));
    Ok(chosen.into_iter().filter_map(|i| points.get(i).cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
10 bpf(BPF_MAP_CREATE, {map_type=1}, 80) = 3
11 bpf(BPF_MAP_UPDATE_ELEM, {map_fd=3}, 80 <unfinished ...>
10 renameat2(AT_FDCWD, \"a\", AT_FDCWD, \"b\", 0) = 0
11 <... bpf resumed>) = 0
11 bpf(BPF_PROG_LOAD, {}, 80) = 4
10 --- SIGCHLD {si_signo=SIGCHLD} ---
10 bpf(BPF_PROG_LOAD, {}, 80) = 4
11 +++ exited with 0 +++
";

    #[test]
    fn points_are_counted_per_thread_and_returned_once() {
        let points = read_points(TEXT);
        let points: Vec<_> =
            points.iter().map(|p| (p.call.as_str(), p.n, p.kind.as_str())).collect();
        assert_eq!(
            points,
            [
                ("bpf", 1, "bpf BPF_MAP_CREATE"),
                ("renameat2", 1, "renameat2 "),
                ("bpf", 2, "bpf BPF_PROG_LOAD"),
            ]
        );
    }

    #[test]
    fn a_selection_has_the_wanted_size_and_shifts_with_the_turn() {
        let point = |n: usize| Point { call: "bpf".into(), n, kind: format!("kind {}", n / 10) };
        let points: Vec<_> = (0..40).map(point).collect();
        for n in [1, 2, 7, 39, 40, 100] {
            assert_eq!(choose(&points, n, 0).unwrap().len(), n.min(40), "{n}");
        }
        assert_ne!(choose(&points, 7, 0).unwrap(), choose(&points, 7, 1).unwrap());
        assert!(choose(&[], 7, 0).is_err());
    }
}
