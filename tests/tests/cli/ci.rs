//! What editors, code hosts and CI read: schemas, SARIF, hooks, manual pages; and the changes of `lint --fix`.

use expect_test::expect;
use netpol_lab::repository;
use serde_json::{Value, json};

use crate::{SHOP, output, output_in};

/// Policies with every finding that a change can remove.
const MENDABLE: &str = "# kept: ü
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { generateName: web-, namespace: shop }
spec:
    podSelector: { matchLabels: { app: web } } # kept

    egress:
    - to:
      - ipBlock: { cidr: 10.1.2.3/8, except: [ \"010.2.0.0/16\" ] }
      - ipBlock:
          cidr: '192.168.1.1/24'  # office
---
{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \"metadata\": {\"name\": \"json\"},
 \"spec\": {\"podSelector\": {},
  \"egress\": [{\"to\": [{\"ipBlock\": {\"cidr\": \"fd00:0::1/64\"}}]}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: split, namespace: shop }
spec:
  podSelector: {}
  ingress:
  - from:
    - namespaceSelector:
        matchLabels: { team: a }
    # kept
    - podSelector:
        matchLabels: { app: front }
";

/// The file after the changes, each of which is one that its finding asks for.
fn mended() -> String {
    MENDABLE
        .replace("    egress:\n", "    policyTypes: [Ingress, Egress]\n    egress:\n")
        .replace("10.1.2.3/8", "10.0.0.0/8")
        .replace("010.2.0.0/16", "10.2.0.0/16")
        .replace("192.168.1.1/24", "192.168.1.0/24")
        .replace("  \"egress\"", "  \"policyTypes\": [\"Ingress\", \"Egress\"],\n  \"egress\"")
        .replace("fd00:0::1/64", "fd00::/64")
}

#[test]
fn lint_fix_shows_a_diff_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, MENDABLE).unwrap();
    let shown = output_in(directory.path(), "netpol lint -f DIR/a.yaml --fix", "");
    expect![[r#"
        exit code 1
        --- a/DIR/a.yaml
        +++ b/DIR/a.yaml
        @@ -5,15 +5,17 @@
         spec:
             podSelector: { matchLabels: { app: web } } # kept
 
        +    policyTypes: [Ingress, Egress]
             egress:
             - to:
        -      - ipBlock: { cidr: 10.1.2.3/8, except: [ "010.2.0.0/16" ] }
        +      - ipBlock: { cidr: 10.0.0.0/8, except: [ "10.2.0.0/16" ] }
               - ipBlock:
        -          cidr: '192.168.1.1/24'  # office
        +          cidr: '192.168.1.0/24'  # office
         ---
         {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "json"},
          "spec": {"podSelector": {},
        -  "egress": [{"to": [{"ipBlock": {"cidr": "fd00:0::1/64"}}]}]}}
        +  "policyTypes": ["Ingress", "Egress"],
        +  "egress": [{"to": [{"ipBlock": {"cidr": "fd00::/64"}}]}]}}
         ---
         apiVersion: networking.k8s.io/v1
         kind: NetworkPolicy
        # A suggestion that is not written, because it changes what the policy allows:
        --- a/DIR/a.yaml
        +++ b/DIR/a.yaml
        @@ -25,5 +25,5 @@
             - namespaceSelector:
                 matchLabels: { team: a }
             # kept
        -    - podSelector:
        +      podSelector:
                 matchLabels: { app: front }
    "#]]
    // Without the space of a blank line.
    .assert_eq(&shown.replace("\n \n", "\n\n"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), MENDABLE);
}

#[test]
fn lint_fix_write_changes_nothing_but_what_is_found() {
    for (before, after) in [
        (MENDABLE.to_owned(), mended()),
        (MENDABLE.replace('\n', "\r\n"), mended().replace('\n', "\r\n")),
        (format!("\u{feff}{MENDABLE}"), format!("\u{feff}{}", mended())),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.yaml");
        std::fs::write(&file, &before).unwrap();
        let written = output_in(directory.path(), "netpol lint -f DIR/a.yaml --fix --write", "");
        assert!(written.starts_with("exit code 0\nDIR/a.yaml: 6 changes written\n"), "{written}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), after);
        let again = output_in(directory.path(), "netpol lint -f DIR/a.yaml -o short", "");
        for code in ["unusual-block", "NP011"] {
            assert!(!again.contains(code), "{again}");
        }
    }
}

#[test]
fn lint_fix_of_the_standard_input_is_a_diff() {
    let shown = output("netpol lint -f - --fix --write", MENDABLE);
    assert!(shown.contains("\n+    policyTypes: [Ingress, Egress]\n"), "{shown}");
    assert_eq!(
        output(
            "netpol lint -f - --fix",
            &mended().replace("    - podSelector", "      podSelector")
        ),
        "exit code 0\n"
    );
}

#[test]
fn findings_mark_lines_on_code_hosts() {
    let text = "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: { name: a }\nspec: { podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.1/8 } }] }] }\n";
    let marked = output("netpol lint -f - -o github", text);
    expect![[r#"
        exit code 1
        ::error file=-,line=4,col=58,title=unusual-block::NetworkPolicy default/a: spec.ingress[0].from[0].ipBlock.cidr "10.0.0.1/8" has host bits: it is read as 10.0.0.0/8, and refused by an API server of 1.36 or later
    "#]]
    .assert_eq(&marked);
}

#[expect(clippy::panic, reason = "fails the test")]
fn unknown(part: &str) -> bool {
    panic!("{part} of a schema is not checked")
}

/// Checks a value against the part of JSON Schema that the schemas use. Another keyword is an error, so that none is without effect.
fn violations(schema: &Value, value: &Value, root: &Value, path: &str, found: &mut Vec<String>) {
    let is_of_type = |name: &Value| match name.as_str().unwrap() {
        "array" => value.is_array(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "null" => value.is_null(),
        other => unknown(other),
    };
    for (keyword, rule) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "type" => {
                rule.as_array().map_or_else(|| is_of_type(rule), |of| of.iter().any(is_of_type))
            }
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "minimum" => value.as_u64() >= rule.as_u64(),
            "maximum" => value.as_u64() <= rule.as_u64(),
            "minItems" => {
                value.as_array().is_none_or(|of| of.len() as u64 >= rule.as_u64().unwrap())
            }
            "required" => {
                let names = rule.as_array().unwrap().iter();
                value.is_null()
                    || names.into_iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "additionalProperties" => {
                let known = schema["properties"].as_object().unwrap();
                let mut names = value.as_object().into_iter().flat_map(|fields| fields.keys());
                names.all(|name| known.contains_key(name))
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    if let Some(field) = value.get(name) {
                        violations(rule, field, root, &format!("{path}.{name}"), found);
                    }
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    violations(rule, item, root, &format!("{path}[{index}]"), found);
                }
                true
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|rule| {
                let mut of_this = Vec::new();
                violations(rule, value, root, path, &mut of_this);
                of_this.is_empty()
            }),
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                violations(root.pointer(pointer).unwrap(), value, root, path, found);
                true
            }
            "$schema" | "title" | "description" | "$defs" => true,
            other => unknown(other),
        };
        if !holds {
            found.push(format!("{path}: {keyword} {rule}: {value}"));
        }
    }
}

/// The output of a command as JSON, which must be as the schema says.
#[track_caller]
fn valid(schema: &Value, command: &str) -> Value {
    let text = output(command, SHOP);
    let (_, text) = text.split_once('\n').unwrap();
    let text: String = text.lines().take_while(|line| !line.starts_with("! ")).collect();
    let value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    violations(schema, &value, schema, "", &mut found);
    assert!(found.is_empty(), "{command}: {}", found.join("\n"));
    value
}

/// Whether a value is as a schema of the documentation says.
#[track_caller]
pub(crate) fn assert_valid(name: &str, value: &Value) {
    let (schema, mut found) = (schema(name), Vec::new());
    violations(&schema, value, &schema, "", &mut found);
    assert!(found.is_empty(), "{name}: {}", found.join("\n"));
}

/// A schema of the documentation.
#[track_caller]
pub(crate) fn schema(name: &str) -> Value {
    let path = repository::path(format!("docs/schemas/{name}"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_outputs_are_as_their_schemas_say() {
    for (name, commands) in [
        (
            "lint.json",
            &["netpol lint -f DIR -o json", "netpol lint -f - --complete -o json"] as &[&str],
        ),
        (
            "explain.json",
            &[
                "netpol explain -f - --from shop/web --to shop/db --port 5432 -o json",
                "netpol explain -f - --from ops/probe --to svc/db --port 80 -o json",
                "netpol explain -f - --from external --to shop/db --port 5433 -o json",
                "netpol explain -f - --from shop/web --to shop/none --port 1 -o json",
            ],
        ),
        (
            "simulate.json",
            &["netpol simulate -f - -o json", "netpol simulate -f - --port 81 -o json"],
        ),
        (
            "changes.json",
            &["netpol diff DIR/shop.yaml DIR/repaired.yaml -o json", "netpol diff - - -o json"],
        ),
    ] {
        let schema = schema(name);
        for command in commands {
            valid(&schema, command);
        }
    }
    let broken = json!([{ "code": 1, "level": "fatal", "message": "", "more": 0 }]);
    let (schema, mut found) = (schema("lint.json"), Vec::new());
    violations(&schema, &broken, &schema, "", &mut found);
    assert_eq!(found.len(), 3, "{found:?}");
}

/// The required parts of SARIF 2.1.0 that the output has, and what code hosts require.
fn sarif_schema() -> Value {
    let text = json!({ "type": "object", "required": ["text"], "properties": { "text": { "type": "string" } } });
    let level = json!({ "enum": ["none", "note", "warning", "error"] });
    let rule = json!({
        "type": "object",
        "required": ["id", "shortDescription", "fullDescription", "help", "helpUri", "defaultConfiguration"],
        "properties": {
            "id": { "type": "string" },
            "name": { "type": "string" },
            "shortDescription": text,
            "fullDescription": text,
            "help": { "type": "object", "required": ["text", "markdown"] },
            "helpUri": { "type": "string" },
            "defaultConfiguration": { "type": "object", "properties": { "level": level } },
        },
    });
    let region = json!({
        "type": "object",
        "required": ["startLine"],
        "properties": { "startLine": { "minimum": 1 }, "startColumn": { "minimum": 1 } },
    });
    let physical = json!({
        "type": "object",
        "required": ["artifactLocation"],
        "properties": {
            "artifactLocation": { "type": "object", "required": ["uri"], "properties": { "uri": { "type": "string" } } },
            "region": region,
        },
    });
    let result = json!({
        "type": "object",
        "required": ["ruleId", "ruleIndex", "level", "message", "locations"],
        "properties": {
            "ruleIndex": { "type": "integer" },
            "level": level,
            "message": text,
            "locations": {
                "type": "array",
                "minItems": 1,
                "items": { "type": "object", "properties": { "physicalLocation": physical } },
            },
        },
    });
    let driver = json!({
        "type": "object",
        "required": ["name", "rules"],
        "properties": { "name": { "type": "string" }, "rules": { "type": "array", "items": rule } },
    });
    json!({
        "type": "object",
        "required": ["$schema", "version", "runs"],
        "properties": {
            "version": { "const": "2.1.0" },
            "runs": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["tool", "results"],
                    "properties": {
                        "columnKind": { "enum": ["utf16CodeUnits", "unicodeCodePoints"] },
                        "tool": { "type": "object", "required": ["driver"], "properties": { "driver": driver } },
                        "results": { "type": "array", "items": result },
                    },
                },
            },
        },
    })
}

#[test]
fn sarif_has_what_the_standard_and_code_hosts_require() {
    for command in ["netpol lint -f DIR --complete -o sarif", "netpol lint -f - -o sarif"] {
        let log = valid(&sarif_schema(), command);
        let run = &log["runs"][0];
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        let results = run["results"].as_array().unwrap();
        assert!(!results.is_empty());
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[index]["id"], result["ruleId"]);
        }
        for rule in rules {
            assert!(rule["helpUri"].as_str().unwrap().starts_with("https://"));
        }
    }
}

#[test]
fn the_arguments_of_the_hooks_are_known() {
    let text = std::fs::read_to_string(repository::path(".pre-commit-hooks.yaml")).unwrap();
    let hooks: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(hooks.len(), 2);
    for hook in &hooks {
        let entry = hook["entry"].as_str().unwrap();
        let args: Vec<&str> =
            hook["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        let files =
            if hook["pass_filenames"] == false { "" } else { "DIR/repaired.yaml DIR/shop.yaml" };
        let args = args.join(" ").replace("test .", "test DIR");
        let args = if args == "." { "DIR".to_owned() } else { args };
        let found = output(&format!("{entry} {args} {files}"), "");
        assert!(!found.contains("Usage"), "{found}");
        let expected = if entry == "netpol lint" { "exit code 1\n" } else { "exit code 2\n" };
        assert!(found.starts_with(expected), "{found}");
    }
}

/// The hook once named an ending of files that `netpol test` does not look for.
#[test]
fn the_hook_for_tests_finds_them_by_their_content() {
    let text = std::fs::read_to_string(repository::path(".pre-commit-hooks.yaml")).unwrap();
    let hooks: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
    let hook = hooks.iter().find(|hook| hook["id"] == "netpol-test").unwrap();
    let documentation = std::fs::read_to_string(repository::path("docs/test.md")).unwrap();
    for text in [hook["description"].as_str().unwrap(), &documentation] {
        assert!(text.contains("apiVersion") && !text.contains(".netpol.yaml"), "{text}");
    }
    let directory = tempfile::tempdir().unwrap();
    for name in ["workloads.yaml", "policies.yaml"] {
        let path = repository::path("deploy/tested").join(name);
        std::fs::copy(path, directory.path().join(name)).unwrap();
    }
    let head = "apiVersion: netpol.dev/v1\nkind: PolicyTest\nnamespace: shop\nexpect:\n";
    for (name, expectation, expected) in [
        ("a.yaml", "- dump -> external: deny", "exit code 0\n"),
        ("b.yml", "- dump -> external: allow", "exit code 1\n"),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("{head}{expectation}\n")).unwrap();
        let found =
            output_in(directory.path(), &format!("{} DIR", hook["entry"].as_str().unwrap()), "");
        assert!(found.starts_with(expected), "{found}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn every_command_has_a_manual_page_and_an_example() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(output_in(directory.path(), "netpol man DIR", ""), "exit code 0\n");
    for command in ["explain", "lint", "simulate", "diff", "test", "flannel", "completions", "man"]
    {
        let page = directory.path().join(format!("netpol-{command}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
        let help = output(&format!("netpol {command} --help"), "");
        assert!(
            help.contains("\nExamples:\n  ") && help.contains("  netpol ")
                || help.contains("| netpol "),
            "{help}"
        );
    }
    assert!(directory.path().join("netpol.1").exists());
}
