//! `drops` of all nodes: selection, folding, following.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use expect_test::expect;
use netpol_lab::binaries;
use netpol_lab::fake_api::Executed;
use serde_json::{Value, json};

use super::{Fleet, timed};
use crate::ci::assert_valid;

fn name(pod: &str) -> Value {
    pod.split_once('/')
        .map_or(Value::Null, |(namespace, name)| json!({ "namespace": namespace, "name": name }))
}

/// A dropped connection to `pod` from `peer`.
fn record(unix_ms: u64, pod: &str, peer: &str, client_port: u16) -> Value {
    json!({
        "unix_s": unix_ms / 1000, "unix_ms": unix_ms, "pod": name(pod), "direction": "ingress", "is_dropped": true,
        "reason": "not-allowed", "protocol": "TCP", "source": "10.244.2.9", "source_port": client_port,
        "destination": "10.244.1.5", "destination_port": 6379, "peer": name(peer),
        "policies": [name("shop/redis")], "rule": null, "tier": null, "n_suppressed": 0,
    })
}

fn lines(records: &[Value]) -> String {
    records.iter().flat_map(|record| [record.to_string(), "\n".to_owned()]).collect()
}

/// Two nodes: one drops a connection of shop/web, the other packets of other pods, of both families and in audit mode.
fn fleet() -> Fleet {
    let fleet = Fleet::new(&["n1", "n2"]);
    let mut repeated: Vec<_> = (0..40)
        .map(|n| record(3_600_000 + u64::from(n), "shop/redis", "shop/web", 40_000 + n))
        .collect();
    if let Some(last) = repeated.last_mut() {
        last["n_suppressed"] = json!(17);
    }
    let first = lines(&repeated);
    let mut v6 = record(3_500_500, "ops/probe", "", 0);
    v6["direction"] = json!("egress");
    v6["source"] = json!("fd00::7");
    v6["destination"] = json!("2001:db8::1");
    v6["destination_port"] = json!(443);
    v6["reason"] = json!("denied");
    v6["rule"] = json!("ClusterNetworkPolicy no-internet egress[0]");
    v6["tier"] = json!("Admin");
    let mut audited = record(3_700_000, "shop/front", "ops/probe", 5000);
    audited["is_dropped"] = json!(false);
    audited["reason"] = json!("audited");
    let mut removed = record(3_650_000, "", "shop/web", 1);
    removed["policies"] = json!([]);
    let second = lines(&[v6, removed, audited]);
    fleet.agent("n1", move |args| {
        assert_eq!(args, ["netpol-agent", "drops", "-o", "json"]);
        Executed::output(first.clone())
    });
    fleet.agent("n2", move |_| Executed::output(second.clone()));
    fleet
}

#[test]
fn drops_of_all_nodes_are_one_table_and_repeated_ones_are_folded() {
    let fleet = fleet();
    fleet.check("netpol drops -A", &expect![[r#"
        exit code 0
        TIME           POD             DIRECTION   PEER                     PORT       REASON        POLICY                                                    COUNT   NOT-SHOWN
        00:58:20.500   ops/probe       egress      2001:db8::1              443/TCP    denied        ClusterNetworkPolicy no-internet egress[0] (Admin tier)   1       0
        01:00:00.039   shop/redis      ingress     shop/web (10.244.2.9)    6379/TCP   not-allowed   shop/redis                                                40      17
        01:00:50.000   (removed pod)   ingress     shop/web (10.244.2.9)    6379/TCP   not-allowed   -                                                         1       0
        01:01:40.000   shop/front      ingress     ops/probe (10.244.2.9)   6379/TCP   audited       shop/redis                                                1       0
    "#]]);
    fleet.check("netpol drops -A -o wide", &expect![[r#"
        exit code 0
        TIME           POD             DIRECTION   PEER                     PORT       REASON        POLICY                                                    COUNT   NOT-SHOWN   NODE   SOURCE             DESTINATION
        00:58:20.500   ops/probe       egress      2001:db8::1              443/TCP    denied        ClusterNetworkPolicy no-internet egress[0] (Admin tier)   1       0           n2     [fd00::7]:0        [2001:db8::1]:443
        01:00:00.039   shop/redis      ingress     shop/web (10.244.2.9)    6379/TCP   not-allowed   shop/redis                                                40      17          n1     10.244.2.9:40039   10.244.1.5:6379
        01:00:50.000   (removed pod)   ingress     shop/web (10.244.2.9)    6379/TCP   not-allowed   -                                                         1       0           n2     10.244.2.9:1       10.244.1.5:6379
        01:01:40.000   shop/front      ingress     ops/probe (10.244.2.9)   6379/TCP   audited       shop/redis                                                1       0           n2     10.244.2.9:5000    10.244.1.5:6379
    "#]]);
}

#[test]
fn drops_are_selected_by_pod_namespace_and_label_at_either_end() {
    let fleet = fleet();
    fleet.put_pod("shop", "web", "n2");
    fleet.check("netpol drops pod/web -n shop", &expect![[r#"
        exit code 0
        TIME           POD             DIRECTION   PEER                    PORT       REASON        POLICY       COUNT   NOT-SHOWN
        01:00:00.039   shop/redis      ingress     shop/web (10.244.2.9)   6379/TCP   not-allowed   shop/redis   40      17
        01:00:50.000   (removed pod)   ingress     shop/web (10.244.2.9)   6379/TCP   not-allowed   -            1       0
    "#]]);
    fleet.check("netpol drops -n ops", &expect![[r#"
        exit code 0
        TIME           POD          DIRECTION   PEER                     PORT       REASON    POLICY                                                    COUNT   NOT-SHOWN
        00:58:20.500   ops/probe    egress      2001:db8::1              443/TCP    denied    ClusterNetworkPolicy no-internet egress[0] (Admin tier)   1       0
        01:01:40.000   shop/front   ingress     ops/probe (10.244.2.9)   6379/TCP   audited   shop/redis                                                1       0
    "#]]);
    fleet.check("netpol drops -n shop -l app=web", &expect![[r#"
        exit code 0
        TIME           POD             DIRECTION   PEER                    PORT       REASON        POLICY       COUNT   NOT-SHOWN
        01:00:00.039   shop/redis      ingress     shop/web (10.244.2.9)   6379/TCP   not-allowed   shop/redis   40      17
        01:00:50.000   (removed pod)   ingress     shop/web (10.244.2.9)   6379/TCP   not-allowed   -            1       0
    "#]]);
    fleet.check(
        "netpol drops -n none",
        &expect![[r#"
        exit code 0
        ! netpol: no drops in namespace none; -A is all namespaces
    "#]],
    );
}

#[test]
fn drops_as_json_are_the_agents_records_with_their_node() {
    let text = fleet().output("netpol drops -A -o json");
    let json: Value = serde_json::from_str(text.strip_prefix("exit code 0\n").unwrap()).unwrap();
    assert_valid("live-drops.json", &json);
    assert_eq!(json["drops"].as_array().unwrap().len(), 43);
    assert_eq!(json["drops"][0]["node"], "n2");
    assert_eq!(json["drops"][0]["destination"], "2001:db8::1");
}

#[test]
fn since_is_the_agents_own_time() {
    let fleet = Fleet::new(&["n1"]);
    fleet.agent("n1", |args| {
        assert_eq!(args, ["netpol-agent", "drops", "--since", "90s", "-o", "json"]);
        Executed::output("")
    });
    let text = fleet.output("netpol drops -n shop --since 1m30s");
    assert_eq!(text, "exit code 0\n! netpol: no drops in namespace shop; -A is all namespaces\n");
}

/// A command that follows; its lines as they come.
struct Followed {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Lines that nobody has waited for: standard output and standard error have no order.
    others: RefCell<Vec<String>>,
}

impl Followed {
    fn start(fleet: &Fleet, args: &[&str]) -> Self {
        let mut command = Command::new(binaries::binary("kubectl-netpol").unwrap());
        command.args(args).arg("--kubeconfig").arg(fleet.folder().join("kubeconfig"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (line, lines) = mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let line = line.clone();
            std::thread::spawn(move || {
                for text in BufReader::new(stream).lines().map_while(Result::ok) {
                    drop(line.send(text));
                }
            });
        }
        Self { child, lines, others: RefCell::default() }
    }

    /// Waits for a line with this text.
    #[track_caller]
    fn expect(&self, text: &str) -> String {
        let mut others = self.others.borrow_mut();
        if let Some(place) = others.iter().position(|line| line.contains(text)) {
            return others.remove(place);
        }
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(20)) {
            if line.contains(text) {
                return line;
            }
            others.push(line);
        }
        panic!("no line with {text}: {others:#?}");
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn followed_drops_survive_a_broken_connection_and_none_is_shown_twice() {
    let fleet = Fleet::new(&["n1"]);
    let n_starts = AtomicUsize::new(0);
    fleet.agent("n1", move |args| {
        let [program, rest @ ..] = args else { panic!("no program") };
        assert_eq!(program, "netpol-agent");
        assert_eq!(rest[..5], ["drops", "--follow", "--not-shown", "--attended", "--since"]);
        let first = record(3_600_000, "shop/redis", "shop/web", 1);
        let second = record(3_700_000, "shop/redis", "shop/front", 2);
        match n_starts.fetch_add(1, Ordering::Relaxed) {
            0 => Executed::Broken { stdout: lines(&[first]) },
            _ => Executed::Hanging { stdout: lines(&[first, second]) },
        }
    });
    let followed = Followed::start(&fleet, &["drops", "-n", "shop", "-f"]);
    followed.expect("shop/web");
    followed.expect("node n1 does not answer: the connection broke off; it is asked again");
    followed.expect("node n1 answers again");
    followed.expect("shop/front");
    let again = followed.others.borrow().iter().filter(|line| line.contains("shop/web")).count();
    assert_eq!(again, 0);
}

#[test]
fn five_thousand_drops_a_second_remain_readable_and_the_rest_is_counted_at_once() {
    let fleet = Fleet::new(&["n1"]);
    let mut many: Vec<_> = (0..5_000_u16)
        .map(|n| {
            let mut record = record(3_600_000 + u64::from(n), "shop/redis", "shop/web", n);
            record["destination_port"] = json!(1000 + n % 500);
            record
        })
        .collect();
    many.push(json!({
        "unix_ms": 3_700_000, "pod": name("shop/redis"), "direction": "ingress", "is_dropped": true,
        "reason": "not-allowed", "n_not_shown": 4968,
    }));
    many.push(record(3_700_001, "shop/last", "shop/web", 1));
    let stdout = lines(&many);
    fleet.agent("n1", move |_| Executed::Hanging { stdout: stdout.clone() });
    let followed = Followed::start(&fleet, &["drops", "-n", "shop", "-f"]);
    let ((), elapsed) = timed(|| {
        followed.expect("shop/redis ingress not-allowed: 4968 more not shown");
    });
    // One tick of a second, and the start of a program of the debug profile.
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    let n_lines = followed.others.borrow().len() + followed.lines.try_iter().count();
    // On a machine under load the records arrive over more than one second.
    let n_seconds = usize::try_from(elapsed.as_secs()).unwrap() + 1;
    assert!(n_lines <= 30 * n_seconds, "{n_lines} in {elapsed:?}");
}

#[test]
fn followed_drops_as_json_are_not_folded() {
    let fleet = Fleet::new(&["n1"]);
    let stdout = lines(&[
        record(3_600_000, "shop/redis", "shop/web", 1),
        record(3_600_001, "shop/redis", "shop/web", 1),
    ]);
    fleet.agent("n1", move |_| Executed::Hanging { stdout: stdout.clone() });
    let followed = Followed::start(&fleet, &["drops", "-n", "shop", "-f", "-o", "json"]);
    for at in [3_600_000, 3_600_001] {
        let line: Value = serde_json::from_str(&followed.expect("redis")).unwrap();
        assert_eq!((&line["unix_ms"], &line["node"]), (&json!(at), &json!("n1")));
    }
}
