//! Archives whose bytes depend on their files only: no time, no user, entries sorted by path.
//!
//! In: files in memory. Out: a tar, packed or not. Must not: touch the machine.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

/// An entry of a tar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<'a> {
    /// A folder; those of files are made by themselves.
    Folder,
    /// A file.
    File {
        /// Permissions.
        mode: u32,
        /// Content.
        content: &'a [u8],
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: &'a str,
    },
}

/// Files, links, and their parent folders, owned by root, with time 0, sorted by path.
///
/// # Errors
/// A path is too long for a tar.
pub(crate) fn tar<'a>(files: impl Iterator<Item = (&'a str, Entry<'a>)>) -> Result<Vec<u8>> {
    let mut entries: BTreeMap<String, Entry<'_>> = BTreeMap::new();
    for (path, entry) in files {
        for (end, _) in path.match_indices('/') {
            let folder = path.get(..=end).unwrap_or_default();
            entries.insert(folder.to_owned(), Entry::Folder);
        }
        entries.insert(path.to_owned(), entry);
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = Header::new_ustar();
        let (kind, mode, content) = match entry {
            Entry::Folder => (EntryType::Directory, 0o755, [].as_slice()),
            Entry::File { mode, content } => (EntryType::Regular, mode, content),
            Entry::Link { target } => {
                header.set_link_name(target)?;
                (EntryType::Symlink, 0o777, [].as_slice())
            }
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(u64::try_from(content.len())?);
        tar.append_data(&mut header, &path, content)
            .with_context(|| format!("adding {path} to the archive"))?;
    }
    Ok(tar.into_inner()?)
}

/// Packs content, without name and time in the header.
///
/// # Errors
/// Packing fails, which does not happen in memory.
pub(crate) fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
    gzip.write_all(content)?;
    Ok(gzip.finish()?)
}
