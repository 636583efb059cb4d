//! The error that the runtime receives.
//!
//! In: the errors of the other modules. Out: [`CniError`], with a code from the one table in
//! [`netpol_proto::ErrorCode`], written as the specification's JSON.

use std::error::Error;

use netpol_proto::ErrorCode;
use serde::Serialize;

use crate::version::SpecVersion;
use crate::{client, config, environment, interface, netns, result, subnet_file, veth};

/// Source: CNI specification 1.1.0, "Error".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// The CNI error code.
    pub code: ErrorCode,
    /// One sentence that names the object.
    pub msg: String,
    /// The causes, for a person to read. May be empty.
    pub details: String,
}

/// The JSON form.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    cni_version: SpecVersion,
    code: ErrorCode,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl CniError {
    /// An error without details.
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// An error with its own text as the message and its sources as the details.
    pub fn caused(code: ErrorCode, error: &dyn Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self { code, msg: error.to_string(), details: causes.join(": ") }
    }

    /// Adds a line of details.
    #[must_use]
    pub fn with_details(mut self, more: &str) -> Self {
        if !self.details.is_empty() && !more.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(more);
        self
    }

    /// One error for all failed steps of a teardown; `None` if none failed.
    ///
    /// A single failure is returned unchanged; several keep their messages and get [`ErrorCode::TEARDOWN`].
    pub fn collect(errors: Vec<Self>) -> Option<Self> {
        let mut errors = errors.into_iter();
        let first = errors.next()?;
        let rest: Vec<Self> = errors.collect();
        if rest.is_empty() {
            return Some(first);
        }
        let all = || std::iter::once(&first).chain(&rest);
        let msg = all().map(|error| error.msg.as_str()).collect::<Vec<_>>().join("; ");
        let details = all()
            .map(|error| error.details.as_str())
            .filter(|details| !details.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        Some(Self { code: ErrorCode::TEARDOWN, msg, details })
    }

    /// Message and details on one line, for the details of another error.
    pub fn to_line(&self) -> String {
        if self.details.is_empty() {
            self.msg.clone()
        } else {
            format!("{}: {}", self.msg, self.details)
        }
    }

    /// The JSON document for standard output.
    ///
    /// # Errors
    /// Does not occur: all fields are numbers and text.
    pub fn to_json(&self, cni_version: SpecVersion) -> serde_json::Result<Vec<u8>> {
        let Self { code, msg, details } = self;
        serde_json::to_vec(&Json { cni_version, code: *code, msg, details })
    }
}

impl From<environment::Error> for CniError {
    fn from(error: environment::Error) -> Self {
        Self::caused(ErrorCode::INVALID_ENVIRONMENT, &error)
    }
}

impl From<config::Error> for CniError {
    fn from(error: config::Error) -> Self {
        Self::caused(error.code(), &error)
    }
}

impl From<result::Error> for CniError {
    fn from(error: result::Error) -> Self {
        Self::caused(ErrorCode::DECODE, &error)
    }
}

impl From<subnet_file::Error> for CniError {
    fn from(error: subnet_file::Error) -> Self {
        Self::caused(error.code(), &error)
    }
}

impl From<netns::Error> for CniError {
    fn from(error: netns::Error) -> Self {
        Self::caused(error.code(), &error)
    }
}

impl From<veth::Error> for CniError {
    fn from(error: veth::Error) -> Self {
        Self::caused(error.code(), &error)
    }
}

impl From<interface::Error> for CniError {
    fn from(error: interface::Error) -> Self {
        Self::caused(error.code(), &error)
    }
}

impl From<client::Error> for CniError {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Refused { code, message, details } => {
                Self { code, msg: message, details }
            }
            client::Error::Connect { .. }
            | client::Error::Socket { .. }
            | client::Error::Exchange { .. }
            | client::Error::Message { .. } => Self::caused(error.code(), &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_json_form_of_the_specification() {
        let error = CniError::new(ErrorCode::TRY_AGAIN_LATER, "no agent").with_details("refused");
        let json = String::from_utf8(error.to_json(SpecVersion::V0_4_0).unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"cniVersion":"0.4.0","code":11,"msg":"no agent","details":"refused"}"#
        );
    }

    #[test]
    fn a_teardown_reports_all_failures() {
        assert_eq!(CniError::collect(Vec::new()), None);
        let one = CniError::new(ErrorCode::KERNEL, "veth stays");
        assert_eq!(CniError::collect(vec![one.clone()]), Some(one.clone()));
        let two = CniError::new(ErrorCode::PLUGIN, "no ipam").with_details("a");
        let all = CniError::collect(vec![one, two]).unwrap();
        assert_eq!(
            (all.code, all.to_line().as_str()),
            (ErrorCode::TEARDOWN, "veth stays; no ipam: a")
        );
    }

    #[test]
    fn causes_become_details() {
        let error = std::io::Error::other(std::io::Error::other("deep"));
        let error = CniError::caused(ErrorCode::IO, &error);
        assert_eq!(error.msg, "deep");
    }
}
