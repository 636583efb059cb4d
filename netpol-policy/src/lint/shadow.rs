//! Finds rules and peers that others include, without comparing each with each.
//!
//! In: the rules of one direction of a policy. Out: for a rule or peer, the first other one that includes it. Must not: decide
//! what includes what; that is [`super::cover`].

use super::cover;
use super::cover_index::{Candidates, PeerIndex, PortIndex, first, n_candidates};
use crate::model::{Peer, Peers, PortMatch, Ports, Rule};

/// The peers of a rule that another peer of it includes, each with the position of the first such peer. Of two equivalent
/// peers, only the later one is included.
pub(super) fn peers(peers: &[Peer]) -> Vec<(usize, usize)> {
    let index = PeerIndex::new(peers.iter().map(Some).enumerate());
    let mut found = Vec::new();
    for (position, peer) in peers.iter().enumerate() {
        let includes = |other: usize| {
            other != position
                && peers.get(other).is_some_and(|wide| {
                    cover::peer(wide, peer) && (other < position || !cover::peer(peer, wide))
                })
        };
        let other = first(&index.candidates(Some(peer)), includes);
        found.extend(other.map(|other| (position, other)));
    }
    found
}

/// The rules that another rule includes, each with the position of the first such rule. Of two equivalent rules, only the later
/// one is included. A rule without a peer or without a port is not compared.
pub(super) fn rules(rules: &[Rule]) -> Vec<(usize, usize)> {
    if rules.len() < 2 {
        return Vec::new();
    }
    let by_peer = PeerIndex::new(rules.iter().enumerate().flat_map(each_peer));
    let by_port = PortIndex::new(rules.iter().enumerate().flat_map(each_port));
    let mut found = Vec::new();
    for (position, rule) in rules.iter().enumerate() {
        let Some(candidates) = candidates(&by_peer, &by_port, rule) else { continue };
        let includes = |other: usize| {
            other != position
                && rules.get(other).is_some_and(|wide| {
                    cover::rule(wide, rule) && (other < position || !cover::rule(rule, wide))
                })
        };
        found.extend(first(&candidates, includes).map(|other| (position, other)));
    }
    found
}

/// The rules that may include a rule: they include its first peer and its first port.
fn candidates<'i>(
    by_peer: &'i PeerIndex<'_>,
    by_port: &'i PortIndex<'_>,
    rule: &'i Rule,
) -> Option<Candidates<'i>> {
    let (_, peer) = each_peer((0, rule)).next()?;
    let (_, port) = each_port((0, rule)).next()?;
    let found = [by_peer.candidates(peer), by_port.candidates(port)];
    found.into_iter().min_by_key(n_candidates)
}

/// A rule's position with each of its peers; `None` stands for every peer.
fn each_peer(
    (position, rule): (usize, &Rule),
) -> impl Iterator<Item = (usize, Option<&Peer>)> + Clone {
    let (every, peers) = match &rule.peers {
        Peers::All => (Some(None), [].as_slice()),
        Peers::AnyOf(peers) => (None, peers.as_slice()),
    };
    every.into_iter().chain(peers.iter().map(Some)).map(move |peer| (position, peer))
}

/// A rule's position with each of its ports; `None` stands for every port.
fn each_port(
    (position, rule): (usize, &Rule),
) -> impl Iterator<Item = (usize, Option<&PortMatch>)> {
    let (every, ports) = match &rule.ports {
        Ports::All => (Some(None), [].as_slice()),
        Ports::AnyOf(ports) => (None, ports.as_slice()),
    };
    every.into_iter().chain(ports.iter().map(Some)).map(move |port| (position, port))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::super::tests::state;
    use super::*;
    use crate::model::ObjectName;

    /// The ingress rules of a policy, each written as JSON.
    fn parsed(rules: &[String]) -> Vec<Rule> {
        let mut text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                        metadata: { name: p, namespace: x }\nspec:\n  podSelector: {}\n  ingress:\n"
            .to_owned();
        for rule in rules {
            writeln!(text, "  - {rule}").unwrap();
        }
        let state = state(&text);
        state.policy(&ObjectName::new("x", "p")).unwrap().ingress.to_vec()
    }

    /// The first other item that includes each one, found by comparing each with each.
    fn by_comparison<T>(items: &[T], includes: impl Fn(&T, &T) -> bool) -> Vec<(usize, usize)> {
        let first = |(at, item): (usize, &T)| {
            let wide = |(other, wide): (usize, &T)| {
                let is_first = other < at || !includes(item, wide);
                (other != at && includes(wide, item) && is_first).then_some((at, other))
            };
            items.iter().enumerate().find_map(wide)
        };
        items.iter().enumerate().filter_map(first).collect()
    }

    const SELECTORS: [&str; 9] = [
        "{}",
        "{ matchLabels: { a: x } }",
        "{ matchLabels: { a: x, b: u } }",
        "{ matchExpressions: [{ key: a, operator: In, values: [x, u] }] }",
        "{ matchExpressions: [{ key: a, operator: NotIn, values: [z] }] }",
        "{ matchExpressions: [{ key: a, operator: Exists }] }",
        "{ matchExpressions: [{ key: b, operator: DoesNotExist }] }",
        "{ matchExpressions: [{ key: b, operator: In, values: [u, z] }, { key: a, operator: Exists }] }",
        "{ matchExpressions: [{ key: a, operator: In, values: [x, z] }, { key: a, operator: NotIn, values: [z] }] }",
    ];

    fn peer(n: usize) -> String {
        let selector = |n: usize| SELECTORS[n % SELECTORS.len()];
        match n % 4 {
            0 => format!("{{ ipBlock: {{ cidr: 10.{}.0.0/{} }} }}", n / 4 % 2 * 4, 14 + n / 8 % 3),
            1 => format!("{{ podSelector: {} }}", selector(n / 4)),
            2 => format!("{{ namespaceSelector: {} }}", selector(n / 4)),
            _ => format!(
                "{{ namespaceSelector: {}, podSelector: {} }}",
                selector(n / 4),
                selector(n / 36)
            ),
        }
    }

    fn port(n: usize) -> String {
        match n % 4 {
            0 => format!("{{ port: {} }}", 80 + n / 4 % 3),
            1 => format!("{{ port: {}, endPort: {} }}", 79 + n / 4 % 3, 81 + n / 12 % 3),
            2 => format!("{{ port: {} }}", ["http", "dns"][n / 4 % 2]),
            _ => format!("{{ protocol: {} }}", ["TCP", "UDP"][n / 4 % 2]),
        }
    }

    /// Numbers that look random, the same in each run.
    fn numbers() -> impl FnMut(usize) -> usize {
        let mut state = 1_usize;
        move |limit| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        }
    }

    #[test]
    fn what_the_indexes_find_is_what_comparing_each_with_each_finds() {
        let mut number = numbers();
        let mut n_found = 0;
        for _ in 0..40 {
            let list = |number: &mut dyn FnMut(usize) -> usize, of: fn(usize) -> String| {
                let most = if number(4) == 0 { 24 } else { 3 };
                let items: Vec<String> = (0..=number(most)).map(|_| of(number(1000))).collect();
                items.join(", ")
            };
            let rules: Vec<String> = (0..12)
                .map(|_| {
                    let from = format!("from: [{}]", list(&mut number, peer));
                    let ports = format!("ports: [{}]", list(&mut number, port));
                    match number(6) {
                        0 => format!("{{ {from} }}"),
                        1 => format!("{{ {ports} }}"),
                        _ => format!("{{ {from}, {ports} }}"),
                    }
                })
                .collect();
            let rules = parsed(&rules);
            let found = super::rules(&rules);
            assert_eq!(found, by_comparison(&rules, cover::rule), "{rules:?}");
            n_found += found.len();
            for Rule { peers, .. } in &rules {
                let Peers::AnyOf(peers) = peers else { continue };
                assert_eq!(super::peers(peers), by_comparison(peers, cover::peer), "{peers:?}");
            }
        }
        assert!(n_found > 20, "{n_found}");
    }

    /// Many rules with equal peers, and many with equal ports, were once each compared with each.
    #[test]
    fn a_rule_is_compared_with_few_others() {
        const N_RULES: usize = 500;
        let shapes: [fn(usize) -> String; 5] = [
            |n| format!("{{ ports: [{{ port: {} }}] }}", n + 1),
            |n| format!("{{ from: [{{ podSelector: {{}} }}], ports: [{{ port: {} }}] }}", n + 1),
            |n| format!("{{ from: [{{ podSelector: {{ matchLabels: {{ a: x, n: v{n} }} }} }}] }}"),
            |n| {
                format!(
                    "{{ from: [{{ namespaceSelector: {{ matchLabels: {{ name: n{n} }} }} }}] }}"
                )
            },
            |n| format!("{{ from: [{{ ipBlock: {{ cidr: 10.{}.{}.0/24 }} }}] }}", n / 256, n % 256),
        ];
        for shape in shapes {
            let rules = parsed(&(0..N_RULES).map(shape).collect::<Vec<_>>());
            let by_peer = PeerIndex::new(rules.iter().enumerate().flat_map(each_peer));
            let by_port = PortIndex::new(rules.iter().enumerate().flat_map(each_port));
            let n_compared = rules
                .iter()
                .map(|rule| n_candidates(&candidates(&by_peer, &by_port, rule).unwrap()));
            assert_eq!(n_compared.sum::<usize>(), N_RULES, "{}", shape(0));
        }
    }
}
