//! Removes all programs and maps of netpol from a node, of every version.
//!
//! In: the folder of the pins. Out: nothing is attached or pinned any more, and the kernel has freed all of it. Needs
//! neither BTF nor a kernel that could load the programs, because netpol must be removable where it cannot run.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{MapInfo, loaded_maps};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{loaded_links, loaded_programs};
use netpol_netlink::ExitGuard;

use super::site::{detach, program_of_filter};
use crate::error::{Error, pin_error};
use crate::object::Pins;
use crate::object::pins::parse_link_name;

/// Number of checks whether the kernel has freed everything: it frees a program some milliseconds after the last packet that
/// could run it.
const N_CHECKS: u32 = 500;
/// Time between two checks.
const PAUSE: Duration = Duration::from_millis(10);

/// Numbers of removed objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Programs that were attached to devices.
    pub n_attachments: usize,
    /// Maps that were pinned.
    pub n_maps: usize,
    /// Tables of nftables: 1 if there was one.
    pub n_tables: usize,
}

/// Removes the nftables table, detaches our programs from all devices, and removes all pins under `root`, of all versions. Nothing is enforced afterwards.
/// Continues after errors and returns all of them. Can be repeated.
pub fn uninstall(root: &Path) -> (Removed, Vec<Error>) {
    let mut work = Work::default();
    // Without nf_tables there is no table.
    if let Ok(mut guard) = ExitGuard::open(0) {
        work.removed.n_tables = usize::from(guard.remove().is_ok_and(|was_there| was_there));
    }
    for folder in entries(root, &mut work.errors) {
        let is_version = folder.file_name().to_str().is_some_and(|name| name.starts_with('v'));
        if is_version && folder.path().is_dir() {
            work.remove_version(&folder.path());
        }
    }
    work.check(fs::remove_dir(root), root);
    work.wait_until_gone(root);
    (work.removed, work.errors)
}

#[derive(Default)]
struct Work {
    removed: Removed,
    errors: Vec<Error>,
    ids: Ids,
}

/// Kernel ids of the removed objects.
#[derive(Default)]
struct Ids {
    links: BTreeSet<u32>,
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Work {
    fn remove_version(&mut self, folder: &Path) {
        let links = folder.join("links");
        for link in entries(&links, &mut self.errors) {
            match self.detach(folder, &link) {
                Ok(true) => self.removed.n_attachments += 1,
                Ok(false) => {}
                Err(error) => self.errors.push(error),
            }
        }
        self.check(fs::remove_dir(&links), &links);
        for map in entries(folder, &mut self.errors) {
            let path = map.path();
            if path.is_dir() {
                continue;
            }
            if let Ok(map) = MapInfo::from_pin(&path) {
                self.ids.maps.insert(map.id());
            }
            if self.check(fs::remove_file(&path), &path) {
                self.removed.n_maps += 1;
            }
        }
        self.check(fs::remove_dir(folder), folder);
    }

    /// Detaches a program, also one that only another version has. False if the pin was removed together with another pin of
    /// the same attachment.
    fn detach(&mut self, folder: &Path, link: &DirEntry) -> Result<bool, Error> {
        let path = link.path();
        if !path.exists() {
            return Ok(false);
        }
        if let Ok(link) = PinnedLink::from_pin(&path)
            && let Ok(link) = FdLink::from(link).info()
        {
            self.ids.links.insert(link.id());
            self.ids.programs.insert(link.program_id());
        }
        match link.file_name().to_str().and_then(parse_link_name) {
            Some((ifindex, program)) => {
                let pins = Pins::in_folder(folder);
                self.ids.programs.extend(program_of_filter(&pins, ifindex, program));
                detach(&pins, ifindex, program)?;
            }
            None if path.is_dir() => {
                fs::remove_dir(&path).map_err(|error| pin_error(&path, error))?;
            }
            None => fs::remove_file(&path).map_err(|error| pin_error(&path, error))?,
        }
        Ok(true)
    }

    /// Whether something was removed. A missing path is no error.
    fn check(&mut self, outcome: io::Result<()>, path: &Path) -> bool {
        match outcome {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.errors.push(pin_error(path, error));
                }
                false
            }
        }
    }

    fn wait_until_gone(&mut self, root: &Path) {
        for _ in 0..N_CHECKS {
            if self.ids.n_loaded() == 0 {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let n_left = self.ids.n_loaded();
        if n_left > 0 {
            self.errors.push(Error::StillHeld { root: root.to_owned(), n_left });
        }
    }
}

impl Ids {
    /// Number of these objects that the kernel still has. Objects that it frees during the listing are skipped.
    fn n_loaded(&self) -> usize {
        let links = loaded_links().filter_map(|link| Some(link.ok()?.id()));
        let programs = loaded_programs().filter_map(|program| Some(program.ok()?.id()));
        let maps = loaded_maps().filter_map(|map| Some(map.ok()?.id()));
        links.filter(|id| self.links.contains(id)).count()
            + programs.filter(|id| self.programs.contains(id)).count()
            + maps.filter(|id| self.maps.contains(id)).count()
    }
}

/// The entries of a folder; empty if it does not exist.
fn entries(folder: &Path, errors: &mut Vec<Error>) -> Vec<DirEntry> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    entries.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            errors.push(pin_error(&PathBuf::from(folder), error));
        }
        Vec::new()
    })
}
