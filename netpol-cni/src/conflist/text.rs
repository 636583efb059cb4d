//! Parses and edits the text of one configuration.
//!
//! In: JSON text. Out: the same text with one entry added, removed or changed. All other bytes stay, because the text is
//! edited at the positions of the parsed values and is not serialised again.
//! Must not: do IO.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::entry::{Entry, PLUGIN_TYPE, SPEC_VERSIONS};
use super::flaw::Flaw;

/// Field of a list of ours: the name of the file that it was made from. Runtimes ignore it.
const MADE_FROM: &str = "netpol/made-from";

/// Field of a list: whether the folder of the network does not count. A boolean or its text.
const ONLY_INLINED: &str = "loadOnlyInlinedPlugins";

/// `type` of Multus: the plugin itself, or the client of its daemon.
const MULTUS_TYPES: [&str; 2] = ["multus", "multus-shim"];

/// Makes the runtime pass the pod's bandwidth limits, because the plugin that sets them needs the clsact ingress of the host's
/// end for itself.
const CAPABILITIES: &str = r#"{"bandwidth": true}"#;

/// Fields with which netpol-cni creates the interface, or delegates that.
const MAIN_FIELDS: [&str; 3] = ["ipam", "delegate", "subnetFile"];

/// A network configuration list.
#[derive(Debug)]
pub struct List<'a> {
    text: &'a str,
    /// Name of the network. A folder of this name holds more plugins, which run after those of the list.
    pub network: String,
    /// Whether that folder counts (`loadOnlyInlinedPlugins` is not set).
    pub reads_folder: bool,
    /// The file that this list was made from, if it is a list of ours.
    pub made_from: Option<String>,
    plugins: Vec<Plugin>,
}

/// One item of `plugins`.
#[derive(Debug)]
struct Plugin {
    /// Its position in the text.
    span: Range<usize>,
    role: Role,
}

/// Role of a plugin.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// Another plugin.
    Foreign,
    /// netpol-cni behind another plugin, as `install` writes it.
    Chained { socket: String, gets_limits: bool },
    /// netpol-cni behind another plugin, with fields that an operator added: not changed.
    ChainedByHand,
    /// netpol-cni creates the interface.
    Main,
}

/// The change of a list by [`List::install`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Edit {
    /// None: the entry exists, or netpol-cni is the main plugin.
    Nothing,
    /// The text with the entry added.
    Insert(String),
    /// The text with the entry corrected.
    Update(String),
}

impl<'a> List<'a> {
    /// Parses and checks a list.
    ///
    /// # Errors
    /// All variants of [`Flaw`].
    pub fn parse(text: &'a str) -> Result<Self, Flaw> {
        let fields = fields(text).map_err(Flaw::Json)?;
        let network = string(&fields, "name").ok_or_else(|| field("name", "a string"))?;
        let reads_folder = !fields.get(ONLY_INLINED).is_some_and(|value| is_true(value));
        let items = match get::<Vec<&RawValue>>(&fields, "plugins") {
            None if reads_folder && !fields.contains_key("plugins") => Vec::new(),
            None => return Err(field("plugins", "a list")),
            Some(items) if items.is_empty() => return Err(Flaw::Empty),
            Some(items) => items,
        };
        let plugins = items.iter().enumerate().map(|(index, item)| {
            let role = role(item.get(), index)?;
            Ok(Plugin { span: span(text, item.get()), role })
        });
        let plugins = plugins.collect::<Result<_, Flaw>>()?;
        check_version(&fields)?;
        Ok(Self { text, network, reads_folder, made_from: string(&fields, MADE_FROM), plugins })
    }

    /// Adds our entry behind the first plugin, which creates the interface, or corrects it.
    ///
    /// Any position behind the first would be safe, because the runtime starts no container before every plugin has
    /// succeeded. Right behind the first, an error comes before other plugins have done work that must be undone.
    pub fn install(&self, entry: &Entry) -> Edit {
        let wanted = entry_text(entry);
        for plugin in &self.plugins {
            match &plugin.role {
                Role::Foreign => {}
                Role::Chained { socket, gets_limits }
                    if *socket != entry.socket || !gets_limits =>
                {
                    return Edit::Update(self.replaced(plugin.span.clone(), &wanted));
                }
                Role::Chained { .. } | Role::ChainedByHand | Role::Main => return Edit::Nothing,
            }
        }
        let Some(first) = self.plugins.first() else { return Edit::Nothing };
        // The white space between `[` and the first item is used before our entry too.
        let before = self.text.get(..first.span.start).unwrap_or_default();
        let space = before.get(before.trim_end().len()..).unwrap_or_default();
        let space = if space.is_empty() { " " } else { space };
        let end = first.span.end;
        Edit::Insert(self.replaced(end..end, &format!(",{space}{wanted}")))
    }

    /// Whether all plugins are in the folder of the network.
    pub fn has_only_folder(&self) -> bool {
        self.plugins.is_empty()
    }

    /// Whether the first plugin is Multus.
    pub fn is_multus(&self) -> bool {
        let first = self.plugins.first().and_then(|plugin| self.text.get(plugin.span.clone()));
        first.is_some_and(is_multus)
    }

    /// Whether netpol-cni creates the interface.
    pub fn is_main(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.role == Role::Main)
    }

    /// The text without our entries, each removed with the comma and white space before it, as [`install`](Self::install)
    /// adds them. `None` if there is no entry.
    pub fn uninstall(&self) -> Option<String> {
        let mut text = None;
        // From the back, so that the positions before it stay valid.
        for (before, plugin) in self.plugins.iter().zip(self.plugins.iter().skip(1)).rev() {
            if matches!(plugin.role, Role::Chained { .. } | Role::ChainedByHand) {
                let text = text.get_or_insert_with(|| self.text.to_owned());
                text.replace_range(before.span.end..plugin.span.end, "");
            }
        }
        text
    }

    fn replaced(&self, range: Range<usize>, with: &str) -> String {
        let mut text = self.text.to_owned();
        text.replace_range(range, with);
        text
    }
}

/// Makes a list of a single plugin's configuration and our entry. `None` if that plugin is netpol-cni, or Multus, which runs the
/// plugins of another file.
///
/// # Errors
/// [`Flaw::Json`], [`Flaw::Field`], [`Flaw::Version`].
pub fn list_from(name: &str, conf: &str, entry: &Entry) -> Result<Option<String>, Flaw> {
    let fields = fields(conf).map_err(Flaw::Json)?;
    let plugin_type = string(&fields, "type").ok_or_else(|| field("type", "a string"))?;
    let network = string(&fields, "name").ok_or_else(|| field("name", "a string"))?;
    check_version(&fields)?;
    if plugin_type == PLUGIN_TYPE || MULTUS_TYPES.contains(&plugin_type.as_str()) {
        return Ok(None);
    }
    let version = string(&fields, "cniVersion").unwrap_or_default();
    Ok(Some(format!(
        "{{\n  \"cniVersion\": {},\n  \"name\": {},\n  {}: {},\n  \"plugins\": [\n{},\n{}\n  ]\n}}\n",
        quoted(&version),
        quoted(&network),
        quoted(MADE_FROM),
        quoted(name),
        conf.trim(),
        entry_text(entry),
    )))
}

/// Whether a list of plugins, or a single plugin's configuration, is valid and has netpol-cni.
pub fn names_plugin(text: &str) -> bool {
    let is_foreign =
        |list: List<'_>| list.plugins.iter().all(|plugin| plugin.role == Role::Foreign);
    is_ours(text) || List::parse(text).is_ok_and(|list| !is_foreign(list))
}

/// Whether a single plugin's configuration is netpol-cni's.
pub fn is_ours(conf: &str) -> bool {
    fields(conf).is_ok_and(|fields| string(&fields, "type").as_deref() == Some(PLUGIN_TYPE))
}

/// `type` of a single plugin's configuration.
///
/// # Errors
/// [`Flaw::Json`], [`Flaw::Field`].
pub fn plugin_type(conf: &str) -> Result<String, Flaw> {
    let fields = fields(conf).map_err(Flaw::Json)?;
    string(&fields, "type").ok_or_else(|| field("type", "a string"))
}

/// Whether a single plugin's configuration is that of Multus.
pub fn is_multus(conf: &str) -> bool {
    plugin_type(conf).is_ok_and(|found| MULTUS_TYPES.contains(&found.as_str()))
}

/// Whether Multus with this configuration runs the plugins of a file with this path or network name: as its cluster network, or
/// as a copy in its delegates, which has our entry then.
pub fn multus_runs(conf: &str, file: &str, network: &str) -> bool {
    let Ok(fields) = fields(conf) else { return false };
    match string(&fields, "clusterNetwork") {
        Some(found) => found == network || found.rsplit('/').next() == Some(file),
        None => fields
            .get("delegates")
            .is_some_and(|delegates| delegates.get().contains(&quoted(PLUGIN_TYPE))),
    }
}

/// The configuration of netpol-cni as a file in the folder of a network.
pub fn entry_file(entry: &Entry) -> String {
    format!("{}\n", entry_text(entry))
}

fn entry_text(entry: &Entry) -> String {
    let Entry { socket } = entry;
    let plugin_type = quoted(PLUGIN_TYPE);
    let socket = if socket == netpol_proto::SOCKET_PATH {
        String::new()
    } else {
        format!(", \"agentSocket\": {}", quoted(socket))
    };
    format!("{{\"type\": {plugin_type}{socket}, \"capabilities\": {CAPABILITIES}}}")
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn role(plugin: &str, index: usize) -> Result<Role, Flaw> {
    let type_field = || field(&format!("plugins[{index}].type"), "a string");
    let Ok(fields) = fields(plugin) else {
        return Err(field(&format!("plugins[{index}]"), "an object"));
    };
    if string(&fields, "type").ok_or_else(type_field)? != PLUGIN_TYPE {
        return Ok(Role::Foreign);
    }
    if index == 0 || MAIN_FIELDS.iter().any(|name| fields.contains_key(*name)) {
        return Ok(Role::Main);
    }
    let is_plain =
        fields.keys().all(|name| matches!(name.as_str(), "type" | "agentSocket" | "capabilities"));
    if !is_plain {
        return Ok(Role::ChainedByHand);
    }
    let socket =
        string(&fields, "agentSocket").unwrap_or_else(|| netpol_proto::SOCKET_PATH.to_owned());
    // Older versions wrote no capabilities.
    let gets_limits = match get::<serde_json::Value>(&fields, "capabilities") {
        None => false,
        Some(found) if found == serde_json::json!({ "bandwidth": true }) => true,
        Some(_) => return Ok(Role::ChainedByHand),
    };
    Ok(Role::Chained { socket, gets_limits })
}

/// Checks that netpol-cni supports a version of the list. Of several (`cniVersions`, since 1.1.0) the runtime chooses one that
/// all plugins support.
fn check_version(fields: &BTreeMap<String, &RawValue>) -> Result<(), Flaw> {
    let found = string(fields, "cniVersion").unwrap_or_default();
    let others: Vec<String> = get(fields, "cniVersions").unwrap_or_default();
    let is_supported = |version: &String| SPEC_VERSIONS.contains(&version.as_str());
    if is_supported(&found) || others.iter().any(is_supported) {
        return Ok(());
    }
    Err(Flaw::Version { found })
}

fn is_true(value: &RawValue) -> bool {
    value.get().trim_matches('"').eq_ignore_ascii_case("true")
}

/// The fields of an object, as text. Of duplicate fields the last one counts, as for the runtimes.
fn fields(text: &str) -> Result<BTreeMap<String, &RawValue>, serde_json::Error> {
    serde_json::from_str(text)
}

fn get<'a, T: Deserialize<'a>>(fields: &BTreeMap<String, &'a RawValue>, name: &str) -> Option<T> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

fn string(fields: &BTreeMap<String, &RawValue>, name: &str) -> Option<String> {
    get(fields, name)
}

fn field(name: &str, expected: &'static str) -> Flaw {
    Flaw::Field { field: name.to_owned(), expected }
}

/// The position in `text` of a part that borrows from it.
fn span(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start.saturating_add(part.len())
}
