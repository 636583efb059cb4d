//! Flaws in the text of a configuration.

/// A flaw in the text of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// The text is not a JSON object.
    #[error("not a valid JSON object")]
    Json(#[source] serde_json::Error),
    /// A required field is missing, or has the wrong type.
    #[error("field `{field}` is missing or not {expected}")]
    Field {
        /// Path of the field.
        field: String,
        /// The expected type.
        expected: &'static str,
    },
    /// The list has no plugin that creates an interface.
    #[error("field `plugins` is empty: no plugin creates an interface")]
    Empty,
    /// The list has no plugins, and its folder has none either.
    #[error("there is no field `plugins`, and no plugin in the folder {folder}")]
    EmptyFolder {
        /// Name of the network and of the folder.
        folder: String,
    },
    /// netpol-cni does not support the version, and would refuse every pod of this network.
    #[error("field `cniVersion` is `{found}`, netpol-cni supports {}", super::entry::SPEC_VERSIONS.join(", "))]
    Version {
        /// The version in the file; empty if there is none.
        found: String,
    },
}
