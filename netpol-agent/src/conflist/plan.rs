//! What has to be done in a configuration directory.
//!
//! In: the names and texts of its files. Out: steps, and what is wrong. After the steps have been taken the
//! plan for the new content is empty.
//! Must not: do IO.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use super::text::{self, Edit, List};
use super::{BACKUP_ENDING, Entry, Error, Flaw, PLUGIN_TYPE};

/// The ending of lists of plugins.
const LIST_ENDING: &str = ".conflist";

/// The endings of a single plugin's configuration.
const CONF_ENDINGS: [&str; 2] = [".conf", ".json"];

/// The files of a directory that concern us: configurations and originals that we keep.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The directory, for messages.
    pub directory: PathBuf,
    /// Text by name, in the order in which runtimes take them.
    pub by_name: BTreeMap<String, Result<String, std::io::Error>>,
}

/// One change of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Keeps the original text of a file.
    Backup {
        /// The name of the copy.
        name: String,
        /// The original text.
        text: String,
        /// The file whose mode and owner it gets.
        like: String,
    },
    /// Gives an existing file another text.
    Replace {
        /// Its name.
        name: String,
        /// The text that the plan was made for: if it is another by now, the plan is void.
        seen: String,
        /// The new text.
        text: String,
        /// What it is for.
        purpose: Purpose,
    },
    /// Makes a list of ours.
    Make {
        /// Its name.
        name: String,
        /// Its text.
        text: String,
        /// The single plugin's configuration that it is made from; it gets its mode and owner.
        from: String,
    },
    /// Removes a file of ours.
    Remove {
        /// Its name.
        name: String,
    },
}

/// What a text is changed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Our entry is added.
    Insert,
    /// Our entry is corrected.
    Update,
    /// Our entry is taken out, which gives the original text.
    Restore,
    /// Our entry is taken out; others have changed the file since it was put in.
    TakeOut,
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup { name, .. } => write!(f, "{name}: original kept"),
            Self::Make { name, from, .. } => write!(f, "{name}: made from {from}, with netpol-cni"),
            Self::Remove { name } => write!(f, "{name}: removed"),
            Self::Replace { name, purpose, .. } => {
                let what = match purpose {
                    Purpose::Insert => "netpol-cni added",
                    Purpose::Update => "entry of netpol-cni updated",
                    Purpose::Restore => "original restored",
                    Purpose::TakeOut => "netpol-cni removed, changes by others kept",
                };
                write!(f, "{name}: {what}")
            }
        }
    }
}

/// Steps, and what stands in the way.
#[derive(Debug, Default)]
#[must_use]
pub struct Plan {
    /// What to do, in this order.
    pub steps: Vec<Step>,
    /// What is wrong; the steps are right all the same.
    pub problems: Vec<Error>,
    /// After the steps: the file that has our entry.
    pub file: Option<PathBuf>,
}

/// Plans the entry for the file that the runtime uses.
pub fn install(snapshot: &Snapshot, entry: &Entry) -> Plan {
    let mut plan = Plan::default();
    for (name, content) in snapshot.configurations() {
        let found = match content {
            Err(source) => Err(unread(&snapshot.directory.join(name), source)),
            Ok(text) => plan_file(snapshot, entry, name, text, &mut plan)
                .map_err(|source| Error::Flawed { path: snapshot.directory.join(name), source }),
        };
        match found {
            Ok(Some(file)) => {
                plan.file = Some(snapshot.directory.join(file));
                return plan;
            }
            Ok(None) => {}
            Err(problem) => plan.problems.push(problem),
        }
    }
    plan.problems.push(Error::Nothing { path: snapshot.directory.clone() });
    plan
}

/// Plans for one file. Returns the name of the file that has the entry then; none if this one goes away.
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
            // It comes first and was found invalid, so it is not ours: that has been told, and it stays.
            return Ok(None);
        }
        plan.steps.push(Step::Make { name: made.clone(), text: list, from: name.into() });
        return Ok(Some(made));
    }
    let list = List::parse(text)?;
    if let Some(from) = &list.made_from {
        return Ok(plan_made(snapshot, entry, name, text, from, plan));
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
    let (name, seen) = (name.to_owned(), text.to_owned());
    plan.steps.push(Step::Replace { name: name.clone(), seen, text: new, purpose });
    Ok(Some(name))
}

/// A list of ours follows the file that it was made from.
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
        // The network is gone, or is our own now: without this file the runtime sees what is there.
        Ok(None) => {
            plan.steps.push(Step::Remove { name: name.into() });
            return None;
        }
        Ok(Some(list)) if list == text => {}
        Ok(Some(list)) => {
            plan.steps.push(Step::Make { name: name.into(), text: list, from: from.into() });
        }
        // Until it can be used again the list stays as it is.
        Err(problem) => plan.problems.push(problem),
    }
    Some(name.into())
}

/// Plans the removal of everything that we ever put into the directory.
pub fn uninstall(snapshot: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    for (name, content) in snapshot.configurations() {
        let path = snapshot.directory.join(name);
        let planned = match content {
            Err(source) => Err(unread(&path, source)),
            Ok(text) if !text.contains(PLUGIN_TYPE) => Ok(None),
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
                Ok(list) => Ok(list.uninstall().map(|new| take_out(snapshot, name, text, new))),
            },
        };
        let backup = format!("{name}{BACKUP_ENDING}");
        match planned {
            // An original may still be of use to a person then.
            Err(problem) => plan.problems.push(problem),
            Ok(step) => {
                plan.steps.extend(step);
                if snapshot.by_name.contains_key(&backup) {
                    plan.steps.push(Step::Remove { name: backup });
                }
            }
        }
    }
    for name in snapshot.by_name.keys() {
        // The original of a file that is gone.
        if let Some(file) = name.strip_suffix(BACKUP_ENDING)
            && !snapshot.by_name.contains_key(file)
        {
            plan.steps.push(Step::Remove { name: name.clone() });
        }
    }
    plan
}

fn take_out(snapshot: &Snapshot, name: &str, seen: &str, text: String) -> Step {
    let original = snapshot.text(&format!("{name}{BACKUP_ENDING}"));
    let purpose = if original == Some(&text) { Purpose::Restore } else { Purpose::TakeOut };
    Step::Replace { name: name.into(), seen: seen.into(), text, purpose }
}

/// Whether a file of this name concerns us.
pub(super) fn is_read(name: &str) -> bool {
    is_configuration(name) || name.ends_with(BACKUP_ENDING)
}

fn is_configuration(name: &str) -> bool {
    name.ends_with(LIST_ENDING) || CONF_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The name of the list that stands in for a single plugin's configuration: `-` sorts before `.`, so no
/// name fits between but those that begin with it.
fn name_before(conf: &str) -> String {
    let stem = CONF_ENDINGS.iter().find_map(|ending| conf.strip_suffix(ending));
    format!("{}-netpol{LIST_ENDING}", stem.unwrap_or(conf))
}

/// The error of a snapshot belongs to it; a plan has its own.
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

    fn text(&self, name: &str) -> Option<&str> {
        self.by_name.get(name)?.as_deref().ok()
    }
}
