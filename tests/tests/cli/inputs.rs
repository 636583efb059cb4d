//! Input that is not evaluated, or that is lost: every command says so.

use expect_test::{Expect, expect};

use crate::output_in;

/// Runs a command on these files; INPUT stands for their directory.
fn on(files: &[(&str, &str)], command: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input");
    std::fs::create_dir(&input).unwrap();
    for (name, text) in files {
        std::fs::write(input.join(name), text).unwrap();
    }
    output_in(directory.path(), &command.replace("INPUT", "-f DIR/input"), "")
}

#[track_caller]
fn check(text: &str, command: &str, expected: &Expect) {
    expected.assert_eq(&on(&[("a.yaml", text)], command));
}

#[test]
fn policies_that_are_not_in_force_are_named() {
    let text = "
{ apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: { name: c, namespace: s }, spec: {} }
---
{ apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: { name: g }, spec: {} }
---
{ apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: { name: old, namespace: s }, spec: { podSelector: {} } }
---
{ apiVersion: networking.k8s.io/v1, kind: Networkpolicy, metadata: { name: typo, namespace: s }, spec: { podSelector: {} } }
---
{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: { name: real, namespace: s }, spec: { podSelector: {}, policyTypes: [Ingress] } }
---
{ apiVersion: v1, kind: ConfigMap, metadata: { name: a } }
---
{ apiVersion: v1, kind: ConfigMap, metadata: { name: b } }
---
{ apiVersion: apps/v1beta1, kind: Deployment, metadata: { name: web, namespace: s }, spec: { template: {} } }
---
{ apiVersion: apps/v1, kind: Deployement, metadata: { name: web, namespace: s } }
";
    check(
        text,
        "netpol lint INPUT --allow NP011",
        &expect![[r#"
            exit code 1
            DIR/input/a.yaml:2: warning foreign-policy: cilium.io/v2 CiliumNetworkPolicy is a policy of another engine: it is not evaluated
              |
            2 | { apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: { name: c, namespace: s }, spec: {} }
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            DIR/input/a.yaml:4: warning foreign-policy: projectcalico.org/v3 GlobalNetworkPolicy is a policy of another engine: it is not evaluated
              |
            4 | { apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: { name: g }, spec: {} }
              | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            DIR/input/a.yaml:6: error malformed: NetworkPolicy s/old: apiVersion is "extensions/v1beta1", not networking.k8s.io/v1, and Kubernetes 1.16 removed it: the object is read as networking.k8s.io/v1
              |
            6 | { apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: { name: old, namespace: s }, spec: { podSelector: {} } }
              |   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            DIR/input/a.yaml:8: error malformed: NetworkPolicy s/typo: kind is "Networkpolicy", not NetworkPolicy: the object is read as NetworkPolicy
              |
            8 | { apiVersion: networking.k8s.io/v1, kind: Networkpolicy, metadata: { name: typo, namespace: s }, spec: { podSelector: {} } }
              |                                     ^^^^^^^^^^^^^^^^^^^
            DIR/input/a.yaml:16: error malformed: Deployment s/web: apiVersion is "apps/v1beta1", not apps/v1: the object is read as apps/v1
               |
            16 | { apiVersion: apps/v1beta1, kind: Deployment, metadata: { name: web, namespace: s }, spec: { template: {} } }
               |   ^^^^^^^^^^^^^^^^^^^^^^^^
            DIR/input/a.yaml:18: error unknown-kind: there is no kind apps/v1 Deployement: the object is ignored (did you mean Deployment?)
               |
            18 | { apiVersion: apps/v1, kind: Deployement, metadata: { name: web, namespace: s } }
               | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
            4 objects: 4 errors, 2 warnings, 0 infos
            not evaluated: 1 apps/v1 Deployement, 1 cilium.io/v2 CiliumNetworkPolicy, 1 projectcalico.org/v3 GlobalNetworkPolicy, 2 v1 ConfigMap
        "#]],
    );
}

#[test]
fn a_policy_with_a_misspelled_kind_isolates() {
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicies\nmetadata: { name: p, namespace: s }\nspec: { podSelector: {} }\n";
    check(
        &format!("{PODS}---\n{policy}"),
        "netpol explain INPUT --from s/a --to s/b --port 80",
        &expect![[r#"
            exit code 1
            s/a -> s/b 80/TCP: denied
              packets: 10.0.0.1 -> 10.0.0.2:80

            egress: allowed: no policy isolates s/a for egress

            ingress: denied: s/b is isolated for ingress, and no rule allows the connection
              isolated by s/p

            findings on these policies:
              ! NetworkPolicy s/p: kind is "NetworkPolicies", not NetworkPolicy: the object is read as NetworkPolicy [malformed]
        "#]],
    );
}

/// Two pods, and a policy for one of them.
const PODS: &str = "
{ apiVersion: v1, kind: Namespace, metadata: { name: s } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: a, namespace: s }, status: { podIP: 10.0.0.1 } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: b, namespace: s }, status: { podIP: 10.0.0.2 } }
";

#[test]
fn lost_input_makes_every_verdict_doubtful() {
    let repeated = "apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: { name: c, namespace: s }\n";
    let joined = "apiVersion: v1\nkind: Pod\nmetadata: { name: c }\napiVersion: v1\nkind: Pod\nmetadata: { name: d }\n";
    for (lost, code) in [
        (repeated, "repeated-key"),
        (joined, "repeated-key"),
        ("metadata: { name: c }\nspec: {}\n", "no-kind"),
        ("apiVersion: apps/v1\nkind: Deploymnet\nmetadata: { name: c }\n", "unknown-kind"),
        ("a: [", "syntax"),
    ] {
        let files = [("a.yaml", PODS), ("b.yaml", lost)];
        for command in [
            "netpol explain INPUT --from s/a --to s/b --port 80",
            "netpol simulate INPUT",
            "netpol simulate INPUT --what-if INPUT",
        ] {
            let text = on(&files, command);
            assert!(text.starts_with("exit code 2\n"), "{command}: {text}");
            assert!(text.contains(&format!("[{code}]")), "{command}: {text}");
        }
    }
    for whole in ["{ apiVersion: v1, kind: Secret, metadata: { name: x } }", "# nothing\n"] {
        let text = on(&[("a.yaml", PODS), ("b.yaml", whole)], "netpol simulate INPUT");
        assert!(text.starts_with("exit code 0\n"), "{text}");
    }
}

#[test]
fn objects_that_are_not_evaluated_are_counted() {
    let text = format!("{PODS}---\n{{ apiVersion: v1, kind: Secret, metadata: {{ name: x }} }}\n");
    let note = "not evaluated: 1 v1 Secret";
    for command in [
        "netpol lint INPUT",
        "netpol simulate INPUT",
        "netpol explain INPUT --from s/a --to s/b --port 1",
    ] {
        let found = on(&[("a.yaml", &text)], command);
        assert!(found.contains(note), "{found}");
        assert!(!on(&[("a.yaml", PODS)], command).contains("not evaluated"));
    }
}

#[test]
fn a_directory_or_file_without_objects_is_reported() {
    expect![[r#"
        exit code 0
        DIR/input: warning no-manifest: the directory contains no .yaml, .yml or .json file
        0 objects: 0 errors, 1 warning, 0 infos
    "#]]
    .assert_eq(&on(&[], "netpol lint INPUT"));
    expect![[r#"
        exit code 0
        DIR/input/a.yaml: warning no-manifest: the file contains no document
        0 objects: 0 errors, 1 warning, 0 infos
    "#]]
    .assert_eq(&on(&[("a.yaml", "# no document\n---\n")], "netpol lint INPUT/a.yaml"));
    assert!(on(&[], "netpol simulate INPUT --address 1.2.3.4").starts_with("exit code 2\n"));
}

/// A pod and the API server's Service, whose backend is a node.
const API_SERVER: &str = "
{ apiVersion: v1, kind: Namespace, metadata: { name: shop } }
---
{ apiVersion: v1, kind: Node, metadata: { name: n1 }, status: { addresses: [{ type: InternalIP, address: 192.168.1.10 }] } }
---
{ apiVersion: v1, kind: Node, metadata: { name: n2 }, status: { addresses: [{ type: InternalIP, address: 192.168.1.11 }] } }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { nodeName: n1, containers: [{ name: c, image: x }] }
status: { phase: Running, podIP: 10.244.0.5 }
---
apiVersion: v1
kind: Service
metadata: { name: kubernetes, namespace: default }
spec: { clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{ name: https, port: 443, targetPort: 6443 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: kubernetes, namespace: default, labels: { kubernetes.io/service-name: kubernetes } }
addressType: IPv4
endpoints: [{ addresses: [192.168.1.11], conditions: { ready: true } }]
ports: [{ name: https, port: 6443, protocol: TCP }]
---
";

fn egress(name: &str, cidr: &str, port: u16) -> String {
    format!(
        "{{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{ name: {name}, namespace: shop }}, spec: {{ podSelector: {{ matchLabels: {{ app: web }} }}, policyTypes: [Egress], egress: [{{ to: [{{ ipBlock: {{ cidr: {cidr} }} }}], ports: [{{ port: {port} }}] }}] }} }}\n---\n"
    )
}

#[test]
fn a_service_without_a_selector_has_the_backends_of_its_endpoint_slices() {
    let vip = egress("api-vip", "10.96.0.1/32", 443);
    let real = egress("api-real", "192.168.1.11/32", 6443);
    let explain = "netpol explain INPUT --from shop/web --to 10.96.0.1 --port 443";
    check(
        &format!("{API_SERVER}{vip}{real}"),
        explain,
        &expect![[r#"
        exit code 0
        shop/web -> 10.96.0.1 443/TCP: allowed
          10.96.0.1 is Service default/kubernetes with backends 192.168.1.11:6443 (allowed)
          packets: 10.244.0.5 -> 192.168.1.11:6443

        egress: allowed: shop/web is isolated for egress, and a rule allows the connection
          isolated by shop/api-real, shop/api-vip
          + shop/api-real egress[0] allows TCP/6443 to 192.168.1.11/32
          - shop/api-vip egress[0] allows TCP/443 to 10.96.0.1/32: neither the peer nor the port matches

        ingress: allowed: policies do not apply to 10.96.0.1
    "#]],
    );
    let denied = on(&[("a.yaml", &format!("{API_SERVER}{vip}"))], explain);
    assert!(denied.starts_with("exit code 1\n"), "{denied}");
    check(
        &format!("{API_SERVER}{vip}"),
        "netpol lint INPUT --allow NP020",
        &expect![[r#"
            exit code 0
            DIR/input/a.yaml:26: warning NP032 block-covers-service: NetworkPolicy shop/api-vip: spec.egress[0].to[0].ipBlock 10.96.0.1/32 covers 10.96.0.1 of Service default/kubernetes, whose backends are 192.168.1.11:6443
               |
            26 | ...eb } }, policyTypes: [Egress], egress: [{ to: [{ ipBlock: { cidr: 10.96.0.1/32 } }], ports: [{ port: 443 }] }] } }
               |                                                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
                Allow the backends of the Service: pods by their labels, other backends by an `ipBlock` of their addresses.
            6 objects: 0 errors, 1 warning, 0 infos
        "#]],
    );
}

#[test]
fn a_matrix_evaluates_every_family_that_both_pods_have() {
    let pod = |name: &str, addresses: &str| {
        format!(
            "{{ apiVersion: v1, kind: Pod, metadata: {{ name: {name}, namespace: shop, labels: {{ app: {name} }} }}, spec: {{ containers: [{{ name: c, ports: [{{ containerPort: 5432 }}] }}] }}, status: {{ podIPs: [{addresses}] }} }}\n---\n"
        )
    };
    let input = |client: &str, cidr: &str| {
        let policy = format!(
            "{{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{ name: db, namespace: shop }}, spec: {{ podSelector: {{ matchLabels: {{ app: db }} }}, ingress: [{{ from: [{{ ipBlock: {{ cidr: \"{cidr}\" }} }}] }}] }} }}"
        );
        pod("client", client) + &pod("db", "{ ip: 10.1.0.2 }, { ip: \"fd00::2\" }") + &policy
    };
    let both = "{ ip: 10.1.0.1 }, { ip: \"fd00::1\" }";
    for (client, cidr, expected) in [
        (both, "fd00::/64", "ipv6"),
        (both, "10.1.0.0/16", "ipv4"),
        (both, "fd01::/64", "deny"),
        ("{ ip: 10.1.0.1 }", "fd00::/64", "deny"),
        ("{ ip: \"fd00::1\" }", "fd00::/64", "allow"),
    ] {
        let csv = on(&[("a.yaml", &input(client, cidr))], "netpol simulate INPUT -o csv");
        let line = format!("shop/client,shop/db,5432,TCP,{expected}\n");
        assert!(csv.contains(&line), "{client} {cidr}: {csv}");
    }
    check(
        &input(both, "fd00::/64"),
        "netpol simulate INPUT",
        &expect![[r#"
            exit code 0
            +-------------+--------+-----------+
            | 5432/TCP    |  shop/ |   shop/   |
            |             | client |     db    |
            +==================================+
            | shop/client |    .   | IPv6 only |
            | shop/db     |   yes  |     .     |
            +-------------+--------+-----------+

        "#]],
    );
}

/// The lines of a named pipe were looked up in the pipe again, where nobody writes a second time.
#[test]
fn a_pipe_is_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    for options in ["", " --fix"] {
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                std::fs::write(
                    pipe,
                    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: a }\nspec: { podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.1/8 } }] }] }\n",
                )
            }
        });
        let found = output_in(directory.path(), &format!("netpol lint -f DIR/pipe{options}"), "");
        writer.join().unwrap().unwrap();
        assert!(found.starts_with("exit code 1\n"), "{found}");
        assert!(found.contains("spec: { podSelector: {}, ingress"), "{found}");
    }
}
