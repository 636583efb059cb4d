//! What this node finds out itself, as diagnostics on objects: rules that exceed the capacity of its maps, and removed programs.

use netpol_policy::compile;
use netpol_policy::dataplane::port::Kernel;
use netpol_policy::model::{Code, Diagnostic, Kind, ObjectRef};

use super::state::Agent;

impl<K: Kernel> Agent<K> {
    /// The objects whose diagnostics [`Agent::sync`] has changed since the last call.
    pub fn take_found(&mut self) -> Vec<ObjectRef> {
        std::mem::take(&mut self.found)
    }

    /// Records the rules that exceed the capacity of the maps.
    pub(super) fn record_left_out(&mut self) {
        let left_out = self.compiled.left_out();
        if left_out == self.left_out {
            return;
        }
        self.left_out = left_out;
        self.report_of_node();
    }

    /// Reports all that this node finds out itself.
    pub(super) fn report_of_node(&mut self) {
        let mut diagnostics = compile::diagnostics(&self.left_out, self.compiled.capacities());
        diagnostics.extend(self.detached.findings().map(|object| self.detached_finding(object)));
        let changed = self.diagnostics.set_of_node(diagnostics);
        self.log_diagnostics(&changed);
        self.found.extend(changed);
    }

    /// The finding that others have removed programs from a pod's interface, or from an uplink of this node.
    fn detached_finding(&self, object: &ObjectRef) -> Diagnostic {
        let device = if object.kind == Kind::Pod { "the pod's interface" } else { "an uplink" };
        let node = self.adoption.node.as_deref().unwrap_or("(unnamed)");
        Diagnostic {
            code: Code::ProgramsDetached,
            object: object.clone(),
            field: String::new(),
            message: format!(
                "another program of node {node} has removed the programs that enforce policies from {device}; they are \
                 attached again, and connections that began meanwhile are judged again"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use netpol_proto::Response;

    use super::super::tests::{fixture, full_lists, pod, update};
    use super::*;
    use netpol_policy::compile::{Capacities, Compiled};
    use netpol_policy::model::ObjectName;
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
        let few = Capacities { n_prefixes: 4, ..Capacities::default() };
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
