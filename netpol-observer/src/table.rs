//! Answers as tables, for `kubectl get`.
//!
//! In: the items of a list. Out: a `Table` of `meta.k8s.io/v1`.

use serde_json::{Value, json};

/// Columns and rows of a list.
pub(crate) struct Table {
    pub(crate) columns: &'static [&'static str],
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// As the API server's clients read it.
    pub(crate) fn to_json(&self) -> Value {
        let columns: Vec<_> = self.columns.iter().map(|name| {
            json!({ "name": name, "type": "string", "format": "", "description": "", "priority": 0 })
        }).collect();
        let rows: Vec<_> =
            self.rows.iter().map(|cells| json!({ "cells": cells, "object": null })).collect();
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": {},
            "columnDefinitions": columns,
            "rows": rows,
        })
    }
}

/// How a client wants a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListForm {
    /// As objects.
    Objects,
    /// As a table, which `kubectl get` asks for.
    Table,
}

impl ListForm {
    /// By the header `Accept`.
    pub(crate) fn of(accept: &str) -> Self {
        let first = accept.split(',').next().unwrap_or_default();
        let is_table = first.split(';').any(|parameter| parameter.trim() == "as=Table");
        if is_table { Self::Table } else { Self::Objects }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_gets_a_table_and_others_do_not() {
        let of_kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(ListForm::of(of_kubectl), ListForm::Table);
        for accept in ["", "application/json", "application/json, application/json;as=Table"] {
            assert_eq!(ListForm::of(accept), ListForm::Objects, "{accept}");
        }
    }
}
