//! `simulate --cases`.

use expect_test::expect;
use netpol_lab::generator;
use netpol_lab::oracle::Oracle;
use serde_json::Value;

use crate::{check_stdin, output};

/// A case with two pods and these policies.
pub(crate) fn case(name: &str, sequence: &str, policies: &str, probes: &str) -> String {
    let pod = |name: &str, ip: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"x","name":"{name}"}},"status":{{"phase":"Running","podIP":"{ip}"}}}}"#
        )
    };
    let [a, b] = [pod("a", "10.0.0.1"), pod("b", "10.0.0.2")];
    format!(r#"{{"name":"{name}"{sequence},"objects":[{a},{b}{policies}],"probes":[{probes}]}}"#)
}

pub(crate) const A_TO_B: &str =
    r#"{"from":{"namespace":"x","pod":"a"},"to":{"namespace":"x","pod":"b"},"port":80}"#;
const DENY_ALL: &str = r#",{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"namespace":"x","name":"p"},"spec":{"podSelector":{}}}"#;

#[test]
fn cases_are_evaluated_in_order_and_unreadable_lines_are_reported() {
    let outside = r#"{"from":{"ip":"1.2.3.4"},"to":{"ip":"10.0.0.2"},"port":53,"protocol":"UDP"}"#;
    let nobody =
        r#"{"from":{"namespace":"x","pod":"none"},"to":{"namespace":"x","pod":"b"},"port":"http"}"#;
    let broken = DENY_ALL.replace(r#""podSelector":{}"#, r#""podSelector":{},"types":["Ingress"]"#);
    let no_ip = A_TO_B.replace(r#""pod":"a""#, r#""ip":"1.2.3.4.5""#);
    let lines = [
        case("open", "", "", &format!("{A_TO_B},{outside}")),
        String::new(),
        case("denied", "", DENY_ALL, &format!("{A_TO_B},{outside},{nobody}")),
        "{not json".to_owned(),
        case("unknown field", "", &broken, A_TO_B),
        case("bad probe", "", "", &no_ip),
        case("no end", "", "", &A_TO_B.replace(r#""pod":"a""#, r#""name":"a""#)),
        case("last", "", "", A_TO_B),
    ]
    .join("\n");
    let answers = |engine: &str| {
        output(&format!("netpol-agent simulate --cases - --engine {engine}"), &lines)
    };
    assert_eq!(answers("reference"), answers("compiled"));
    expect![[r#"
        exit code 2
        {"name":"open","verdicts":["allow","allow"],"diagnostics":[]}
        {"name":"denied","verdicts":["deny","deny","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":2,"message":"pod x/none does not exist"}]}
        {"name":"unknown field","verdicts":["deny"],"diagnostics":[{"code":"unknown-field","severity":"error","object":"NetworkPolicy x/p","field":"spec.types","message":"is not a field of the API, which has podSelector, policyTypes, ingress, egress here: the policy isolates in both directions"}]}
        {"name":"last","verdicts":["allow"],"diagnostics":[]}
        ! netpol-agent: -:4: column 2: key must be a string
        ! netpol-agent: -:6: column 325: invalid IP address syntax
        ! netpol-agent: -:7: probes[0].from: must have the members "namespace" and "pod", or "ip"
        ! netpol-agent: -: 3 lines could not be read
    "#]].assert_eq(&answers("compiled"));
}

#[test]
fn generated_cases_with_all_tiers_get_the_verdicts_of_the_oracle() {
    let cases: Vec<_> = generator::cases_with_tiers(3).take(25).collect();
    let n_policies = cases.iter().flat_map(|case| &case.objects);
    let n_policies = n_policies.filter(|object| object["kind"] == "ClusterNetworkPolicy").count();
    assert!(n_policies > cases.len(), "{n_policies}");
    let lines: Vec<_> = cases.iter().map(|case| serde_json::to_string(case).unwrap()).collect();
    for engine in ["reference", "compiled"] {
        let answers = output(
            &format!("netpol-agent simulate --cases - --engine {engine}"),
            &lines.join("\n"),
        );
        let answers: Vec<Value> =
            answers.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), cases.len());
        for (case, answer) in cases.iter().zip(answers) {
            let oracle = Oracle::new(&case.objects);
            let of_oracle: Vec<_> = case
                .probes
                .iter()
                .map(|probe| if oracle.allows(probe) { "allow" } else { "deny" })
                .collect();
            assert_eq!(answer["verdicts"], Value::from(of_oracle), "{engine}: {}", case.name);
        }
    }
}

#[test]
fn the_cases_of_a_sequence_are_states_of_one_cluster() {
    let sequence = r#","sequence":"s""#;
    let reverse = A_TO_B.replace(r#""pod":"a""#, r#""pod":"c""#);
    let probes = format!("{A_TO_B},{reverse}");
    let lines = [
        case("1", sequence, "", &probes),
        case("2", sequence, DENY_ALL, &probes),
        case("3", sequence, "", &probes).replace(r#""name":"a""#, r#""name":"c""#),
        case("4", sequence, DENY_ALL, &probes),
        case("5", r#","sequence":"t""#, "", &probes),
    ]
    .join("\n");
    check_stdin(
        "netpol simulate --cases -",
        &lines,
        &expect![[r#"
            exit code 0
            {"name":"1","verdicts":["allow","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"pod x/c does not exist"}]}
            {"name":"2","verdicts":["deny","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"pod x/c does not exist"}]}
            {"name":"3","verdicts":["deny","allow"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":0,"message":"pod x/a does not exist"}]}
            {"name":"4","verdicts":["deny","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"pod x/c does not exist"}]}
            {"name":"5","verdicts":["allow","deny"],"diagnostics":[{"code":"unknown-pod","severity":"warning","probe":1,"message":"pod x/c does not exist"}]}
        "#]],
    );
}

mod privileged {
    use netpol_lab::privilege::{Need, met};

    use super::*;

    #[test]
    fn the_kernel_gives_the_verdicts_of_the_reference() {
        if !met(&[Need::Root]) {
            return;
        }
        let allow_80 = DENY_ALL.replace(
            r#""podSelector":{}"#,
            r#""podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/31"}}],"ports":[{"port":80}]}]"#,
        );
        let sequence = r#","sequence":"s""#;
        let probes =
            ["80", "81"].map(|port| A_TO_B.replace(":80}", &format!(":{port}}}"))).join(",");
        let lines = [
            case("open", "", "", &probes),
            case("closed", "", DENY_ALL, &probes),
            case("1", sequence, &allow_80, &probes),
            case("2", sequence, "", &probes),
            case("3", sequence, DENY_ALL, &probes),
            r#"{"name":"nothing","objects":[],"probes":[]}"#.to_owned(),
            case("last", "", &allow_80, &probes),
        ]
        .join("\n");
        let answers = |engine: &str| {
            output(&format!("netpol-agent simulate --cases - --engine {engine}"), &lines)
        };
        let reference = answers("reference");
        assert!(reference.contains(r#"{"name":"1","verdicts":["allow","deny"]"#), "{reference}");
        // The engine moves its thread to another network namespace.
        let kernel = std::thread::scope(|scope| scope.spawn(|| answers("kernel")).join().unwrap());
        assert_eq!(kernel, reference);
    }

    /// Pods that exchange their policies once ran out of spare allow maps: "map ALLOW is full: it holds 1048576 entries".
    #[test]
    fn pods_that_exchange_their_policies_within_one_update_get_them() {
        const N_PODS: usize = 40;
        if !met(&[Need::Root]) {
            return;
        }
        let mut policies = String::new();
        for n in 0..N_PODS {
            let policy = format!(
                r#",{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"namespace":"n","name":"q{n}"}},"spec":{{"podSelector":{{"matchLabels":{{"app":"a{n}"}}}},"ingress":[{{"from":[{{"ipBlock":{{"cidr":"10.9.{n}.0/24"}}}}]}}]}}}}"#
            );
            policies.push_str(&policy);
        }
        let state = |shift: usize| {
            let pods: Vec<_> = (0..N_PODS)
                .map(|n| {
                    let (app, host) = ((n + shift) % N_PODS, n + 1);
                    format!(
                        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"n","name":"p{n}","labels":{{"app":"a{app}"}}}},"status":{{"phase":"Running","podIP":"10.1.0.{host}"}}}}"#
                    )
                })
                .collect();
            let probes: Vec<_> = (0..3)
                .map(|n| {
                    format!(
                        r#"{{"from":{{"ip":"10.9.1.1"}},"to":{{"namespace":"n","pod":"p{n}"}},"port":80}}"#
                    )
                })
                .collect();
            let (pods, probes) = (pods.join(","), probes.join(","));
            format!(
                r#"{{"name":"{shift}","sequence":"s","objects":[{pods}{policies}],"probes":[{probes}]}}"#
            )
        };
        let lines = [state(0), state(N_PODS - 1), state(0), state(1)].join("\n");
        let kernel = std::thread::scope(|scope| {
            let kernel = || output("netpol-agent simulate --cases - --engine kernel", &lines);
            scope.spawn(kernel).join().unwrap()
        });
        assert_eq!(kernel, output("netpol-agent simulate --cases - --engine reference", &lines));
        assert!(kernel.contains(r#""name":"39","verdicts":["deny","deny","allow"]"#), "{kernel}");
    }
}
