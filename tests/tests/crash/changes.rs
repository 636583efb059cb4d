//! The agent dies during a change of policies that affects every map.

use anyhow::{Result, ensure};
use netpol_lab::node::strace::{Task, choose};
use netpol_lab::settings::{n_points, seed};

use super::N_POINTS;
use super::fixture::Fixture;

/// Isolates every pod in some direction, with blocks, ports, a Service, and labels. The streams stay allowed or denied as before.
const EXTRA: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web-out, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  policyTypes: [Ingress, Egress]
  ingress: [{ from: [{ ipBlock: { cidr: 203.0.113.0/24, except: [203.0.113.128/25] } }], ports: [{ port: 8080, endPort: 8090 }] }]
  egress: [{ to: [{ ipBlock: { cidr: 192.0.2.0/24 } }, { podSelector: { matchLabels: { role: visitor } } }] }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: clients, namespace: shop }
spec:
  podSelector: { matchExpressions: [{ key: role, operator: Exists }] }
  policyTypes: [Ingress, Egress]
  ingress: [{ from: [{ namespaceSelector: {} }] }]
  egress: [{ to: [{ podSelector: { matchLabels: { app: web } } }] }]
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7], selector: { app: web }, ports: [{ port: 80 }] }
";

#[test]
fn an_agent_that_dies_in_a_change_of_policy_leaks_nothing_and_is_followed_by_the_same_state()
-> Result<()> {
    let Some(mut fixture) = Fixture::begin("crash-change")? else { return Ok(()) };
    let without = fixture.clean_shape()?;
    let change = |fixture: &Fixture, is_on: bool| {
        let manifests = fixture.lab.manifests();
        if is_on { manifests.write("extra.yaml", EXTRA) } else { manifests.remove("extra.yaml") }
    };
    // First without a kill.
    let tracer = fixture.trace(&Task::Watch)?;
    change(&fixture, true)?;
    let n_changes = fixture.lab.status()?.n_changes;
    fixture.wait_for_death_or("the change", |lab| Ok(lab.status()?.n_changes > n_changes))?;
    let points = tracer.finish()?;
    let with = fixture.clean_shape()?;
    let (a, b) = (without.map_state(), with.map_state());
    ensure!(
        a.identities != b.identities
            && a.prefixes != b.prefixes
            && a.allow != b.allow
            && a.defer != b.defer
            && a.endpoints != b.endpoints,
        "the change does not affect every map"
    );
    let mut is_on = true;
    let update = usize::try_from(seed())?;
    for point in choose(&points, n_points(N_POINTS), update)? {
        is_on = !is_on;
        let expected = if is_on { &with } else { &without };
        let tracer = fixture.trace(&Task::Kill(point.clone()))?;
        change(&fixture, is_on)?;
        let has_died = fixture.wait_for_death_or("the change", |lab| {
            let n_isolated =
                lab.status()?.endpoints.iter().filter(|e| e.isolated.len() == 2).count();
            Ok((n_isolated > 0) == is_on && lab.status()?.is_in_force)
        })?;
        drop(tracer);
        fixture.note(usize::from(has_died));
        if has_died {
            fixture.recover(&point, expected)?;
        } else {
            fixture.converge(expected)?;
        }
    }
    fixture.end()
}
