//! Removes a lab given its name, so that leftovers of a killed process can be removed too.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::FlockOperation;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::netns;
use super::second_node;
use super::topology::NODE_NAME;
use super::wait::{LIMIT, Look, until};

/// The folder of all labs.
const LABS: &str = "/run/netpol-lab";

/// The folder of a lab.
pub(super) fn folder(lab: &str) -> PathBuf {
    Path::new(LABS).join(lab)
}

/// The mounts of a node's agent: a BPF file system, and its folder on a tmpfs.
pub(super) fn mounts(lab: &str, node: &str) -> [PathBuf; 2] {
    ["bpf", "run"].map(|name| of_node(lab, node, name))
}

/// A file or folder of a node's agent in the lab's folder.
pub(super) fn of_node(lab: &str, node: &str, name: &str) -> PathBuf {
    let folder = folder(lab);
    if node == NODE_NAME { folder.join(name) } else { folder.join(node).join(name) }
}

/// The name of a lab's namespace. No lab has a dot in its name.
pub(super) fn netns_name(lab: &str, part: &str) -> String {
    format!("netpol.{lab}.{part}")
}

/// Locks a lab for this process; the kernel releases the lock when the process ends.
///
/// # Errors
/// The lab stays in use.
pub(super) fn lock(lab: &str) -> Result<File> {
    fs::create_dir_all(LABS).with_context(|| format!("creating {LABS}"))?;
    let path = Path::new(LABS).join(format!("{lab}.lock"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    until(&format!("the lab {lab}"), LIMIT, || {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Look::Done(())),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Ok(Look::NotYet("that another process uses it".to_owned()))
            }
            Err(errno) => Err(errno).with_context(|| format!("locking {}", path.display())),
        }
    })?;
    Ok(file)
}

/// Kills the lab's processes and removes its namespaces, mounts, and folder. Missing resources are no error. A failure does
/// not stop the removal of the rest.
///
/// # Errors
/// The first failure.
pub fn remove(lab: &str) -> Result<()> {
    let processes = end_processes(lab);
    let namespaces = delete_namespaces(lab);
    let nodes = [NODE_NAME, second_node::NAME];
    let mounts = nodes.iter().flat_map(|node| mounts(lab, node));
    let mount = mounts.map(|path| unmount(&path)).fold(Ok(()), Result::and);
    let folder = folder(lab);
    let files = match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    };
    processes
        .and(namespaces)
        .and(mount)
        .and(files)
        .with_context(|| format!("removing the lab {lab}"))
}

fn namespaces(lab: &str) -> Result<Vec<String>> {
    netns::names(&netns_name(lab, ""))
}

fn processes(lab: &str) -> Result<Vec<i32>> {
    let mut processes = Vec::new();
    for name in namespaces(lab)? {
        processes.extend(netns::processes(&name)?);
    }
    Ok(processes)
}

fn end_processes(lab: &str) -> Result<()> {
    until("the end of all processes", LIMIT, || {
        let processes = processes(lab)?;
        for pid in processes.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            // A process that has just ended is no error.
            kill_process(pid, Signal::KILL).ok();
        }
        Ok(match processes.len() {
            0 => Look::Done(()),
            n => Look::NotYet(format!("{n} of them")),
        })
    })
}

fn delete_namespaces(lab: &str) -> Result<()> {
    let mut outcome = Ok(());
    for name in namespaces(lab)? {
        outcome = outcome.and(netns::delete(&name));
    }
    outcome
}

/// Unmounts repeatedly, because mounts of killed labs may be stacked.
fn unmount(path: &Path) -> Result<()> {
    use rustix::io::Errno;
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => {
                return Err(errno).with_context(|| format!("unmounting {}", path.display()));
            }
        }
    }
}
