//! `explain`.

use expect_test::expect;

use crate::check;

#[test]
fn explain_names_the_rules_that_almost_match() {
    check(
        "netpol explain --from shop/web --to shop/db --port 5432 -f DIR/shop.yaml",
        &expect![[r#"
            exit code 0
            shop/web -> shop/db 5432/TCP: allowed
              packets: 10.0.0.1 -> 10.0.0.2:5432

            egress: allowed: no policy isolates shop/web for egress

            ingress: allowed: shop/db is isolated for ingress, and a rule allows the connection
              isolated by shop/db
              + shop/db ingress[1] allows TCP/pg (5432 on shop/db) from all pods of namespaces with team=ops, or pods with app=web of the policy's namespace
              - shop/db ingress[0] allows this peer on TCP/5433, not on TCP/5432

            findings on these policies:
              ! NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check(
        "netpol explain --from 1.2.3.4 --to shop/db --port pg -f DIR/shop.yaml",
        &expect![[r#"
            exit code 1
            1.2.3.4 -> shop/db pg/TCP: denied
              packets: 1.2.3.4 -> 10.0.0.2:5432

            egress: allowed: policies do not apply to 1.2.3.4

            ingress: denied: shop/db is isolated for ingress, and no rule allows the connection
              isolated by shop/db
              - shop/db ingress[1] allows TCP/5432 from all pods of namespaces with team=ops, or pods with app=web of the policy's namespace: 1.2.3.4 does not belong to a pod
              - shop/db ingress[0] allows TCP/5433 from pods with app=web of the policy's namespace: neither the peer nor the port matches

            findings on these policies:
              ! NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
}

#[test]
fn explain_follows_a_service_to_its_pods() {
    check(
        "netpol explain --from shop/web --to 10.96.0.1 --port 80 -f DIR/shop.yaml",
        &expect![[r#"
            exit code 0
            shop/web -> 10.96.0.1 80/TCP: allowed
              10.96.0.1 is Service shop/db with backends 10.0.0.2:5432 (allowed)
              packets: 10.0.0.1 -> 10.0.0.2:5432

            egress: allowed: no policy isolates shop/web for egress

            ingress: allowed: shop/db is isolated for ingress, and a rule allows the connection
              isolated by shop/db
              + shop/db ingress[1] allows TCP/pg (5432 on shop/db) from all pods of namespaces with team=ops, or pods with app=web of the policy's namespace
              - shop/db ingress[0] allows this peer on TCP/5433, not on TCP/5432

            findings on these policies:
              ! NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check(
        "netpol explain --from shop/web --to 10.96.0.1 --port 81 -f DIR/shop.yaml",
        &expect![[r#"
            exit code 2
            shop/web -> 10.96.0.1 81/TCP: impossible
              10.96.0.1 has no backend pod for this port
        "#]],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a golden text")]
fn explain_writes_json() {
    check(
        "netpol explain --from ops/probe --to shop/db --port 80 -f DIR/shop.yaml -o json",
        &expect![[r#"
            exit code 1
            {
              "from": "ops/probe",
              "to": "shop/db",
              "port": "80",
              "protocol": "TCP",
              "is_allowed": false,
              "problem": null,
              "service": null,
              "connection": {
                "source": "10.0.0.3",
                "destination": "10.0.0.2",
                "port": 80
              },
              "egress": {
                "pod": {
                  "namespace": "ops",
                  "name": "probe"
                },
                "direction": "egress",
                "verdict": "not-isolated",
                "is_allowed": true,
                "summary": "allowed: no policy isolates ops/probe for egress",
                "tier": null,
                "isolating": [],
                "allowing": [],
                "misses": []
              },
              "ingress": {
                "pod": {
                  "namespace": "shop",
                  "name": "db"
                },
                "direction": "ingress",
                "verdict": "not-allowed",
                "is_allowed": false,
                "summary": "denied: shop/db is isolated for ingress, and no rule allows the connection",
                "tier": "network-policy",
                "isolating": [
                  {
                    "kind": "NetworkPolicy",
                    "namespace": "shop",
                    "name": "db"
                  }
                ],
                "allowing": [],
                "misses": [
                  {
                    "rule": {
                      "policy": {
                        "kind": "NetworkPolicy",
                        "namespace": "shop",
                        "name": "db"
                      },
                      "direction": "ingress",
                      "index": 1
                    },
                    "miss": "port",
                    "sentence": "shop/db ingress[1] allows this peer on TCP/pg (5432 on shop/db), not on TCP/80"
                  },
                  {
                    "rule": {
                      "policy": {
                        "kind": "NetworkPolicy",
                        "namespace": "shop",
                        "name": "db"
                      },
                      "direction": "ingress",
                      "index": 0
                    },
                    "miss": "both",
                    "sentence": "shop/db ingress[0] allows TCP/5433 from pods with app=web of the policy's namespace: neither the peer nor the port matches"
                  }
                ]
              },
              "diagnostics": [
                "NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]"
              ]
            }
        "#]],
    );
}

#[test]
fn explain_says_why_a_connection_cannot_exist() {
    check(
        "netpol explain --from shop/none --to shop/db --port 80 --protocol udp -f DIR/shop.yaml",
        &expect![[r#"
            exit code 2
            shop/none -> shop/db 80/UDP: impossible
              there is no pod, workload, Service or node shop/none
        "#]],
    );
    check(
        "netpol explain --from shop --to shop/db --port 80",
        &expect![[r#"
            exit code 2
            ! error: the following required arguments were not provided:
            !   <--file <PATH>...|--cluster>
            ! 
            ! Usage: netpol explain --from <SOURCE> --to <DESTINATION> --port <PORT> <--file <PATH>...|--cluster>
            ! 
            ! For more information, try '--help'.
        "#]],
    );
    check(
        "netpol explain --from shop/web --to shop/db --port 80 -f DIR/nothing",
        &expect![[r#"
            exit code 2
            shop/web -> shop/db 80/TCP: impossible
              there is no pod, workload, Service or node shop/web
            ! netpol: DIR/nothing: No such file or directory (os error 2) [unreadable]
        "#]],
    );
}
