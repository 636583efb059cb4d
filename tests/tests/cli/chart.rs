//! The first use of `netpol lint`: the output of a chart, as README says, with the three usual mistakes.

use expect_test::expect;

use crate::{check_stdin, output};

/// What `helm template` prints. The selector of the policy for the web pods is misspelled, its port is that of the Service, and its
/// egress lacks DNS.
const RENDERED: &str = r#"---
# Source: shop/templates/networkpolicy.yaml
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: release-name-web
  labels: { helm.sh/chart: shop-0.1.0, app.kubernetes.io/name: shop }
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: shop
      app.kubernetes.io/component: wbe
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - namespaceSelector:
            matchLabels: { kubernetes.io/metadata.name: ingress-nginx }
      ports:
        - port: 80
  egress:
    - to:
        - podSelector:
            matchLabels: { app.kubernetes.io/component: db }
      ports:
        - port: 5432
---
# Source: shop/templates/networkpolicy-db.yaml
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: release-name-db
spec:
  podSelector:
    matchLabels: { app.kubernetes.io/component: db }
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels: { app.kubernetes.io/component: web }
      ports:
        - port: 5432
---
# Source: shop/templates/service.yaml
apiVersion: v1
kind: Service
metadata:
  name: release-name-web
spec:
  selector: { app.kubernetes.io/name: shop, app.kubernetes.io/component: web }
  ports: [{ name: http, port: 80, targetPort: http }]
---
# Source: shop/templates/service-db.yaml
apiVersion: v1
kind: Service
metadata:
  name: release-name-db
spec:
  selector: { app.kubernetes.io/name: shop, app.kubernetes.io/component: db }
  ports: [{ name: pg, port: 80, targetPort: pg }]
---
# Source: shop/templates/deployment.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: release-name-web
spec:
  replicas: 2
  selector: { matchLabels: { app.kubernetes.io/name: shop, app.kubernetes.io/component: web } }
  template:
    metadata: { labels: { app.kubernetes.io/name: shop, app.kubernetes.io/component: web } }
    spec: { containers: [{ name: web, image: web, ports: [{ name: http, containerPort: 8080 }] }] }
---
# Source: shop/templates/db.yaml
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: release-name-db
spec:
  serviceName: release-name-db
  selector: { matchLabels: { app.kubernetes.io/name: shop, app.kubernetes.io/component: db } }
  template:
    metadata: { labels: { app.kubernetes.io/name: shop, app.kubernetes.io/component: db } }
    spec: { containers: [{ name: db, image: pg, ports: [{ name: pg, containerPort: 5432 }] }] }
---
# Source: shop/templates/tests/test-connection.yaml
apiVersion: v1
kind: Pod
metadata:
  name: release-name-test-connection
  annotations: { "helm.sh/hook": test }
spec:
  containers: [{ name: wget, image: busybox }]
  restartPolicy: Never
"#;

#[test]
fn the_mistakes_of_a_chart_are_found() {
    check_stdin(
        "netpol lint -f -",
        RENDERED,
        &expect![[r#"
            exit code 0
            -:9: warning NP001 selects-no-pod: NetworkPolicy default/release-name-web: spec.podSelector selects no pod in namespace default: app.kubernetes.io/component=wbe,app.kubernetes.io/name=shop (did you mean app.kubernetes.io/component=web?)
              |
            9 |   podSelector:
              |   ^^^^^^^^^^^^
                Compare the selector with the labels of the pods that the policy should select.
            -:19: warning NP022 service-port: NetworkPolicy default/release-name-web: spec.ingress[0].ports[0] TCP/80 is a port of Service default/release-name-web, whose target port on a pod of Deployment default/release-name-web is 8080
               |
            19 |         - port: 80
               |           ^^^^^^^^
                Use the Service's `targetPort`, which is the port of the pods.
            -:20: warning NP020 no-dns: NetworkPolicy default/release-name-web: spec.egress no rule allows the selected pods to reach port 53/UDP
               |
            20 |   egress:
               |   ^^^^^^^
                Allow egress to the cluster's DNS pods on port 53, UDP and TCP.
            7 objects: 0 errors, 3 warnings, 0 infos
        "#]],
    );
}

#[test]
fn a_chart_without_mistakes_has_no_finding() {
    let dns = "  egress:\n    - ports: [{ port: 53, protocol: UDP }, { port: 53 }]\n";
    let mended = RENDERED
        .replace("component: wbe", "component: web")
        .replace("        - port: 80\n  egress", "        - port: http\n  egress")
        .replace("  egress:\n", dns);
    let found = output("netpol lint -f - --deny infos", &mended);
    assert_eq!(found, "exit code 0\n7 objects: 0 errors, 0 warnings, 0 infos\n");
}

#[test]
fn the_examples_and_the_demo_are_silent() {
    for folder in ["deploy/examples", "deploy/tested"] {
        let path = netpol_lab::repository::path(folder);
        let found =
            output(&format!("netpol lint -f {} -o short --deny warnings", path.display()), "");
        assert!(found.starts_with("exit code 0\n"), "{found}");
    }
}
