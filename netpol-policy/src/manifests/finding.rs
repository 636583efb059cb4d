//! Findings on files, and locations in files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::yaml::Position;
use crate::model::{Diagnostic, Severity, codes};

/// A position in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Path of the file, as given or as found in a directory; `-` is the standard input.
    pub file: Arc<Path>,
    /// The line, counted from 1; 0 stands for the whole file.
    pub line: usize,
    /// The column, counted in characters from 1; 0 stands for the whole line.
    pub column: usize,
}

impl Location {
    /// A whole file.
    pub const fn whole(file: Arc<Path>) -> Self {
        Self { file, line: 0, column: 0 }
    }

    /// A position in a file.
    pub(super) fn at(file: &Arc<Path>, position: Position) -> Self {
        Self { file: Arc::clone(file), line: position.line(), column: position.column() }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}", self.file.display())
        } else {
            write!(f, "{}:{}", self.file.display(), self.line)
        }
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An object and the location of its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The object.
    pub object: T,
    /// First line of the definition.
    pub location: Location,
}

/// A finding in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The location.
    pub location: Location,
    /// The object or file concerned, and the message.
    #[serde(flatten)]
    pub cause: Cause,
}

/// The subject of a finding, and its message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Cause {
    /// A field of an object.
    Object(Diagnostic),
    /// The file itself, or a document that is not an object.
    File {
        /// The stable code.
        code: FileCode,
        /// The problem, then its effect after a colon: lower case, no full stop.
        message: String,
    },
}

impl Finding {
    /// The severity of its code.
    pub const fn severity(&self) -> Severity {
        match &self.cause {
            Cause::Object(diagnostic) => diagnostic.severity(),
            Cause::File { code, .. } => code.severity(),
        }
    }

    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match &self.cause {
            Cause::Object(diagnostic) => diagnostic.code.as_str(),
            Cause::File { code, .. } => code.as_str(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Object(diagnostic) => write!(f, "{}: {diagnostic}", self.location),
            Cause::File { code, message } => {
                write!(f, "{}: {message} [{}]", self.location, code.as_str())
            }
        }
    }
}

codes! {
    /// Stable codes of the findings on files.
    FileCode {
        Unreadable = "unreadable" Error: "The file or directory cannot be read.";
        Syntax = "syntax" Error: "The document is not valid YAML.";
        RepeatedKey = "repeated-key" Error: "A mapping contains the same key twice.";
        InvalidValue = "invalid-value" Error: "A YAML value that JSON cannot represent.";
        TooLarge = "too-large" Error: "A file or document exceeds a size limit of the reader.";
        NoKind = "no-kind" Warning: "A document without `kind`.";
        UnknownKind = "unknown-kind" Error: "A kind that does not exist, and that resembles one that netpol evaluates.";
        ForeignPolicy = "foreign-policy" Warning: "A policy of another engine. It is not evaluated.";
        NoManifest = "no-manifest" Warning: "A directory without manifests, or a file without documents.";
    }
}
