//! The admission policies in `deploy`, evaluated by an interpreter of their language (CEL): what an agent may change, and what it may
//! not although its role permits it.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use cel::{Context, Program};
use netpol_lab::deployment::{at, folder, items, objects, of_kind};
use serde_json::{Value, json};

const AGENT: &str = "system:serviceaccount:netpol-system:netpol-agent";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A request to change an object.
struct Update {
    user: Value,
    old: Value,
    new: Value,
}

/// The messages of the rules that refuse the request, as the API server finds them.
fn refusals(policy: &Value, update: &Update) -> Result<Vec<String>> {
    let mut context = Context::default();
    let add = |context: &mut Context<'_, '_>, name: &str, value: &Value| -> Result<()> {
        context
            .add_variable(name.to_owned(), value)
            .map_err(|error| anyhow::anyhow!("{name}: {error}"))
    };
    add(&mut context, "request", &json!({ "userInfo": update.user }))?;
    add(&mut context, "object", &update.new)?;
    add(&mut context, "oldObject", &update.old)?;
    let evaluate = |context: &Context<'_, '_>, item: &Value| -> Result<cel::Value> {
        let text = at(item, "/expression").as_str().context("no expression")?;
        let program = Program::compile(text).map_err(|error| anyhow::anyhow!("{text}: {error}"))?;
        program.execute(context).map_err(|error| anyhow::anyhow!("{text}: {error}"))
    };
    for condition in items(at(policy, "/spec/matchConditions")) {
        if evaluate(&context, condition)? != cel::Value::Bool(true) {
            return Ok(Vec::new());
        }
    }
    let mut variables = serde_json::Map::new();
    for variable in items(at(policy, "/spec/variables")) {
        let name = at(variable, "/name").as_str().context("no name")?;
        let value = evaluate(&context, variable)?;
        let value = value.json().map_err(|error| anyhow::anyhow!("{name}: {error:?}"))?;
        variables.insert(name.to_owned(), value);
        add(&mut context, "variables", &Value::Object(variables.clone()))?;
    }
    let mut refusals = Vec::new();
    for validation in items(at(policy, "/spec/validations")) {
        if evaluate(&context, validation)? != cel::Value::Bool(true) {
            refusals.push(at(validation, "/message").as_str().context("no message")?.to_owned());
        }
    }
    Ok(refusals)
}

fn agent_of(node: &str) -> Value {
    json!({ "username": AGENT, "extra": { NODE_NAME: [node] } })
}

fn node(name: &str, taints: &[&str]) -> Value {
    let taints: Vec<_> =
        taints.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
    json!({
        "metadata": { "name": name, "labels": { "zone": "a" }, "resourceVersion": "1" },
        "spec": { "podCIDRs": ["10.244.1.0/24"], "taints": taints },
    })
}

#[test]
fn an_agent_removes_the_start_up_taint_of_its_own_node_and_changes_nothing_else() -> Result<()> {
    let file = folder().join("components/startup-taint/policy.yaml");
    let found = objects(&std::fs::read_to_string(file)?)?;
    let policy = of_kind(&found, "ValidatingAdmissionPolicy")?;
    let binding = of_kind(&found, "ValidatingAdmissionPolicyBinding")?;
    ensure!(at(binding, "/spec/policyName") == at(policy, "/metadata/name"));
    ensure!(*at(binding, "/spec/validationActions") == json!(["Deny"]));
    ensure!(at(policy, "/spec/failurePolicy") == "Fail");

    let taint = "netpol.dev/agent-not-ready";
    let old = node("node-1", &["other", taint]);
    let check = |user: Value, change: &dyn Fn(&mut Value), expected: &[&str]| -> Result<()> {
        let mut new = node("node-1", &["other"]);
        change(&mut new);
        let found = refusals(policy, &Update { user, old: old.clone(), new: new.clone() })?;
        ensure!(found == expected, "{new}: {found:?} instead of {expected:?}");
        Ok(())
    };
    let nothing = |_: &mut Value| {};
    let own = "an agent changes its own Node only";
    check(agent_of("node-1"), &nothing, &[])?;
    check(agent_of("node-2"), &nothing, &[own])?;
    check(json!({ "username": AGENT }), &nothing, &[own])?;
    check(json!({ "username": "system:node:node-2" }), &nothing, &[])?;
    let taints = "an agent removes the taint netpol.dev/agent-not-ready and no other";
    check(agent_of("node-1"), &|new| new["spec"]["taints"] = json!([]), &[taints])?;
    check(agent_of("node-1"), &|new| *new = node("node-1", &["other", "more"]), &[taints])?;
    check(agent_of("node-1"), &|new| *new = old.clone(), &[taints])?;
    check(
        agent_of("node-1"),
        &|new| new["metadata"]["labels"]["zone"] = json!("b"),
        &["an agent changes no label"],
    )?;
    check(
        agent_of("node-1"),
        &|new| new["metadata"]["annotations"] = json!({ "a": "b" }),
        &["an agent changes no annotation"],
    )?;
    check(
        agent_of("node-1"),
        &|new| new["metadata"]["finalizers"] = json!(["a"]),
        &["an agent changes no owner and no finalizer"],
    )?;
    let rest = "an agent changes nothing of the node but its taint";
    check(agent_of("node-1"), &|new| new["spec"]["unschedulable"] = json!(true), &[rest])?;
    check(agent_of("node-1"), &|new| new["spec"]["podCIDRs"] = json!(["10.0.0.0/8"]), &[rest])
}

#[test]
fn an_agent_writes_the_object_of_its_own_node_and_nothing_else_into_it() -> Result<()> {
    let found = objects(&std::fs::read_to_string(folder().join("base/addresses.yaml"))?)?;
    let policy = of_kind(&found, "ValidatingAdmissionPolicy")?;
    let binding = of_kind(&found, "ValidatingAdmissionPolicyBinding")?;
    ensure!(at(binding, "/spec/policyName") == at(policy, "/metadata/name"));
    ensure!(*at(binding, "/spec/validationActions") == json!(["Deny"]));
    ensure!(at(policy, "/spec/failurePolicy") == "Fail");
    let rule = at(policy, "/spec/matchConstraints/resourceRules/0");
    ensure!(*at(rule, "/operations") == json!(["CREATE", "UPDATE"]), "{rule}");

    let check = |user: Value, change: &dyn Fn(&mut Value), expected: &[&str]| -> Result<()> {
        let mut new = json!({
            "metadata": { "name": "node-1", "namespace": "netpol-system" },
            "data": { "addresses": "u shop/web 10.244.1.7\n" },
        });
        change(&mut new);
        let update = Update { user, old: Value::Null, new: new.clone() };
        let found = refusals(policy, &update)?;
        ensure!(found == expected, "{new}: {found:?} instead of {expected:?}");
        Ok(())
    };
    let nothing = |_: &mut Value| {};
    let own = "an agent writes the object of its own node only";
    check(agent_of("node-1"), &nothing, &[])?;
    check(agent_of("node-1"), &|new| new["data"] = json!({}), &[])?;
    check(agent_of("node-2"), &nothing, &[own])?;
    check(json!({ "username": AGENT }), &nothing, &[own])?;
    check(json!({ "username": AGENT, "extra": { NODE_NAME: ["node-1", "x"] } }), &nothing, &[own])?;
    check(json!({ "username": "system:serviceaccount:kube-system:other" }), &nothing, &[])?;
    check(agent_of("node-1"), &|new| new["metadata"]["name"] = json!("kube-root-ca.crt"), &[own])?;
    let content = "the object of a node has addresses only, of at most 256 KiB";
    check(agent_of("node-1"), &|new| new["data"]["ca.crt"] = json!(""), &[content])?;
    check(agent_of("node-1"), &|new| new["binaryData"] = json!({ "a": "" }), &[content])?;
    let long = "x".repeat(262_145);
    check(agent_of("node-1"), &|new| new["data"]["addresses"] = json!(long), &[content])?;
    check(
        agent_of("node-1"),
        &|new| new["metadata"]["finalizers"] = json!(["a"]),
        &["the object of a node goes with its Node"],
    )
}
