//! Help, versions, errors in arguments, and the name under which the program is called.

use expect_test::{Expect, expect};

use crate::{check, output};

/// Compares help without trailing spaces.
#[track_caller]
fn check_help(command: &str, expected: &Expect) {
    let text: Vec<String> =
        output(command, "").lines().map(|line| format!("{}\n", line.trim_end())).collect();
    expected.assert_eq(&text.concat());
}

#[test]
#[expect(clippy::too_many_lines, reason = "expected texts")]
fn version_and_help_are_output() {
    assert_eq!(
        output("netpol --version", ""),
        format!("exit code 0\nnetpol {}\n", env!("CARGO_PKG_VERSION"))
    );
    check_help(
        "netpol help",
        &expect![[r#"
            exit code 0
            Explain, check and simulate Kubernetes NetworkPolicies, from files or from a live cluster

            Usage: netpol [OPTIONS] <COMMAND>

            Commands:
              explain      Explain why a connection is allowed or denied: the policies that isolate, the rules that allow, and the rules that almost match
              learn        Write NetworkPolicies that allow the connections that pods have had, and nothing else
              lint         Report mistakes in policies: fields that are not in force as written, and rules that probably do not have the intended effect
              flannel      Name netpol-cni in Flannel's own configuration, so that no pod starts without it, or take it out again
              simulate     Evaluate connections without sending packets: draw the matrix of allowed connections, or evaluate cases from a file
              diff         Show which connections open and close between two sets of objects, on every port
              test         Compare expectations with what the policies allow: unit tests for policies
              status       Show what is in force on the nodes of a cluster, or at one pod
              drops        Show dropped packets of all nodes: when, which pod and peer, the reason, and the policy
              flows        List the live connections of a pod, with the rule that would allow each if it began now
              policy       Show one NetworkPolicy on all nodes: the generation in force, the pods that it concerns, the connections that its rules have decided
              wait         Wait until a NetworkPolicy is in force at all pods that it selects
              ui           Show in a browser who reaches whom: a matrix and a graph of workloads, why, what an edited policy would change, and live drops
              completions  Write a completion script for a shell
              man          Write manual pages, one for each command
              help         Print this message or the help of the given subcommand(s)

            Options:
                  --color <WHEN>
                      When to write colours

                      Possible values:
                      - auto:   On a terminal, unless `NO_COLOR` is set
                      - always: Also into a file or a pipe
                      - never:  Never

                      [default: auto]

              -h, --help
                      Print help (see a summary with '-h')

              -V, --version
                      Print version
        "#]],
    );
    assert_eq!(output("netpol --help", ""), output("netpol help", ""));
    check_help(
        "netpol explain --help",
        &expect![[r#"
            exit code 0
            Explain why a connection is allowed or denied: the policies that isolate, the rules that allow, and the rules that almost match.

            A source or destination is `NAMESPACE/NAME` of a pod, a workload or a Service; `KIND/NAME`, such as `deploy/web`, `svc/redis` or `node/n1`; the DNS name of a Service, such as `redis.shop.svc`; an IP address; a block, such as `10.0.0.0/8`; or `external` for every address outside the cluster. A pod with several addresses can have one of them: `NAMESPACE/POD@ADDRESS`.

            The exit code is 0 if the connection is allowed, 1 if it is denied or depends on an address that is not known, and 2 if the input cannot be read or the connection cannot exist.

            Usage: netpol explain [OPTIONS] --from <SOURCE> --to <DESTINATION> --port <PORT> <--file <PATH>...|--cluster>

            Options:
                  --from <SOURCE>
                      Source of the connection

                  --to <DESTINATION>
                      Destination of the connection. A Service stands for its backends

                  --port <PORT>
                      Destination port: a number, or the name of a port of the destination

                  --protocol <PROTOCOL>
                      Protocol: TCP, UDP or SCTP

                      [default: TCP]

              -n, --namespace <NAMESPACE>
                      Namespace of names without one [default: the only namespace with such an object]

              -f, --file <PATH>...
                      Files and directories with objects (YAML or JSON); `-` is the standard input

                  --cluster
                      Read the objects of the cluster of kubectl's current context. Objects in files replace those of the cluster

                  --kubeconfig <FILE>
                      Kubeconfig file for --cluster [default: the file that kubectl uses]

                  --context <NAME>
                      Context of the kubeconfig for --cluster [default: its current context]

                  --pod-cidr <CIDR>
                      Networks with the addresses of the pods that have none yet, such as those of a Deployment [default: any private network]

                  --own-node-egress <OWN_NODE_EGRESS>
                      How connections of pods to their own node are judged, `allow` or `judge`: as the agents' option of this name

                      [default: allow]
                      [possible values: allow, judge]

                  --live
                      With --cluster, also ask the agents of the nodes of both ends what is in force there, and show where that differs from the objects of the API server. The exit code is then 1 if it differs, too, and 2 if a node does not answer

                  --agent-namespace <NAMESPACE>
                      Namespace of the agents' pods

                      [default: netpol-system]

                  --node-timeout <DURATION>
                      How long to wait for each node, such as `500ms` or `10s`. A node that does not answer in time is named, and the exit code is 2

                      [default: 5s]

                  --through <ROUTE>
                      How to ask the agents

                      Possible values:
                      - auto:     `exec` if you may run commands in the agents' pods, else `observer`
                      - exec:     Commands in the agents' pods, as `kubectl exec`: for administrators
                      - observer: `netpol-observer`, if it is installed: for everybody whom RBAC lets see `drops`, `flows` and `explanations` of a namespace

                      [default: auto]

                  --all
                      Name all policies and rules. Without it, of a long list the nearest are shown and the others are counted

                  --color <WHEN>
                      When to write colours

                      Possible values:
                      - auto:   On a terminal, unless `NO_COLOR` is set
                      - always: Also into a file or a pipe
                      - never:  Never

                      [default: auto]

              -o, --output <OUTPUT>
                      Output format

                      Possible values:
                      - text: Text for people
                      - json: JSON for programs

                      [default: text]

              -h, --help
                      Print help (see a summary with '-h')

            Examples:
              netpol explain -f rendered/ --from deploy/web --to redis.shop.svc --port 6379
              netpol explain -f rendered/ --from external --to shop/web --port 8080
              netpol explain --cluster --from shop/front --to 10.96.0.10 --port 53 --protocol UDP
              netpol explain --cluster --live --from shop/front --to shop/redis --port 6379
        "#]],
    );
    check_help(
        "netpol lint --help",
        &expect![[r#"
            exit code 0
            Report mistakes in policies: fields that are not in force as written, and rules that probably do not have the intended effect.

            The checks are listed in docs/lint.md. Checks that compare policies with pods, namespaces or Services need these objects too. The exit code is 0 if there is no finding of the --deny level or above, 1 if there is one, and 2 if the input cannot be read.

            Usage: netpol lint [OPTIONS] <--file <PATH>...|--cluster|--list|--explain <CODE>>

            Options:
              -f, --file <PATH>...
                      Files and directories with objects (YAML or JSON); `-` is the standard input

                  --cluster
                      Read the objects of the cluster of kubectl's current context. Objects in files replace those of the cluster

                  --kubeconfig <FILE>
                      Kubeconfig file for --cluster [default: the file that kubectl uses]

                  --context <NAME>
                      Context of the kubeconfig for --cluster [default: its current context]

                  --complete
                      The input is a whole cluster: report selectors of namespaces and pods that it does not contain. Assumed with --cluster, and if the input contains the namespaces `default` and `kube-system`

                  --list
                      List the checks

                  --explain <CODE>
                      Explain a code, such as NP020

                  --fix
                      Show as a diff the changes that need no decision: missing `policyTypes`, blocks in their usual form; and, as a suggestion, peers to join. The exit code is 1 if there is one

                  --write
                      With --fix, write the changes to the files. Everything else in them stays as it is, and suggestions are not written

              -o, --output <OUTPUT>
                      Output format

                      Possible values:
                      - text:   Each finding with the line that it is about, and advice
                      - short:  One line for each finding
                      - github: Commands that mark the lines in a pull request (GitHub Actions)
                      - json:   A JSON array of objects
                      - sarif:  SARIF 2.1.0, for code hosts

                      [default: text]

                  --deny <LEVEL>
                      Lowest level of findings that makes the exit code 1

                      Possible values:
                      - errors:   Parts of objects that are not in force as written
                      - warnings: Also probable mistakes
                      - infos:    Also findings that are often intended

                      [default: errors]

                  --allow <CODE>
                      Suppress findings with this code or name, such as NP031 or `no-dns`

                  --color <WHEN>
                      When to write colours

                      Possible values:
                      - auto:   On a terminal, unless `NO_COLOR` is set
                      - always: Also into a file or a pipe
                      - never:  Never

                      [default: auto]

              -h, --help
                      Print help (see a summary with '-h')

            Examples:
              helm template my-chart | netpol lint -f -
              netpol lint -f rendered/ --deny warnings -o sarif
              netpol lint -f rendered/ --fix
              netpol lint --explain NP020
        "#]],
    );
    check_help(
        "netpol simulate -h",
        &expect![[r#"
            exit code 0
            Evaluate connections without sending packets: draw the matrix of allowed connections, or evaluate cases from a file

            Usage: netpol simulate [OPTIONS] <--file <PATH>...|--cluster|--cases <FILE>>

            Options:
              -f, --file <PATH>...                     Files and directories with objects (YAML or JSON); `-` is the standard input
                  --what-if                            Show the connections that would change if the files after this option were applied: --what-if -f NEW
                  --cluster                            Read the objects of the cluster of kubectl's current context. Objects in files replace those of the cluster
                  --kubeconfig <FILE>                  Kubeconfig file for --cluster [default: the file that kubectl uses]
                  --context <NAME>                     Context of the kubeconfig for --cluster [default: its current context]
                  --matrix                             Draw the matrix. This is the default without --cases and --what-if. With --what-if, draw it with what changes in it
                  --port <PORT[/PROTOCOL]>             Destination ports, such as `80`, `53/UDP` or `http` [default: the ports that each pod declares; for changes, every port]
                  --address <IP>                       Addresses outside the cluster to add to the matrix
              -n, --namespace <NAMESPACE>              Only the pods of these namespaces
              -l, --selector <SELECTOR>                Only the pods with these labels, as for kubectl: `app=web,tier!=db`
                  --pod-cidr <CIDR>                    Networks with the addresses of the pods that have none yet, such as those of a Deployment [default: any private network]
                  --own-node-egress <OWN_NODE_EGRESS>  How connections of pods to their own node are judged, `allow` or `judge`: as the agents' option of this name [default: allow] [possible values: allow, judge]
              -o, --output <OUTPUT>                    Output format of the matrix [default: text] [possible values: text, json, csv, md, dot, mermaid, html]
                  --engine <ENGINE>                    Implementation that evaluates the connections [default: compiled] [possible values: reference, compiled]
                  --fail-on <EFFECT>                   With --what-if: exit with 1 if the changes have this effect [possible values: opens, closes, any]
                  --cases <FILE>                       Read cases from this file, one JSON object a line; `-` is the standard input. Writes one line of verdicts for each case
                  --color <WHEN>                       When to write colours [default: auto] [possible values: auto, always, never]
              -h, --help                               Print help (see more with '--help')

            Examples:
              netpol simulate -f rendered/
              netpol simulate -f rendered/ -n shop --port 6379 -o html
              netpol simulate --cluster --what-if -f changed.yaml --fail-on opens
        "#]],
    );
}

#[test]
fn a_missing_command_is_an_error_with_help() {
    let text = output("netpol", "");
    assert!(text.starts_with("exit code 2\n"), "{text}");
    assert!(text.contains("Usage: netpol [OPTIONS] <COMMAND>"), "{text}");
}

#[test]
fn commands_without_objects_name_the_options_that_give_them() {
    check(
        "netpol explain",
        &expect![[r#"
            exit code 2
            ! error: the following required arguments were not provided:
            !   --from <SOURCE>
            !   --to <DESTINATION>
            !   --port <PORT>
            !   <--file <PATH>...|--cluster>
            ! 
            ! Usage: netpol explain --from <SOURCE> --to <DESTINATION> --port <PORT> <--file <PATH>...|--cluster>
            ! 
            ! For more information, try '--help'.
        "#]],
    );
    check(
        "netpol lint",
        &expect![[r#"
            exit code 2
            ! error: the following required arguments were not provided:
            !   <--file <PATH>...|--cluster|--list|--explain <CODE>>
            ! 
            ! Usage: netpol lint <--file <PATH>...|--cluster|--list|--explain <CODE>>
            ! 
            ! For more information, try '--help'.
        "#]],
    );
    check(
        "netpol simulate",
        &expect![[r#"
        exit code 2
        ! error: the following required arguments were not provided:
        !   <--file <PATH>...|--cluster|--cases <FILE>>
        ! 
        ! Usage: netpol simulate <--file <PATH>...|--cluster|--cases <FILE>>
        ! 
        ! For more information, try '--help'.
    "#]],
    );
    check(
        "netpol simulate --cases - --cluster",
        &expect![[r#"
        exit code 2
        ! error: the argument '--cases <FILE>' cannot be used with '--cluster'
        ! 
        ! Usage: netpol simulate <--file <PATH>...|--cluster|--cases <FILE>>
        ! 
        ! For more information, try '--help'.
    "#]],
    );
}

#[test]
fn usage_lines_of_the_kubectl_plugin_begin_with_kubectl() {
    for command in ["help", "explain --help", "lint", "simulate", "nonsense"] {
        let standalone = output(&format!("netpol {command}"), "");
        let plugin = output(&format!("/usr/local/bin/kubectl-netpol {command}"), "");
        assert!(plugin.contains("Usage: kubectl netpol"), "{plugin}");
        assert!(!plugin.contains("kubectl-netpol"), "{plugin}");
        assert_eq!(plugin.replace("kubectl netpol", "netpol"), standalone);
    }
}

#[test]
fn an_agent_without_its_directory_of_manifests_does_not_start() {
    check(
        "netpol-agent run --manifests DIR/none",
        &expect![[r#"
            exit code 2
            ! netpol-agent: --manifests DIR/none: there is no such directory
        "#]],
    );
}

#[test]
fn completions_are_for_the_file_name_of_the_program() {
    let standalone = output("netpol completions bash", "");
    assert!(standalone.contains("complete -F _netpol"), "{standalone}");
    let plugin = output("kubectl-netpol completions bash", "");
    assert!(plugin.contains(" kubectl-netpol\n"), "{plugin}");
}
