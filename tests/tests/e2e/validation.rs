//! Validation of policies by generator and agent, compared with a real server.

use netpol_lab::cluster::{Cluster, skip, status_of};
use netpol_lab::oracles::read;
use netpol_lab::{generator, settings};
use serde_json::json;

#[tokio::test]
async fn a_server_refuses_just_the_policies_with_a_diagnostic_and_stores_the_others_as_we_think() {
    let cluster = Cluster::open().await.unwrap();
    let Some(namespace) = cluster.agent_namespace() else {
        skip("only a real server refuses policies");
        return;
    };
    let (mut n_taken, mut n_refused) = (0, 0);
    let mut surprises = Vec::new();
    for case in generator::cases(settings::seed()).take(settings::n_cases(150)) {
        for policy in case.objects.iter().filter(|object| object["kind"] == "NetworkPolicy") {
            let mut policy = policy.clone();
            policy["metadata"]["namespace"] = json!(namespace);
            let (_, diagnostics) = read(std::slice::from_ref(&policy));
            match (cluster.try_create(&policy).await, diagnostics.is_empty()) {
                (Ok(stored), true) => {
                    n_taken += 1;
                    let expected = generator::stored(&policy);
                    if stored["spec"] != expected["spec"] {
                        surprises.push(format!("{policy} is stored as {}", stored["spec"]));
                    }
                }
                (Err(error), false) => {
                    n_refused += 1;
                    assert!(matches!(status_of(&error), Some(400 | 422)), "{error:#}");
                }
                (Ok(_), false) => surprises.push(format!("{policy} is taken: {diagnostics:?}")),
                (Err(error), true) => surprises.push(format!("{policy} is refused: {error:#}")),
            }
        }
    }
    assert!(n_taken > 0 && n_refused > 0, "{n_taken} taken, {n_refused} refused");
    let first: Vec<&String> = surprises.iter().take(8).collect();
    let n_surprises = surprises.len();
    assert!(surprises.is_empty(), "{n_surprises} of {n_taken} + {n_refused}: {first:#?}");
}
