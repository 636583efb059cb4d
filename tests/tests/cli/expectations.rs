//! `test`: expectations beside the policies.

use std::path::Path;

use expect_test::{Expect, expect};
use netpol_lab::repository;

use crate::output_in;

/// Runs a command on copies of the files of `deploy/tested`, with this text of the test file.
#[track_caller]
fn check(test: &str, options: &str, expected: &Expect) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["workloads.yaml", "policies.yaml"] {
        let path = repository::path("deploy/tested").join(name);
        std::fs::copy(path, directory.path().join(name)).unwrap();
    }
    std::fs::write(directory.path().join("test.yaml"), test).unwrap();
    let command = format!("netpol test DIR {options}");
    expected.assert_eq(&output_in(directory.path(), &command, ""));
}

#[track_caller]
fn check_expectations(expectations: &str, options: &str, expected: &Expect) {
    let head = "apiVersion: netpol.dev/v1\nkind: PolicyTest\nnamespace: shop\nexpect:\n";
    check(&format!("{head}{expectations}"), options, expected);
}

#[test]
fn the_commands_of_the_documentation_print_what_it_says() {
    let text = std::fs::read_to_string(repository::path("docs/test.md")).unwrap();
    let root = repository::path("");
    let blocks: Vec<&str> = text.split("```").collect();
    let commands = blocks.windows(3).filter(|window| window[0].starts_with("sh\n"));
    let mut n_commands = 0;
    for window in commands {
        let command = window[0].trim_start_matches("sh\n").trim();
        let command = command.replace("deploy/", "DIR/deploy/");
        let output = output_in(&root, &command, "").replace("DIR/", "");
        let expected = format!("exit code 0\n{}", window[2].trim_start_matches("text\n"));
        assert_eq!(output, expected, "{command}");
        n_commands += 1;
    }
    assert_eq!(n_commands, 2);
    let example = repository::path("deploy/tested/test.yaml");
    let example = std::fs::read_to_string(example).unwrap();
    let (_, written) = example.split_once('\n').unwrap();
    assert!(text.contains(written), "the file in the documentation is not that of the example");
}

#[test]
fn an_expectation_that_does_not_hold_names_connection_and_reason() {
    let expectations = "
- front -> redis: allow
- any -> redis:redis: deny
  except: [front]
- dump -> external:443: allow
- monitoring/* -> shop/*: deny
";
    check_expectations(
        expectations,
        "",
        &expect![[r#"
        exit code 1
        DIR/test.yaml
          FAIL front -> redis: allow (line 6)
               shop/deploy/front -> shop/sts/redis: 9121/TCP is denied: shop/sts/redis is isolated for ingress, and no rule allows the connection (shop/redis ingress[0] allows this peer on TCP/redis (6379 on shop/sts/redis), not on TCP/9121)
          FAIL any -> redis:redis: deny except front (line 7)
               shop/cj/dump -> shop/sts/redis: redis/TCP is allowed: shop/dump egress[0] allows every port to pods with app=redis of the policy's namespace; shop/redis ingress[0] allows TCP/redis (6379 on shop/sts/redis) from pods with app in (dump,front) of the policy's namespace
          FAIL dump -> external:443: allow (line 9)
               shop/cj/dump -> external (a pod of CronJob shop/dump -> 1.0.0.0:443): 443/TCP is denied: shop/cj/dump is isolated for egress, and no rule allows the connection (shop/dump egress[0] allows TCP/443 to pods with app=redis of the policy's namespace: 1.0.0.0 does not belong to a pod)
          FAIL monitoring/* -> shop/*: deny (line 10)
               monitoring/deploy/prometheus -> shop/cj/dump: every port is allowed: no policy isolates monitoring/deploy/prometheus for egress; no policy isolates shop/cj/dump for ingress
               monitoring/deploy/prometheus -> shop/deploy/front: every port is allowed: no policy isolates monitoring/deploy/prometheus for egress; no policy isolates shop/deploy/front for ingress
               monitoring/deploy/prometheus -> shop/sts/redis: 9121/TCP is allowed: no policy isolates monitoring/deploy/prometheus for egress; shop/redis ingress[1] allows TCP/metrics (9121 on shop/sts/redis) from pods with app=prometheus of namespaces with kubernetes.io/metadata.name=monitoring
        4 expectations: 0 passed, 4 failed
        coverage: 5 of 5 rules and isolations (100 %)
    "#]],
    );
    check_expectations(
        expectations,
        "-o junit",
        &expect![[r#"
        exit code 1
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="netpol" tests="4" failures="4">
          <testsuite name="DIR/test.yaml" tests="4" failures="4" errors="0" skipped="0">
            <properties><property name="coverage" value="100"/></properties>
            <testcase name="front -&gt; redis: allow" classname="DIR/test.yaml" file="DIR/test.yaml" line="6">
              <failure message="shop/deploy/front -&gt; shop/sts/redis: 9121/TCP is denied: shop/sts/redis is isolated for ingress, and no rule allows the connection (shop/redis ingress[0] allows this peer on TCP/redis (6379 on shop/sts/redis), not on TCP/9121)" type="verdict">shop/deploy/front -&gt; shop/sts/redis: 9121/TCP is denied: shop/sts/redis is isolated for ingress, and no rule allows the connection (shop/redis ingress[0] allows this peer on TCP/redis (6379 on shop/sts/redis), not on TCP/9121)</failure>
            </testcase>
            <testcase name="any -&gt; redis:redis: deny except front" classname="DIR/test.yaml" file="DIR/test.yaml" line="7">
              <failure message="shop/cj/dump -&gt; shop/sts/redis: redis/TCP is allowed: shop/dump egress[0] allows every port to pods with app=redis of the policy's namespace; shop/redis ingress[0] allows TCP/redis (6379 on shop/sts/redis) from pods with app in (dump,front) of the policy's namespace" type="verdict">shop/cj/dump -&gt; shop/sts/redis: redis/TCP is allowed: shop/dump egress[0] allows every port to pods with app=redis of the policy's namespace; shop/redis ingress[0] allows TCP/redis (6379 on shop/sts/redis) from pods with app in (dump,front) of the policy's namespace</failure>
            </testcase>
            <testcase name="dump -&gt; external:443: allow" classname="DIR/test.yaml" file="DIR/test.yaml" line="9">
              <failure message="shop/cj/dump -&gt; external (a pod of CronJob shop/dump -&gt; 1.0.0.0:443): 443/TCP is denied: shop/cj/dump is isolated for egress, and no rule allows the connection (shop/dump egress[0] allows TCP/443 to pods with app=redis of the policy's namespace: 1.0.0.0 does not belong to a pod)" type="verdict">shop/cj/dump -&gt; external (a pod of CronJob shop/dump -&gt; 1.0.0.0:443): 443/TCP is denied: shop/cj/dump is isolated for egress, and no rule allows the connection (shop/dump egress[0] allows TCP/443 to pods with app=redis of the policy's namespace: 1.0.0.0 does not belong to a pod)</failure>
            </testcase>
            <testcase name="monitoring/* -&gt; shop/*: deny" classname="DIR/test.yaml" file="DIR/test.yaml" line="10">
              <failure message="monitoring/deploy/prometheus -&gt; shop/cj/dump: every port is allowed: no policy isolates monitoring/deploy/prometheus for egress; no policy isolates shop/cj/dump for ingress" type="verdict">monitoring/deploy/prometheus -&gt; shop/cj/dump: every port is allowed: no policy isolates monitoring/deploy/prometheus for egress; no policy isolates shop/cj/dump for ingress
        monitoring/deploy/prometheus -&gt; shop/deploy/front: every port is allowed: no policy isolates monitoring/deploy/prometheus for egress; no policy isolates shop/deploy/front for ingress
        monitoring/deploy/prometheus -&gt; shop/sts/redis: 9121/TCP is allowed: no policy isolates monitoring/deploy/prometheus for egress; shop/redis ingress[1] allows TCP/metrics (9121 on shop/sts/redis) from pods with app=prometheus of namespaces with kubernetes.io/metadata.name=monitoring</failure>
            </testcase>
          </testsuite>
        </testsuites>
    "#]],
    );
    check_expectations(
        expectations,
        "-o tap",
        &expect![[r#"
        exit code 1
        TAP version 14
        1..4
        not ok 1 - front -> redis: allow
          ---
          at: "DIR/test.yaml:6"
          connections:
            - "shop/deploy/front -> shop/sts/redis: 9121/TCP is denied: shop/sts/redis is isolated for ingress, and no rule allows the connection (shop/redis ingress[0] allows this peer on TCP/redis (6379 on shop/sts/redis), not on TCP/9121)"
          ...
        not ok 2 - any -> redis:redis: deny except front
          ---
          at: "DIR/test.yaml:7"
          connections:
            - "shop/cj/dump -> shop/sts/redis: redis/TCP is allowed: shop/dump egress[0] allows every port to pods with app=redis of the policy's namespace; shop/redis ingress[0] allows TCP/redis (6379 on shop/sts/redis) from pods with app in (dump,front) of the policy's namespace"
          ...
        not ok 3 - dump -> external:443: allow
          ---
          at: "DIR/test.yaml:9"
          connections:
            - "shop/cj/dump -> external (a pod of CronJob shop/dump -> 1.0.0.0:443): 443/TCP is denied: shop/cj/dump is isolated for egress, and no rule allows the connection (shop/dump egress[0] allows TCP/443 to pods with app=redis of the policy's namespace: 1.0.0.0 does not belong to a pod)"
          ...
        not ok 4 - monitoring/* -> shop/*: deny
          ---
          at: "DIR/test.yaml:10"
          connections:
            - "monitoring/deploy/prometheus -> shop/cj/dump: every port is allowed: no policy isolates monitoring/deploy/prometheus for egress; no policy isolates shop/cj/dump for ingress"
            - "monitoring/deploy/prometheus -> shop/deploy/front: every port is allowed: no policy isolates monitoring/deploy/prometheus for egress; no policy isolates shop/deploy/front for ingress"
            - "monitoring/deploy/prometheus -> shop/sts/redis: 9121/TCP is allowed: no policy isolates monitoring/deploy/prometheus for egress; shop/redis ingress[1] allows TCP/metrics (9121 on shop/sts/redis) from pods with app=prometheus of namespaces with kubernetes.io/metadata.name=monitoring"
          ...
        # coverage: 5 of 5 rules and isolations (100 %)
    "#]],
    );
}

#[test]
fn rules_that_no_expectation_exercises_are_listed() {
    let expectations = "- front -> redis:redis: allow\n";
    check_expectations(
        expectations,
        "--min-coverage 20",
        &expect![[r#"
        exit code 0
        DIR/test.yaml
          ok   front -> redis:redis: allow
        1 expectation: 1 passed, 0 failed
        no expectation exercises
          DIR/policies.yaml:30: shop/dump egress (isolation)
          DIR/policies.yaml:8: shop/redis ingress (isolation)
          DIR/policies.yaml:34: shop/dump egress[0]
          DIR/policies.yaml:16: shop/redis ingress[1]
        coverage: 1 of 5 rules and isolations (20 %)
    "#]],
    );
    check_expectations(
        expectations,
        "--min-coverage 21",
        &expect![[r#"
        exit code 1
        DIR/test.yaml
          ok   front -> redis:redis: allow
        1 expectation: 1 passed, 0 failed
        no expectation exercises
          DIR/policies.yaml:30: shop/dump egress (isolation)
          DIR/policies.yaml:8: shop/redis ingress (isolation)
          DIR/policies.yaml:34: shop/dump egress[0]
          DIR/policies.yaml:16: shop/redis ingress[1]
        coverage: 1 of 5 rules and isolations (20 %)
    "#]],
    );
}

#[test]
fn mistakes_name_file_line_and_field() {
    let expectations = "
- frnt -> redis: deny
- front -> redis:6380: deny
- front -> redis:rediss: deny
- front -> dump: allow
- front -> svc/redis:80: deny
- any -> redis: deny
  except: [external, 10.0.0.1]
- shop/* -> redis: deny
  except:
  - monitoring/prometheus
- stop/* -> redis: deny
- front -> front: deny
";
    check_expectations(
        expectations,
        "",
        &expect![[r#"
        exit code 2
        DIR/test.yaml
        0 expectations: 0 passed, 0 failed
        no expectation exercises
          DIR/policies.yaml:30: shop/dump egress (isolation)
          DIR/policies.yaml:8: shop/redis ingress (isolation)
          DIR/policies.yaml:34: shop/dump egress[0]
          DIR/policies.yaml:12: shop/redis ingress[0]
          DIR/policies.yaml:16: shop/redis ingress[1]
        coverage: 0 of 5 rules and isolations (0 %)
        ! netpol: DIR/test.yaml:6: frnt -> redis: deny: there is no pod, workload, Service or node frnt (did you mean front?)
        ! netpol: DIR/test.yaml:7: front -> redis:6380: deny: no pod of redis has the port 6380/TCP: it declares 6379/TCP, 9121/TCP; if this is meant, add `undeclared: true`
        ! netpol: DIR/test.yaml:8: front -> redis:rediss: deny: no pod of redis has the port rediss/TCP: it declares 6379/TCP, 9121/TCP
        ! netpol: DIR/test.yaml:9: front -> dump: allow: shop/cj/dump declares no port: name one, as in dump:80
        ! netpol: DIR/test.yaml:10: front -> svc/redis:80: deny: Service shop/redis has no backend for port 80/TCP
        ! netpol: DIR/test.yaml:12: any -> redis: deny except external, 10.0.0.1: except 10.0.0.1: it is no part of the pattern
        ! netpol: DIR/test.yaml:15: shop/* -> redis: deny except monitoring/prometheus: except monitoring/prometheus: it is no part of the pattern
        ! netpol: DIR/test.yaml:16: stop/* -> redis: deny: there is no pod stop/*
        ! netpol: DIR/test.yaml:17: front -> front: deny: it is about no connection
    "#]],
    );
    check_expectations(
        "- front -> redis: deny\n  exept: [dump]\n",
        "",
        &expect![[r#"
        exit code 2
        0 expectations: 0 passed, 0 failed
        coverage: 0 of 0 rules and isolations (100 %)
        ! netpol: DIR/test.yaml:6: unknown field `exept`: an expectation has `FROM -> TO[:PORT]`, `except` and `undeclared`
    "#]],
    );
    check(
        "apiVersion: netpol.dev/v2\nkind: PolicyTest\nexpect: [a -> b: deny]\n",
        "",
        &expect![[r#"
            exit code 2
            0 expectations: 0 passed, 0 failed
            coverage: 0 of 0 rules and isolations (100 %)
            ! netpol: DIR/test.yaml:1: apiVersion is "netpol.dev/v2", not netpol.dev/v1
        "#]],
    );
    check(
        "apiVersion: netpol.dev/v1\nkind: PolicyTests\nexpect: [a -> b: deny]\n",
        "",
        &expect![[r#"
            exit code 2
            0 expectations: 0 passed, 0 failed
            coverage: 0 of 0 rules and isolations (100 %)
            ! netpol: DIR/test.yaml:2: kind is "PolicyTests", not PolicyTest
        "#]],
    );
    check(
        "apiVersion: v1\nkind: ConfigMap\n",
        "",
        &expect![[r#"
        exit code 2
        ! netpol: DIR: no file has apiVersion: netpol.dev/v1 and kind: PolicyTest
    "#]],
    );
}

#[test]
fn lost_objects_are_no_basis_for_a_verdict() {
    let test = "apiVersion: netpol.dev/v1\nkind: PolicyTest\nobjects: [policies.yaml, none]\nexpect: [shop/front -> shop/redis: deny]\n";
    check(
        test,
        "",
        &expect![[r#"
        exit code 2
        0 expectations: 0 passed, 0 failed
        coverage: 0 of 0 rules and isolations (100 %)
        ! netpol: DIR/none: No such file or directory (os error 2) [unreadable]
        ! netpol: DIR/test.yaml: the objects are incomplete: no expectation is evaluated
    "#]],
    );
}

#[test]
fn a_test_file_beside_the_policies_is_not_an_object_that_was_passed_over() {
    let directory = repository::path("deploy/tested");
    let lint = output_in(&directory, "netpol lint -f DIR --allow NP020", "");
    assert_eq!(lint, "exit code 0\n9 objects: 0 errors, 0 warnings, 0 infos\n");
}

#[test]
fn objects_of_the_command_line_replace_those_of_the_file() {
    let objects = "
{ apiVersion: v1, kind: Pod, metadata: { name: front, namespace: shop } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: redis, namespace: shop } }
";
    let directory = tempfile::tempdir().unwrap();
    let test = "apiVersion: netpol.dev/v1\nkind: PolicyTest\nexpect:\n- shop/front -> shop/redis:6379: allow\n- any -> shop/redis: deny\n";
    std::fs::write(directory.path().join("test.yaml"), test).unwrap();
    let output = |command| output_in(Path::new(directory.path()), command, objects);
    expect![[r#"
        exit code 1
        DIR/test.yaml
          ok   shop/front -> shop/redis:6379: allow
          FAIL any -> shop/redis: deny (line 5)
               shop/front -> shop/redis: every port is allowed: no policy isolates shop/front for egress; no policy isolates shop/redis for ingress
               external -> shop/redis (1.0.0.0 -> pod shop/redis:1): every port is allowed: no policy isolates shop/redis for ingress
        2 expectations: 1 passed, 1 failed
        coverage: 0 of 0 rules and isolations (100 %)
    "#]].assert_eq(&output("netpol test DIR/test.yaml -f -"));
}
