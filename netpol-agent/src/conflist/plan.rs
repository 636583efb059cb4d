//! The steps that add our entry to a configuration directory, or remove it.
//!
//! In: the names and texts of its files. Out: steps, and errors in single files. After the steps, the plan for the new
//! content is empty.
//! Must not: do IO.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use super::error::Error;
use netpol_cni::conflist::Flaw;
use netpol_cni::conflist::text::{self, Edit, List};
use netpol_cni::conflist::{BACKUP_ENDING, Entry, PLUGIN_TYPE};

/// Ending of the files with a list of plugins.
const LIST_ENDING: &str = ".conflist";

/// Ending of the files with a plugin's configuration in the folder of a network.
const FOLDER_CONF_ENDING: &str = ".conf";

/// Ending of our file in such a folder. It is added to the first file's name without its ending, and sorts behind it.
const FOLDER_ENDING: &str = ".netpol.conf";

/// Endings of the files with a single plugin's configuration.
const CONF_ENDINGS: [&str; 2] = [".conf", ".json"];

/// The files of a directory that a plan considers: configurations and our copies of originals.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The directory, for messages.
    pub directory: PathBuf,
    /// Texts by file name, in the order in which runtimes read them. The plugins of a network, which can be in a folder named after
    /// it, have the folder in their names.
    pub by_name: BTreeMap<String, Result<String, std::io::Error>>,
}

/// One change of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copies the original text of a file.
    Backup {
        /// The name of the copy.
        name: String,
        /// The original text.
        text: String,
        /// The file whose mode and owner the copy gets.
        like: String,
    },
    /// Replaces the text of a file.
    Replace {
        /// Its name.
        name: String,
        /// The text for which the plan was made: if the file has another one, the plan is not valid any more.
        expected: String,
        /// The new text.
        text: String,
        /// The purpose.
        purpose: Purpose,
    },
    /// Creates a list of ours.
    Make {
        /// Its name.
        name: String,
        /// Its text.
        text: String,
        /// The single plugin's configuration that the list is made from. The list gets its mode and owner.
        from: String,
    },
    /// Removes a file of ours.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Purpose of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Our entry is added.
    Insert,
    /// Our entry is corrected.
    Update,
    /// Our entry is removed, which gives the original text.
    Restore,
    /// Our entry is removed; the file has been changed otherwise since it was added.
    Remove,
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup { name, .. } => write!(f, "{name}: original copied"),
            Self::Make { name, from, .. } => write!(f, "{name}: made from {from}, with netpol-cni"),
            Self::Remove { name } => write!(f, "{name}: removed"),
            Self::Replace { name, purpose, .. } => {
                let change = match purpose {
                    Purpose::Insert => "netpol-cni added",
                    Purpose::Update => "entry of netpol-cni updated",
                    Purpose::Restore => "original restored",
                    Purpose::Remove => "netpol-cni removed, changes by others kept",
                };
                write!(f, "{name}: {change}")
            }
        }
    }
}

/// Steps, and errors in single files.
#[derive(Debug, Default)]
#[must_use]
pub struct Plan {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Errors in single files. The steps are valid without these files.
    pub problems: Vec<Error>,
    /// The file that has our entry after the steps.
    pub file: Option<PathBuf>,
}

/// Plans to add our entry to the file that the runtime uses.
pub fn install(snapshot: &Snapshot, entry: &Entry) -> Plan {
    let mut plan = Plan::default();
    let mut multus = None;
    for (name, content) in snapshot.configurations() {
        let found = match content {
            Err(source) => Err(unread(&snapshot.directory.join(name), source)),
            // Multus runs the plugins of the first file that is not its own.
            Ok(text) if is_multus(name, text) => {
                multus = multus.or(Some((name, text)));
                continue;
            }
            Ok(text) => plan_file(snapshot, entry, name, text, &mut plan)
                .map_err(|source| Error::Flawed { path: snapshot.directory.join(name), source }),
        };
        match found {
            Ok(Some(file)) => {
                if let Some((name, text)) = multus {
                    plan.problems.extend(check_multus(snapshot, name, text, &file));
                }
                plan.file = Some(snapshot.directory.join(file));
                return plan;
            }
            Ok(None) => {}
            Err(problem) => plan.problems.push(problem),
        }
    }
    match multus {
        // Its delegates were written by hand.
        Some((name, text)) if text::multus_runs(text, "", "") => {
            plan.file = Some(snapshot.directory.join(name));
        }
        _ => plan.problems.push(Error::Nothing { path: snapshot.directory.clone() }),
    }
    plan
}

fn is_multus(name: &str, text: &str) -> bool {
    if name.ends_with(LIST_ENDING) {
        // A list of ours that an older version made is removed.
        return List::parse(text).is_ok_and(|list| list.made_from.is_none() && list.is_multus());
    }
    text::is_multus(text)
}

/// Whether Multus runs the file with our entry. Its daemon or its init container takes the file over within a second.
fn check_multus(snapshot: &Snapshot, name: &str, text: &str, file: &str) -> Option<Error> {
    let list = snapshot.text(file).and_then(|text| List::parse(text).ok());
    let network = list.map(|list| list.network).unwrap_or_default();
    let runs = text::multus_runs(text, file, &network);
    (!runs).then(|| Error::Multus {
        path: snapshot.directory.join(name),
        file: snapshot.directory.join(file),
    })
}

/// Plans for one file. Returns the name of the file that has the entry after the steps; `None` if this file is removed.
fn plan_file(
    snapshot: &Snapshot,
    entry: &Entry,
    name: &str,
    text: &str,
    plan: &mut Plan,
) -> Result<Option<String>, Flaw> {
    if !name.ends_with(LIST_ENDING) {
        let Some(list) = text::list_from(name, text, entry)? else { return Ok(Some(name.into())) };
        let made = name_before(name);
        if snapshot.by_name.contains_key(&made) {
            // It sorts before this file and is invalid, so it is not ours. The error has been reported, and the file stays.
            return Ok(None);
        }
        plan.steps.push(Step::Make { name: made.clone(), text: list, from: name.into() });
        return Ok(Some(made));
    }
    let list = List::parse(text)?;
    if let Some(from) = &list.made_from {
        return Ok(plan_made(snapshot, entry, name, text, from, plan));
    }
    if list.has_only_folder() {
        return plan_folder(snapshot, entry, &list.network, plan);
    }
    if list.reads_folder
        && snapshot.folder(&list.network).any(|(_, content)| content.is_ok_and(text::is_ours))
    {
        return Ok(Some(name.into()));
    }
    let (new, purpose) = match list.install(entry) {
        Edit::Nothing => return Ok(Some(name.into())),
        Edit::Insert(new) => (new, Purpose::Insert),
        Edit::Update(new) => (new, Purpose::Update),
    };
    let backup = format!("{name}{BACKUP_ENDING}");
    if purpose == Purpose::Insert && snapshot.text(&backup) != Some(text) {
        plan.steps.push(Step::Backup { name: backup, text: text.into(), like: name.into() });
    }
    let (name, expected) = (name.to_owned(), text.to_owned());
    plan.steps.push(Step::Replace { name: name.clone(), expected, text: new, purpose });
    Ok(Some(name))
}

/// Plans for a network whose plugins are files in a folder of its name (libcni 1.3). Ours is a file behind the first one. Returns
/// the name of the file with the entry.
fn plan_folder(
    snapshot: &Snapshot,
    entry: &Entry,
    network: &str,
    plan: &mut Plan,
) -> Result<Option<String>, Flaw> {
    let mut first = None;
    let (mut ours, mut by_hand) = (Vec::new(), None);
    for (name, content) in snapshot.folder(network) {
        let text = match content {
            Ok(text) => text,
            Err(source) => {
                plan.problems.push(unread(&snapshot.directory.join(name), source));
                return Ok(None);
            }
        };
        let is_ours = text::plugin_type(text)? == PLUGIN_TYPE;
        if is_ours && name.ends_with(FOLDER_ENDING) {
            ours.push((name, text));
        } else if is_ours {
            by_hand = by_hand.or(Some(name));
        } else {
            first = first.or(Some(name));
        }
    }
    let stale = |plan: &mut Plan, wanted: &str| {
        let others = ours.iter().filter(|(name, _)| *name != wanted);
        plan.steps.extend(others.map(|(name, _)| Step::Remove { name: (*name).to_owned() }));
    };
    if let Some(name) = by_hand {
        stale(plan, "");
        return Ok(Some(name.to_owned()));
    }
    let Some(first) = first else {
        stale(plan, "");
        return Err(Flaw::EmptyFolder { folder: network.to_owned() });
    };
    let stem = first.strip_suffix(FOLDER_CONF_ENDING).unwrap_or(first);
    let (name, text) = (format!("{stem}{FOLDER_ENDING}"), text::entry_file(entry));
    stale(plan, &name);
    if !ours.iter().any(|(found, content)| *found == name && **content == *text) {
        plan.steps.push(Step::Make { name: name.clone(), text, from: first.to_owned() });
    }
    Ok(Some(name))
}

/// Plans for a list of ours, which follows the file that it was made from.
fn plan_made(
    snapshot: &Snapshot,
    entry: &Entry,
    name: &str,
    text: &str,
    from: &str,
    plan: &mut Plan,
) -> Option<String> {
    let path = snapshot.directory.join(from);
    let list = match snapshot.by_name.get(from) {
        None => Ok(None),
        Some(Err(source)) => Err(unread(&path, source)),
        Some(Ok(conf)) => {
            text::list_from(from, conf, entry).map_err(|source| Error::Flawed { path, source })
        }
    };
    match list {
        // The file is gone, or configures netpol-cni itself: the runtime is to use what is there.
        Ok(None) => {
            plan.steps.push(Step::Remove { name: name.into() });
            return None;
        }
        Ok(Some(list)) if list == text => {}
        Ok(Some(list)) => {
            plan.steps.push(Step::Make { name: name.into(), text: list, from: from.into() });
        }
        // The list stays until the file is valid again.
        Err(problem) => plan.problems.push(problem),
    }
    Some(name.into())
}

/// Whether a file has our entry, or is the copy of an original.
pub(super) fn was_installed(snapshot: &Snapshot) -> bool {
    snapshot.by_name.iter().any(|(name, content)| {
        let has_entry = content.as_ref().is_ok_and(|text| text::names_plugin(text));
        name.ends_with(BACKUP_ENDING) || has_entry
    })
}

/// Plans the removal of everything that `install` has ever added to the directory.
pub fn uninstall(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    for (name, content) in snapshot.configurations() {
        let path = snapshot.directory.join(name);
        let planned = match content {
            Err(source) => Err(unread(&path, source)),
            Ok(text) if !text.contains(PLUGIN_TYPE) || is_multus(name, text) => Ok(None),
            Ok(text) if !name.ends_with(LIST_ENDING) => {
                if text::is_ours(text) {
                    Err(Error::Main { path })
                } else {
                    Ok(None)
                }
            }
            Ok(text) => match List::parse(text) {
                Err(source) => Err(Error::Flawed { path, source }),
                Ok(list) if list.made_from.is_some() => {
                    Ok(Some(Step::Remove { name: name.into() }))
                }
                Ok(list) if list.is_main() => Err(Error::Main { path }),
                Ok(list) => Ok(list.uninstall().map(|new| removal(snapshot, name, text, new))),
            },
        };
        let backup = format!("{name}{BACKUP_ENDING}");
        match planned {
            // The copy of the original stays, because the operator may need it.
            Err(problem) => plan.problems.push(problem),
            Ok(step) => {
                plan.steps.extend(step);
                if snapshot.by_name.contains_key(&backup) {
                    plan.steps.push(Step::Remove { name: backup });
                }
            }
        }
    }
    for (name, content) in &snapshot.by_name {
        if name.contains('/') && content.as_ref().is_ok_and(|text| text::is_ours(text)) {
            if name.ends_with(FOLDER_ENDING) {
                plan.steps.push(Step::Remove { name: name.clone() });
            } else {
                let path = snapshot.directory.join(name);
                plan.problems.push(Error::ByHand { path });
            }
        }
        // The copy of a file that is gone.
        if let Some(file) = name.strip_suffix(BACKUP_ENDING)
            && !snapshot.by_name.contains_key(file)
        {
            plan.steps.push(Step::Remove { name: name.clone() });
        }
    }
    plan
}

fn removal(snapshot: &Snapshot, name: &str, expected: &str, text: String) -> Step {
    let original = snapshot.text(&format!("{name}{BACKUP_ENDING}"));
    let purpose = if original == Some(&text) { Purpose::Restore } else { Purpose::Remove };
    Step::Replace { name: name.into(), expected: expected.into(), text, purpose }
}

/// Whether a plan considers a file of this name.
pub(super) fn is_read(name: &str) -> bool {
    is_configuration(name) || name.ends_with(BACKUP_ENDING)
}

/// Whether a plan considers a file of this name in the folder of a network.
pub(super) fn is_read_in_folder(name: &str) -> bool {
    name.ends_with(FOLDER_CONF_ENDING)
}

fn is_configuration(name: &str) -> bool {
    let mut endings = CONF_ENDINGS.iter().chain([&LIST_ENDING]);
    !name.contains('/') && endings.any(|ending| name.ends_with(ending))
}

/// The name of the list that replaces a single plugin's configuration. `-` sorts before `.`, so only names with the same
/// beginning can sort between the two.
fn name_before(conf: &str) -> String {
    let stem = CONF_ENDINGS.iter().find_map(|ending| conf.strip_suffix(ending));
    format!("{}-netpol{LIST_ENDING}", stem.unwrap_or(conf))
}

/// A copy of an error of the snapshot, for the plan.
fn unread(path: &Path, source: &std::io::Error) -> Error {
    let source = match source.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => std::io::Error::new(source.kind(), source.to_string()),
    };
    Error::Read { path: path.to_owned(), source }
}

impl Snapshot {
    fn configurations(&self) -> impl Iterator<Item = (&String, &Result<String, std::io::Error>)> {
        self.by_name.iter().filter(|(name, _)| is_configuration(name))
    }

    /// The files in the folder of a network, in the order in which their plugins run.
    fn folder(&self, network: &str) -> impl Iterator<Item = (&str, Result<&str, &std::io::Error>)> {
        let prefix = format!("{network}/");
        self.by_name
            .iter()
            .filter(move |(name, _)| name.starts_with(&prefix))
            .map(|(name, content)| (name.as_str(), content.as_deref()))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.by_name.get(name)?.as_deref().ok()
    }
}
