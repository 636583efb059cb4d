//! What was found in files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::model::{Diagnostic, Severity, codes};

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it was named or found; `-` is the standard input.
    pub file: Arc<Path>,
    /// The line, counted from 1; 0 for the whole file.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}", self.file.display())
        } else {
            write!(f, "{}:{}", self.file.display(), self.line)
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An object and where it is defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The object.
    pub object: T,
    /// Where its definition begins.
    pub place: Place,
}

/// A finding in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    #[serde(flatten)]
    pub cause: Cause,
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Cause {
    /// A field of an object.
    Object(Diagnostic),
    /// The file itself, or a part of it that is no object.
    File {
        /// Which finding this is.
        code: FileCode,
        /// What is wrong and what netpol does about it: lower case, no full stop.
        message: String,
    },
}

impl Finding {
    /// How bad it is.
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
            Cause::Object(diagnostic) => write!(f, "{}: {diagnostic}", self.place),
            Cause::File { code, message } => {
                write!(f, "{}: {message} [{}]", self.place, code.as_str())
            }
        }
    }
}

codes! {
    /// Stable codes of the findings on files.
    FileCode {
        Unreadable = "unreadable" Error: "The file or directory cannot be read.";
        Syntax = "syntax" Error: "It is not YAML.";
        RepeatedKey = "repeated-key" Error: "A mapping has a key twice.";
        InvalidValue = "invalid-value" Error: "A value without a meaning in JSON.";
        TooLarge = "too-large" Error: "More than what is read.";
        NoKind = "no-kind" Warning: "A document that does not say what it is.";
    }
}
