//! The folder on the BPF file system that holds the maps and links that outlive the agent.
//!
//! Layout: `<root>/v<ABI>/<MAP>` and `<root>/v<ABI>/links/<ifindex>-<program>`, with the suffix `-migration` for a link that
//! replaces a filter (TCX migration).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError, MapInfo};
use netpol_common::ids::IfIndex;
use netpol_common::maps::{self, ABI_VERSION};
use rustix::mount::{MountFlags, mount};

use super::layout::{self, Layout};
use crate::config::Mount;
use crate::error::{Error, pin_error};
use crate::program::Program;

/// `f_type` of a BPF file system (`BPF_FS_MAGIC`, `include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Suffix of a link's pin while the filter that it replaces is still attached.
const MIGRATION_SUFFIX: &str = "-migration";

/// The same suffix in the pins of older agents.
const OLDER_MIGRATION_SUFFIX: &str = "-exchange"; // up to ABI version 3

/// The folder of one version's pins.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    folder: PathBuf,
    /// Those of other versions, whose programs may still be in force.
    predecessors: Vec<Pins>,
}

impl Pins {
    /// Creates the folders under `root`, which is itself a folder directly on a BPF file system.
    ///
    /// # Errors
    /// [`Error::NoBpfFs`], [`Error::MountBpfFs`], [`Error::Pin`].
    pub(crate) fn open(root: &Path, mount: Mount) -> Result<Self, Error> {
        let file_system = root.parent().unwrap_or(root);
        if !is_bpf_fs(file_system) {
            mount_bpf_fs(file_system, mount)?;
        }
        let own = format!("v{ABI_VERSION}");
        let mut pins = Self { folder: root.join(&own), predecessors: Vec::new() };
        let links = pins.links();
        fs::create_dir_all(&links).map_err(|error| pin_error(&links, error))?;
        for entry in fs::read_dir(root).map_err(|error| pin_error(root, error))? {
            let name = entry.map_err(|error| pin_error(root, error))?.file_name();
            let is_version = |name: &str| {
                name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
            };
            if name.to_str().is_some_and(|name| name != own && is_version(name)) {
                let folder = root.join(name);
                pins.predecessors.push(Self { folder, predecessors: Vec::new() });
            }
        }
        Ok(pins)
    }

    /// The pins of other versions.
    pub(crate) fn predecessors(&self) -> &[Self] {
        &self.predecessors
    }

    /// Clears the list of other versions, after their pins have been removed.
    pub(crate) fn forget_predecessors(&mut self) {
        self.predecessors.clear();
    }

    /// Pins the [carried-over maps](maps::CARRIED_OVER) of another version in this version's folder, if their layout is equal.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn carry_over(&self, layouts: &[Layout]) -> Result<(), Error> {
        let carried = layouts.iter().filter(|layout| maps::CARRIED_OVER.contains(&layout.name));
        for layout in carried {
            let path = self.map(layout.name);
            for predecessor in &self.predecessors {
                let other = predecessor.map(layout.name);
                if path.exists() || !other.exists() {
                    continue;
                }
                let found = MapInfo::from_pin(&other).and_then(|map| layout::of(layout.name, &map));
                if found.is_ok_and(|found| found == *layout) {
                    let map =
                        MapData::from_pin(&other).map_err(|error| pin_error(&other, error))?;
                    map.pin(&path).map_err(|error| pin_error(&path, error))?;
                }
            }
        }
        Ok(())
    }

    /// Moves the pin of a link from another version's folder to this one's.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn take_over(
        &self,
        predecessor: &Self,
        ifindex: IfIndex,
        program: Program,
    ) -> Result<(), Error> {
        let path = self.link(ifindex, program);
        fs::rename(predecessor.link(ifindex, program), &path)
            .map_err(|error| pin_error(&path, error))
    }

    /// The pins of any version, by its folder.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), predecessors: Vec::new() }
    }

    /// Pin path of a map.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// Pin path of the attachment of a program to a device: a link, or an empty folder for a filter.
    pub(crate) fn link(&self, ifindex: IfIndex, program: Program) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", program.name()))
    }

    /// Pin path of a link that replaces a filter.
    pub(crate) fn migration(&self, ifindex: IfIndex, program: Program) -> PathBuf {
        self.links().join(format!("{ifindex}-{}{MIGRATION_SUFFIX}", program.name()))
    }

    /// Renames the pin of a migration's link to the regular one, after the filter has been removed.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn rename_migrated(&self, ifindex: IfIndex, program: Program) -> Result<(), Error> {
        let path = self.migration(ifindex, program);
        fs::rename(&path, self.link(ifindex, program)).map_err(|error| pin_error(&path, error))
    }

    /// All pinned attachments, also those whose device is gone.
    ///
    /// # Errors
    /// [`Error::Pin`]: the folder cannot be read.
    pub(crate) fn attachments(&self) -> Result<BTreeSet<(IfIndex, Program)>, Error> {
        let folder = self.links();
        let mut attachments = BTreeSet::new();
        for entry in fs::read_dir(&folder).map_err(|error| pin_error(&folder, error))? {
            let name = entry.map_err(|error| pin_error(&folder, error))?.file_name();
            attachments.extend(name.to_str().and_then(parse_link_name));
        }
        Ok(attachments)
    }

    /// Checks that every pinned map has the layout of this build.
    ///
    /// # Errors
    /// [`Error::PinIncompatible`], [`Error::Pin`].
    pub(crate) fn check(&self, layouts: &[Layout]) -> Result<(), Error> {
        for expected in layouts {
            let path = self.map(expected.name);
            if !path.exists() {
                continue;
            }
            let found = MapInfo::from_pin(&path)
                .and_then(|map| layout::of(expected.name, &map))
                .map_err(|error| pin_error(&path, error))?;
            for (property, expected, found) in expected.compare(&found) {
                if expected != found {
                    return Err(Error::PinIncompatible { path, property, expected, found });
                }
            }
        }
        Ok(())
    }

    /// Opens a pinned map that only user space uses, or creates and pins it.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn open_map<K: Pod, V: Pod>(
        &self,
        name: &str,
        create: impl FnOnce() -> Result<HashMap<MapData, K, V>, MapError>,
    ) -> Result<HashMap<MapData, K, V>, Error> {
        let path = self.map(name);
        let opened = if path.exists() {
            MapData::from_pin(&path).and_then(|map| Map::HashMap(map).try_into())
        } else {
            create()
        };
        let map = opened.map_err(|error| pin_error(&path, error))?;
        if !path.exists() {
            map.map().pin(&path).map_err(|error| pin_error(&path, error))?;
        }
        Ok(map)
    }

    /// Records an attached clsact filter by an empty folder, because a filter stays attached without a pin.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn mark_filter(&self, ifindex: IfIndex, program: Program) -> Result<(), Error> {
        let path = self.link(ifindex, program);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(pin_error(&path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether an attachment is a clsact filter.
    pub(crate) fn is_filter(&self, ifindex: IfIndex, program: Program) -> bool {
        self.link(ifindex, program).is_dir()
    }

    /// Removes the pins of an attachment. A link is detached once no process holds it open.
    ///
    /// # Errors
    /// [`Error::Pin`], except if there is none.
    pub(crate) fn remove_link(&self, ifindex: IfIndex, program: Program) -> Result<(), Error> {
        for path in [self.link(ifindex, program), self.migration(ifindex, program)] {
            let is_filter = path.is_dir();
            let removed = if is_filter { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            absent_is_fine(&path, removed)?;
        }
        Ok(())
    }

    /// Removes the record of a clsact filter.
    ///
    /// # Errors
    /// [`Error::Pin`], except if there is none.
    pub(crate) fn unmark_filter(&self, ifindex: IfIndex, program: Program) -> Result<(), Error> {
        let path = self.link(ifindex, program);
        absent_is_fine(&path, fs::remove_dir(&path))
    }

    /// Removes this version's maps and folders, after all programs have been detached.
    ///
    /// # Errors
    /// [`Error::Pin`].
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for folder in [self.links(), self.folder.clone()] {
            empty(&folder).map_err(|error| pin_error(&folder, error))?;
        }
        // Another version may have a folder under the same root.
        if let Some(root) = self.folder.parent()
            && let Err(error) = fs::remove_dir(root)
            && error.kind() != io::ErrorKind::DirectoryNotEmpty
        {
            return Err(pin_error(root, error));
        }
        Ok(())
    }
}

fn absent_is_fine(path: &Path, outcome: io::Result<()>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(pin_error(path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a folder and all pins in it, whatever their names, because another version may have had other maps.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir(path)? } else { fs::remove_file(path)? }
    }
    fs::remove_dir(folder)
}

/// Parses the file name of an attachment into the device and the program.
pub(crate) fn parse_link_name(name: &str) -> Option<(IfIndex, Program)> {
    let suffixes = [MIGRATION_SUFFIX, OLDER_MIGRATION_SUFFIX];
    let name = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let (ifindex, program) = name.split_once('-')?;
    let program = Program::ALL.into_iter().find(|known| known.name() == program)?;
    Some((IfIndex(ifindex.parse().ok()?), program))
}

fn is_bpf_fs(path: &Path) -> bool {
    // The width and sign of `f_type` differ between architectures; the magic number has 32 bits.
    rustix::fs::statfs(path).is_ok_and(|file_system| {
        u64::try_from(file_system.f_type).is_ok_and(|magic| magic == BPF_FS_MAGIC)
    })
}

fn mount_bpf_fs(path: &Path, how: Mount) -> Result<(), Error> {
    match how {
        Mount::Never => Err(Error::NoBpfFs { path: path.to_owned() }),
        Mount::IfMissing => fs::create_dir_all(path)
            .and_then(|()| Ok(mount("bpf", path, "bpf", MountFlags::empty(), None)?))
            .map_err(|source| Error::MountBpfFs { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_pinned_link_contains_its_device_and_program() {
        for program in Program::ALL {
            let name = format!("42-{}", program.name());
            assert_eq!(parse_link_name(&name), Some((IfIndex(42), program)));
            for suffix in [MIGRATION_SUFFIX, OLDER_MIGRATION_SUFFIX] {
                let migrating = format!("{name}{suffix}");
                assert_eq!(
                    parse_link_name(&migrating),
                    Some((IfIndex(42), program)),
                    "{migrating}"
                );
            }
        }
        for name in ["42", "42-other", "x-pod_egress", ""] {
            assert_eq!(parse_link_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_folder_on_another_file_system_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Pins::open(&folder.path().join("netpol"), Mount::Never).unwrap_err();
        assert!(matches!(error, Error::NoBpfFs { path } if path == folder.path()));
    }
}
