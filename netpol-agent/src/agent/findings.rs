//! Rules and Services that exceed the capacity of this node's maps, as diagnostics on these objects.

use netpol_policy::compile;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::ObjectRef;

use super::state::Agent;

impl<K: Kernel> Agent<K> {
    /// The objects whose diagnostics [`Agent::sync`] has changed since the last call.
    pub fn take_found(&mut self) -> Vec<ObjectRef> {
        std::mem::take(&mut self.found)
    }

    /// Records the rules and Services that exceed the capacity of the maps.
    pub(super) fn record_left_out(&mut self) {
        let left_out = self.compiled.left_out();
        let refused = self.compiled.refused();
        if left_out == self.left_out && *refused == self.refused {
            return;
        }
        let diagnostics = compile::diagnostics(&left_out, refused, self.compiled.capacities());
        self.refused.clone_from(refused);
        self.left_out = left_out;
        let changed = self.diagnostics.set_of_node(diagnostics);
        self.log_diagnostics(&changed);
        self.found.extend(changed);
    }
}

#[cfg(test)]
mod tests {
    use netpol_proto::Response;

    use super::super::tests::{fixture, full_lists, pod, update};
    use super::*;
    use netpol_policy::compile::{Capacities, Compiled, Shared};
    use netpol_policy::model::{Kind, ObjectName};
    use netpol_policy::source::SourceUpdate;
    use netpol_policy::store::Delta;

    /// A policy that isolates pod a, with one rule of `n_blocks` address blocks.
    fn policy_with_blocks(name: &str, n_blocks: usize) -> SourceUpdate {
        let blocks: Vec<_> =
            (0..n_blocks).map(|n| format!("{{ ipBlock: {{ cidr: 192.168.{n}.0/24 }} }}")).collect();
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: x }}\n\
             spec: {{ podSelector: {{}}, ingress: [{{ from: [{}] }}] }}\n",
            blocks.join(", ")
        );
        let manifests = netpol_policy::manifests::parse("test.yaml", &text);
        let objects = manifests.objects.into_iter();
        let deltas = objects.map(|sourced| Delta::Upsert(sourced.object)).collect();
        SourceUpdate { deltas, ..SourceUpdate::default() }
    }

    #[test]
    fn a_policy_over_capacity_is_reported_and_does_not_delay_others() {
        let mut fixture = fixture();
        let few = Capacities { n_prefixes: Shared::undivided(4), ..Capacities::default() };
        fixture.agent.compiled = Compiled::default().within(few);
        drop(fixture.agent.update(full_lists()));
        drop(fixture.agent.update(update(pod("a"))));
        drop(fixture.agent.update(policy_with_blocks("large", 4)));
        drop(fixture.agent.update(policy_with_blocks("small", 2)));
        assert_eq!(fixture.add().try_recv(), Ok(Response::Ok));
        let large = ObjectRef { kind: Kind::NetworkPolicy, name: ObjectName::new("x", "large") };
        assert_eq!(fixture.agent.take_found(), std::slice::from_ref(&large));
        assert_eq!(fixture.agent.take_found(), []);
        let status = fixture.agent.describe();
        assert!(status.is_in_force);
        let left_out: Vec<_> =
            status.policies.iter().map(|policy| policy.left_out.clone()).collect();
        assert_eq!(left_out, [vec!["ingress[0]".to_owned()], Vec::new()]);
        assert_eq!(status.diagnostics.len(), 1, "{:?}", status.diagnostics);
        assert_eq!(fixture.agent.kernel.maps.prefixes.len(), 2);

        drop(fixture.agent.update(policy_with_blocks("large", 3)));
        fixture.agent.sync();
        assert_eq!(fixture.agent.take_found(), [large]);
        assert_eq!(fixture.agent.describe().diagnostics, Vec::<String>::new());
        assert_eq!(fixture.agent.kernel.maps.prefixes.len(), 3);
    }
}
