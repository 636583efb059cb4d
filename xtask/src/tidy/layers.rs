//! Who may use whom: the arrows between netpol-agent's modules, the modules that own a library, and `unsafe`.

use super::{
    lexer::Token,
    source::{Finding, Severity, SourceFile},
};

/// The crate whose modules have arrows.
const AGENT: &str = "netpol-agent";

/// The core in the order of the data: each module may use those before it.
const CORE: [&str; 5] = ["model", "store", "resolve", "compile", "dataplane"];

/// What a module may use of its crate.
enum Arrows {
    /// The core modules to its left, for a module of the core itself.
    Left,
    /// The whole core and these.
    CoreAnd(&'static [&'static str]),
    /// Only these.
    Only(&'static [&'static str]),
    /// Everything.
    All,
}

/// The arrows of each module of netpol-agent. A module that is not here can't be used: it has to be
/// thought about first.
const ARROWS: [(&str, Arrows); 19] = [
    ("model", Arrows::Left),
    ("store", Arrows::Left),
    ("resolve", Arrows::Left),
    ("compile", Arrows::Left),
    ("dataplane", Arrows::Left),
    ("lint", Arrows::CoreAnd(&[])),
    ("simulate", Arrows::CoreAnd(&[])),
    ("source", Arrows::Only(&["model", "store"])),
    ("telemetry", Arrows::Only(&["model"])),
    ("kube", Arrows::Only(&["model", "store", "source", "telemetry"])),
    ("manifests", Arrows::Only(&["model", "store", "source", "telemetry"])),
    ("cni_server", Arrows::Only(&["model", "telemetry"])),
    ("conflist", Arrows::Only(&[])),
    ("control", Arrows::Only(&["telemetry"])),
    ("discovery", Arrows::Only(&["model", "netlink"])),
    ("netlink", Arrows::Only(&["telemetry"])),
    ("ebpf", Arrows::Only(&["compile", "dataplane", "netlink", "telemetry"])),
    ("agent", Arrows::All),
    ("cli", Arrows::All),
];

/// The libraries that only some modules of netpol-agent may use.
const OWNED: [(&str, &[&str]); 4] = [
    ("k8s_openapi", &["model::convert", "kube"]),
    ("aya", &["ebpf"]),
    ("aya_log", &["ebpf"]),
    ("aya_obj", &["ebpf"]),
];

/// Where `unsafe` may be written: a package, and the start of a path in it.
const UNSAFE: [(&str, &str); 3] =
    [("netpol-ebpf", "src/"), ("reference-ebpf", "src/"), ("netpol-agent", "src/ebpf/wire.rs")];

/// Checks that a module of netpol-agent uses only modules that its arrows lead to. Tests may use everything.
pub(super) fn arrows(file: &SourceFile<'_>) -> Vec<Finding> {
    let path = file.module_path();
    let (AGENT, Some(&module)) = (file.package, path.first()) else { return Vec::new() };
    let Some((_, arrows)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![file.finding(1, Severity::Error, format!(
            "the module {module} has no arrows: add it to the table of `tidy`, with the modules that it may use"
        ))];
    };
    let tokens = file.tokens_without_tests();
    let used = modules_used(&tokens, path.len());
    let forbidden = used.into_iter().filter(|token| !may_use(module, arrows, token.text));
    forbidden
        .map(|token| {
            let message = format!(
                "{module} may not use {}: the arrows point from right to left in {}",
                token.text,
                CORE.join(" <- ")
            );
            file.finding(token.line, Severity::Error, message)
        })
        .collect()
}

fn may_use(module: &str, arrows: &Arrows, other: &str) -> bool {
    let is_left = || CORE.iter().take_while(|name| **name != module).any(|name| *name == other);
    module == other
        || match arrows {
            Arrows::Left => is_left(),
            Arrows::CoreAnd(others) => CORE.contains(&other) || others.contains(&other),
            Arrows::Only(others) => others.contains(&other),
            Arrows::All => true,
        }
}

/// The modules of the crate's root that are named by paths which start with `crate`, or with as many
/// `super` as lead there from a module at this depth.
fn modules_used<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<Token<'a>> {
    let mut used = Vec::new();
    let mut rest = tokens;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let mut path = rest;
        let mut n_up = usize::from(first.text == "super");
        while let [colons, next, after @ ..] = path
            && (colons.text, next.text, n_up > 0) == ("::", "super", true)
        {
            n_up += 1;
            path = after;
        }
        let at_root = first.text == "crate" || (n_up > 0 && n_up == depth);
        if n_up > 0 {
            rest = path;
        }
        if let (true, [colons, names @ ..]) = (at_root, path)
            && colons.text == "::"
        {
            used.extend(first_names(names));
        }
    }
    used.retain(|token| ARROWS.iter().any(|(name, _)| *name == token.text));
    used
}

/// The first name of a path, or of each path in a group.
fn first_names<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let Some((first, group)) = tokens.split_first() else { return Vec::new() };
    if first.text != "{" {
        return vec![*first];
    }
    let (mut names, mut depth, mut at_start) = (Vec::new(), 1_usize, true);
    for token in group {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && at_start => names.push(*token),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        at_start = depth == 1 && token.text == ",";
    }
    names
}

/// Checks that a library with an owner is only used by its owner. Tests may use every library.
pub(super) fn owners(file: &SourceFile<'_>) -> Vec<Finding> {
    if file.package != AGENT || !file.path.starts_with("src/") {
        return Vec::new();
    }
    let module = file.module_path().join("::");
    let tokens = file.tokens_without_tests();
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let Some((library, owners)) = OWNED.iter().find(|(library, _)| *library == token.text)
        else {
            continue;
        };
        let previous =
            index.checked_sub(1).and_then(|index| tokens.get(index)).map(|token| token.text);
        let next = tokens.get(index + 1).map(|token| token.text);
        let is_library = previous != Some("::") && (next == Some("::") || previous == Some("use"));
        let is_owner = owners.iter().any(|owner| {
            module.strip_prefix(owner).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        if is_library && !is_owner {
            let message = format!(
                "the library {library} belongs to {} and is used nowhere else",
                owners.join(" and ")
            );
            findings.push(file.finding(token.line, Severity::Error, message));
        }
    }
    findings
}

/// Checks that `unsafe` is written only where it is allowed, tests included.
pub(super) fn no_unsafe(file: &SourceFile<'_>) -> Vec<Finding> {
    if UNSAFE.iter().any(|(package, path)| file.package == *package && file.path.starts_with(path))
    {
        return Vec::new();
    }
    let tokens = file.tokens();
    let found = tokens.iter().filter(|token| token.text == "unsafe");
    found
        .map(|token| {
            file.finding(
                token.line,
                Severity::Error,
                "`unsafe` is allowed only in netpol-ebpf and in netpol-agent/src/ebpf/wire.rs",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&SourceFile<'_>) -> Vec<Finding>, path: &str, text: &str, expected: &[&str]) {
        let findings = rule(&SourceFile { package: AGENT, path, text });
        assert_eq!(findings.len(), expected.len(), "{path}: {findings:?}");
        for (finding, part) in findings.iter().zip(expected) {
            assert!(finding.to_string().contains(part), "{finding}");
        }
    }

    #[test]
    fn the_core_uses_only_what_is_to_its_left() {
        check(
            arrows,
            "src/resolve/mod.rs",
            "use crate::{model::Policy, store::ClusterState};",
            &[],
        );
        check(
            arrows,
            "src/store/mod.rs",
            "use crate::resolve::isolation;",
            &["store may not use resolve"],
        );
        check(
            arrows,
            "src/model/ports.rs",
            "fn f() { crate::compile::g() }",
            &["model may not use compile"],
        );
    }

    #[test]
    fn each_path_of_a_group_is_seen() {
        let text = "use crate::{\n    model::{Policy, agent},\n    agent,\n    cli::args,\n};";
        check(
            arrows,
            "src/kube/mod.rs",
            text,
            &["mod.rs:3: kube may not use agent", "mod.rs:4: kube may not use cli"],
        );
    }

    #[test]
    fn a_module_may_use_itself() {
        check(arrows, "src/model/ports.rs", "use crate::model::names;", &[]);
    }

    #[test]
    fn super_does_not_lead_around_the_arrows() {
        check(arrows, "src/model/mod.rs", "use super::store::Delta;", &["model may not use store"]);
        check(
            arrows,
            "src/model/ports.rs",
            "use super::super::store::Delta;",
            &["model may not use store"],
        );
        check(arrows, "src/resolve/ports.rs", "use super::compile;", &[]);
    }

    #[test]
    fn documentation_and_tests_may_name_everything() {
        check(
            arrows,
            "src/model/mod.rs",
            "//! See [`crate::compile`].\n#[cfg(test)]\nmod tests { use crate::compile; }",
            &[],
        );
    }

    #[test]
    fn a_module_without_arrows_fails() {
        check(arrows, "src/cache/mod.rs", "", &["cache has no arrows"]);
        check(arrows, "src/main.rs", "use crate::agent;", &[]);
    }

    #[test]
    fn a_library_stays_with_its_owner() {
        check(owners, "src/model/convert/mod.rs", "use k8s_openapi::api;", &[]);
        check(owners, "src/kube/watch.rs", "use k8s_openapi::api;", &[]);
        check(
            owners,
            "src/model/converted.rs",
            "use k8s_openapi::api;",
            &["k8s_openapi belongs to model::convert"],
        );
        check(owners, "src/agent.rs", "use aya::Ebpf;", &["aya belongs to ebpf"]);
        check(owners, "src/ebpf/maps.rs", "use aya::Ebpf;", &[]);
        check(owners, "src/store/mod.rs", "fn f(aya: u8) -> u8 { aya }", &[]);
    }

    #[test]
    fn unsafe_is_found_outside_its_places() {
        check(no_unsafe, "src/ebpf/wire.rs", "unsafe impl X for Y {}", &[]);
        check(no_unsafe, "src/ebpf/maps.rs", "\nunsafe { f() }", &["maps.rs:2"]);
        check(no_unsafe, "src/lib.rs", "#![forbid(unsafe_code)] // unsafe", &[]);
        check(
            no_unsafe,
            "src/lib.rs",
            "#[cfg(test)]\nmod tests { unsafe fn f() {} }",
            &["`unsafe` is allowed only"],
        );
    }
}
