//! `explain`.

use expect_test::expect;

use crate::{check, check_stdin, output, output_in, output_on};

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

/// Pods whose destination many policies isolate, three of which have rules for the source.
fn many_policies() -> String {
    use std::fmt::Write as _;

    let pod = |name: &str, address: &str| {
        format!(
            "{{ apiVersion: v1, kind: Pod, metadata: {{ name: {name}, namespace: shop, labels: {{ app: {name} }} }}, status: {{ podIP: {address} }} }}\n---\n"
        )
    };
    let mut text = pod("web", "10.0.0.1") + &pod("db", "10.0.0.2");
    for n in 0..41 {
        let app = if n % 16 == 3 { "web".to_owned() } else { format!("client-{n}") };
        write!(
            text,
            "{{ apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{ name: p{n}, namespace: shop }}, spec: {{ podSelector: {{ matchLabels: {{ app: db }} }}, ingress: [{{ from: [{{ podSelector: {{ matchLabels: {{ app: {app} }} }} }}], ports: [{{ port: 5432 }}] }}] }} }}\n---\n"
        )
        .unwrap();
    }
    text
}

#[test]
fn long_answers_are_folded() {
    let command = "netpol explain -f - --from shop/web --to shop/db --port 80";
    check_stdin(
        command,
        &many_policies(),
        &expect![[r#"
        exit code 1
        shop/web -> shop/db 80/TCP: denied
          packets: 10.0.0.1 -> 10.0.0.2:80

        egress: allowed: no policy isolates shop/web for egress

        ingress: denied: shop/db is isolated for ingress, and no rule allows the connection
          41 policies isolate; 3 speak of this peer: shop/p19, shop/p3, shop/p35
          - shop/p19 ingress[0] allows this peer on TCP/5432, not on TCP/80
          - shop/p3 ingress[0] allows this peer on TCP/5432, not on TCP/80
          - shop/p35 ingress[0] allows this peer on TCP/5432, not on TCP/80
          - shop/p0 ingress[0] allows TCP/5432 from pods with app=client-0 of the policy's namespace: neither the peer nor the port matches
          - shop/p1 ingress[0] allows TCP/5432 from pods with app=client-1 of the policy's namespace: neither the peer nor the port matches
          - 36 more rules do not match (--all shows them)
    "#]],
    );
    let all = output(&format!("{command} --all"), &many_policies());
    assert_eq!(all.matches("ingress[0]").count(), 41);
    assert!(all.contains("isolated by shop/p0, shop/p1, shop/p10, "), "{all}");
    assert!(!all.contains("more"), "{all}");
}

#[test]
fn sentences_are_wrapped_on_a_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let command = "netpol explain -f - --from shop/web --to shop/db --port 5432";
    let plain = output_in(directory.path(), command, crate::SHOP);
    let narrow = output_on(Some(50), directory.path(), command, crate::SHOP);
    expect![[r#"
        exit code 0
        shop/web -> shop/db 5432/TCP: ESC[32mallowedESC[0m
          packets: 10.0.0.1 -> 10.0.0.2:5432

        egress: ESC[32mallowed:ESC[0m no policy isolates shop/web for
            egress

        ingress: ESC[32mallowed:ESC[0m shop/db is isolated for ingress,
            and a rule allows the connection
          isolated by shop/db
          ESC[32m+ESC[0m shop/db ingress[1] allows TCP/pg (5432 on
              shop/db) from all pods of namespaces with
              team=ops, or pods with app=web of the
              policy's namespace
          - shop/db ingress[0] allows this peer on
              TCP/5433, not on TCP/5432

        findings on these policies:
          ESC[33m!ESC[0m NetworkPolicy shop/db:
              spec.ingress[1].ports[1].port 70000 is not
              within 1 and 65535: the item matches nothing
              [invalid-port]
    "#]]
    .assert_eq(&narrow.replace('\u{1b}', "ESC"));
    let without = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        ["32", "31", "33", "0"]
            .iter()
            .fold(words.join(" "), |text, code| text.replace(&format!("\u{1b}[{code}m"), ""))
    };
    assert_eq!(without(&narrow), without(&plain));
    for line in narrow.lines() {
        let length = without(line).len() + line.len() - line.trim_start().len();
        assert!(length <= 50, "{line}");
    }
    // Colours are a choice of their own.
    let never =
        output_on(Some(50), directory.path(), &format!("{command} --color never"), crate::SHOP);
    assert!(!never.contains('\u{1b}') && never.lines().count() == narrow.lines().count());
    let always = output_in(directory.path(), &format!("{command} --color always"), crate::SHOP);
    assert!(always.contains("\u{1b}[32m") && always.lines().count() == plain.lines().count());
}
