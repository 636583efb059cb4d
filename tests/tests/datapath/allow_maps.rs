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
        1 => Just(Step::Prepare),
    ];
    proptest::collection::vec(step, 60..120)
}

fn ops(step: &Step) -> Vec<MapOp> {
    match step {
        Step::Set(keys, content) => {
            keys.iter().map(|key| MapOp::SetAllow(*key, Arc::clone(content))).collect()
        }
        Step::Remove(keys) => keys.iter().map(|key| MapOp::RemoveAllow(*key)).collect(),
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
        for ops in std::iter::once(present).chain(steps.iter().map(ops)) {
            if ops.is_empty() {
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
