//! The guide to drop reasons for users. A test writes `docs/drops.md` from it.

use super::DropReason;
use crate::ids::Direction;

impl DropReason {
    /// Directions in which packets drop for this reason, for the pod.
    pub const fn directions(self) -> &'static [Direction] {
        match self {
            Self::NotAllowed
            | Self::Denied
            | Self::Revoked
            | Self::Blocked
            | Self::UnknownEndpoint
            | Self::Truncated
            | Self::BadHeader
            | Self::ExtensionHeaders
            | Self::FragmentWithoutFirst
            | Self::TinyFragment
            | Self::NotIp => &Direction::ALL,
            Self::OtherMac | Self::Impersonated => &[Direction::Ingress],
            Self::Spoofed | Self::UnknownEgressMark | Self::Tunnel => &[Direction::Egress],
        }
    }

    /// Advice for a user.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NotAllowed => {
                "If the traffic is wanted, add a rule for this peer and port. `netpol-agent explain` names the policies that isolate the pod."
            }
            Self::Denied => "Change the rule; `netpol-agent explain` names it.",
            Self::Revoked => {
                "If the change was meant, nothing: the peers have to connect again. To a Service whose backend is not allowed, add a rule for the backend. Connections outlive changes of a policy with the annotation `netpol/existing-connections: keep`."
            }
            Self::Blocked => {
                "Wait: this ends when the agent has answered the CNI plugin. If it does not end, `netpol-agent status` and the agent's log show what the agent waits for."
            }
            Self::UnknownEndpoint => {
                "While a pod is being deleted, nothing. Otherwise restart the agent on that node: it searches for the pods that run."
            }
            Self::Spoofed => {
                "Look at what the pod sends, and from which IP and MAC address: its MAC address is the one that its interface had when it started. A pod that forwards packets of others needs the annotation `netpol/allow-forwarding: \"true\"`, and so does its namespace."
            }
            Self::OtherMac => {
                "Nothing: the frame was for another device. If the pod gets no frames at all, its MAC address was changed after it had started: start the pod again."
            }
            Self::Impersonated => {
                "Find the host outside that sends with the address of a pod: `netpol-agent drops` shows the address and the device. A router that sends a pod's packets back to the pod's node causes this too."
            }
            Self::Tunnel => {
                "Find out why the pod sends tunnelled packets to a node. If pods of this cluster must, `--pod-tunnels allow` lets all of them; `netpol-agent status` shows the ports."
            }
            Self::Truncated | Self::BadHeader => {
                "Find the sender with `netpol-agent drops`: no common network stack sends such packets."
            }
            Self::ExtensionHeaders => {
                "Find the sender with `netpol-agent drops`: common protocols need only a few of these headers."
            }
            Self::FragmentWithoutFirst => {
                "Avoid fragments: lower the MTU or the size of datagrams. Fragments that overtake the first one always drop, because only the first one has the ports."
            }
            Self::TinyFragment => {
                "Find the sender with `netpol-agent drops`: only attacks on packet filters send such fragments."
            }
            Self::NotIp => {
                "Policies cannot allow such frames, and a pod never sends them: use IP without VLAN tags. A pod receives them if no policy isolates it for ingress."
            }
            Self::UnknownEgressMark => {
                "If the sender was just deleted, nothing. Otherwise check whether more than 4095 pods of the node are isolated, and whether another program overwrites the packet mark (`--mark-mask` chooses other bits)."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::string::String;
    use std::vec::Vec;

    use expect_test::expect_file;

    use crate::reason::{DropReason, PassReason};

    #[test]
    fn the_documentation_lists_every_drop_reason() {
        let mut page = String::from(
            "# Why packets drop\n\n\
             Every drop has one of the reasons below. `netpol-agent drops -f` prints the reason of each dropped packet with the\n\
             pod and the policies that isolate it; `netpol_drops_total{direction,reason}` and `netpol_drop_bytes_total` count\n\
             them ([metrics](metrics.md)). Directions are those of the pod: `ingress` is what the pod receives, `egress`\n\
             what it sends.\n\n\
             A test keeps this file equal to what the program knows; `UPDATE_EXPECT=1` writes it anew.\n",
        );
        let mut table = |title: &str, intro: &str, is_policy: bool| {
            write!(page, "\n## {title}\n\n{intro}\n\n").unwrap();
            page.push_str("| reason | directions | meaning | what to do |\n|---|---|---|---|\n");
            for reason in DropReason::ALL.iter().filter(|reason| reason.is_policy() == is_policy) {
                let directions: Vec<_> = reason.directions().iter().map(|d| d.as_str()).collect();
                let (meaning, advice) = (reason.meaning(), reason.advice());
                let directions = directions.join(", ");
                writeln!(page, "| `{reason}` | {directions} | {meaning} | {advice} |").unwrap();
            }
        };
        table(
            "By policy",
            "A policy decides. In audit mode (`netpol/mode: audit`) `not-allowed` packets pass and count as `audited`.",
            true,
        );
        table(
            "Whatever policies say",
            "The packet itself or the state of the pod decides. A frame to the pod that cannot be parsed drops only if a policy\n\
             isolates the pod and is not in audit mode; such a frame from the pod always drops, because its sender cannot be told.",
            false,
        );
        page.push_str(
            "\n## Other names in the same places\n\n\
             | name | meaning |\n|---|---|\n",
        );
        for reason in PassReason::ALL.iter().filter(|reason| reason.is_reported()) {
            writeln!(page, "| `{reason}` | {} |", reason.meaning()).unwrap();
        }
        page.push_str(
            "| `unknown` | Another version of netpol counted the packet for a reason that this one does not know. |\n",
        );
        expect_file!["../../../docs/drops.md"].assert_eq(&page);
    }
}
