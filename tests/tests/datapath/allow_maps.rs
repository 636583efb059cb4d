//! Allow maps: shared, changed in place, replaced, and reused. The next agent reads the same state that the agent believes in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use netpol_common::ids::{Direction, Identity, IfIndex, PortBe, Protocol, RuleId};
use netpol_common::keys::{AllowKey, AllowValue, EndpointValue};
use netpol_common::mac::Mac;
use netpol_datapath::{Attaching, Datapath};
use netpol_lab::privilege::{Need, met};
use netpol_policy::compile::{AllowMap, AllowMapKey};
use netpol_policy::dataplane::MapOp;
use netpol_policy::dataplane::port::Maps as _;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestRunner};

use super::cluster_model::PODS;
use super::wire::Wire;

/// Number of sequences; after each the programs are loaded again.
const N_CASES: u32 = 3;

/// A change of allow maps.
#[derive(Clone, Debug)]
enum Step {
    /// Several get the same content, by consecutive operations.
    Set(Vec<AllowMapKey>, Arc<AllowMap>),
    Remove(Vec<AllowMapKey>),
    /// Every key gets the content of the key so many places behind it.
    Exchange(usize),
    /// The agent is idle and does its deferred work.
    Prepare,
}

fn keys() -> Vec<AllowMapKey> {
    let of_pod =
        |ifindex| Direction::ALL.map(|direction| AllowMapKey::new(IfIndex(ifindex), direction));
    PODS.into_iter().flat_map(of_pod).collect()
}

/// Few entries, so that contents repeat; one in eight denies.
fn content() -> impl Strategy<Value = Arc<AllowMap>> {
    let entry = (1_u32..4, select(vec![80_u16, 443]), 0_u8..8, 1_u32..3);
    proptest::collection::vec(entry, 0..4).prop_map(|entries| {
        let entry = |(identity, port, verdict, rule)| {
            let key = AllowKey::lookup(Identity(identity), Protocol::TCP, PortBe::new(port));
            let verdict = if verdict == 0 { AllowValue::DENY } else { AllowValue::ALLOW };
            (key, AllowValue { verdict, ..AllowValue::allow(RuleId(rule)) })
        };
        Arc::new(entries.into_iter().map(entry).collect())
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some_keys = || subsequence(keys(), 1..=keys().len());
    let step = prop_oneof![
        8 => (some_keys(), content()).prop_map(|(keys, content)| Step::Set(keys, content)),
        1 => some_keys().prop_map(Step::Remove),
        1 => (1..keys().len()).prop_map(Step::Exchange),
        1 => Just(Step::Prepare),
    ];
    proptest::collection::vec(step, 60..120)
}

fn ops(step: &Step, allow: &BTreeMap<AllowMapKey, Arc<AllowMap>>) -> Vec<MapOp> {
    match step {
        Step::Set(keys, content) => {
            keys.iter().map(|key| MapOp::SetAllow(*key, Arc::clone(content))).collect()
        }
        Step::Remove(keys) => keys.iter().map(|key| MapOp::RemoveAllow(*key)).collect(),
        Step::Exchange(n_places) => {
            let behind = allow.values().cycle().skip(*n_places);
            allow
                .keys()
                .zip(behind)
                .map(|(key, of)| MapOp::SetAllow(*key, Arc::clone(of)))
                .collect()
        }
        Step::Prepare => Vec::new(),
    }
}

fn distinct(allow: &BTreeMap<AllowMapKey, Arc<AllowMap>>) -> usize {
    allow.values().collect::<BTreeSet<_>>().len()
}

#[test]
fn what_the_agent_believes_of_allow_maps_is_what_the_next_one_reads() {
    if !met(&[Need::Root]) {
        return;
    }
    let wire = Wire::new("allow");
    let config = wire.config(Attaching::of_this_kernel());
    let mut runner = TestRunner::new(Config { cases: N_CASES, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let mut datapath = Datapath::load(&config).unwrap();
        let mut map_state = datapath.map_state().unwrap();
        let endpoint = netpol_policy::compile::EndpointMapState {
            value: EndpointValue {
                state: EndpointValue::READY,
                isolated: 3,
                ..EndpointValue::blocked()
            },
            container_id: Arc::from("pod"),
            mac: Mac::UNKNOWN,
        };
        let mut present: Vec<_> = PODS
            .iter()
            .map(|ifindex| MapOp::SetEndpoint(IfIndex(*ifindex), endpoint.clone()))
            .collect();
        present.extend(keys().into_iter().map(MapOp::RemoveAllow));
        for step in std::iter::once(None).chain(steps.iter().map(Some)) {
            let ops = step.map_or_else(|| present.clone(), |step| ops(step, &map_state.allow));
            if matches!(step, Some(Step::Prepare)) {
                datapath.prepare().unwrap();
            }
            datapath.apply(&ops).unwrap();
            for op in &ops {
                netpol_policy::dataplane::apply(op, &mut map_state);
            }
            prop_assert_eq!(&datapath.map_state().unwrap(), &map_state);
            prop_assert_eq!(datapath.n_allow_maps(), distinct(&map_state.allow));
        }
        drop(datapath);
        let next = Datapath::load(&config).unwrap();
        prop_assert_eq!(&next.map_state().unwrap(), &map_state);
        prop_assert_eq!(next.n_allow_maps(), distinct(&map_state.allow));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// A slot once retired as soon as its last pod had moved, before the pod that wanted its content came. So the other pods of a
/// rotation got new maps, and from 33 pods on there was no spare slot for them: "map ALLOW is full".
#[test]
fn pods_that_exchange_their_allow_maps_need_no_spare_slot() {
    const N_PODS: u32 = 200;
    if !met(&[Need::Root]) {
        return;
    }
    let mut datapath = Datapath::load(&netpol_datapath::Config::private()).unwrap();
    let keys: Vec<_> = (1..=N_PODS)
        .map(|ifindex| AllowMapKey::new(IfIndex(ifindex), Direction::Ingress))
        .collect();
    let contents: Vec<Arc<AllowMap>> = (1..=N_PODS)
        .map(|identity| {
            let key = AllowKey::lookup(Identity(identity), Protocol::TCP, PortBe::new(80));
            Arc::new(AllowMap::from([(key, AllowValue::allow(RuleId(1)))]))
        })
        .collect();
    let endpoint = netpol_policy::compile::EndpointMapState {
        value: EndpointValue {
            state: EndpointValue::READY,
            isolated: 1,
            ..EndpointValue::blocked()
        },
        container_id: Arc::from("pod"),
        mac: Mac::UNKNOWN,
    };
    let present: Vec<_> =
        keys.iter().map(|key| MapOp::SetEndpoint(key.ifindex, endpoint.clone())).collect();
    datapath.apply(&present).unwrap();
    for n_places in [0, 1, contents.len() - 1, 7] {
        let behind = contents.iter().cycle().skip(n_places);
        let exchange: Vec<_> = keys
            .iter()
            .zip(behind)
            .map(|(key, of)| MapOp::SetAllow(*key, Arc::clone(of)))
            .collect();
        datapath.apply(&exchange).unwrap();
        let allow = datapath.map_state().unwrap().allow;
        let expected: BTreeMap<_, _> =
            keys.iter().copied().zip(contents.iter().cycle().skip(n_places).cloned()).collect();
        assert_eq!(allow, expected, "exchanged over {n_places} places");
        assert_eq!(datapath.n_allow_maps(), contents.len());
    }
}
