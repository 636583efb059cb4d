//! Requests as browsers, scripts and pages of other sites send them.

use std::path::PathBuf;

use http::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};
use serde_json::{Value, json};

use super::*;
use crate::ui::model::Options;
use crate::ui::source::Source;

/// Two pods of each family, a policy in audit mode, and a ClusterNetworkPolicy.
const OBJECTS: &str = r"
{ apiVersion: apps/v1, kind: Deployment, metadata: { name: web, namespace: shop },
  spec: { template: { metadata: { labels: { app: web } }, spec: { containers: [{ name: c, ports: [{ containerPort: 80 }] }] } } } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: db-0, namespace: shop, labels: { app: db } },
  spec: { containers: [{ name: c, ports: [{ containerPort: 5432 }] }] }, status: { phase: Running, podIPs: [{ ip: 10.0.0.2 }, { ip: 'fd00::2' }] } }
---
{ apiVersion: v1, kind: Pod, metadata: { name: probe, namespace: ops, labels: { app: probe } },
  spec: { containers: [{ name: c }] }, status: { phase: Running, podIPs: [{ ip: 10.0.0.3 }, { ip: 'fd00::3' }] } }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  podSelector: { matchLabels: { app: db } }
  ingress:
  - from: [{ ipBlock: { cidr: 10.0.0.0/24 } }]
    ports: [{ port: 5432 }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: shop, annotations: { netpol/mode: audit } }
spec: { podSelector: { matchLabels: { app: web } } }
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: no-probes }
spec:
  tier: Admin
  priority: 10
  subject: { pods: { namespaceSelector: {}, podSelector: { matchLabels: { app: probe } } } }
  ingress: [{ action: Deny, from: [{ namespaces: {} }] }]
";

const HOSTNAME: &str = "127.0.0.1:4711";

struct Fixture {
    shared: Shared,
    folder: PathBuf,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// What a response is.
struct Got {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Fixture {
    async fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("netpol-ui-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("objects.yaml"), OBJECTS).unwrap();
        let worker =
            Worker::start(Source::Files(vec![folder.clone()]), Options::default()).unwrap();
        worker.ask(|model| model.load().unwrap()).await.unwrap();
        let server = Server::new(HOSTNAME.parse().unwrap(), worker, None).unwrap();
        let shared = Arc::into_inner(server.shared).unwrap();
        Self { shared, folder }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: &str,
    ) -> Got {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let (head, body) = respond(&self.shared, request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Got { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Exchanges the token for the cookie.
    async fn enter(&self) -> String {
        let url = self.shared.guard.url();
        let path = url.strip_prefix("http://127.0.0.1:4711").unwrap();
        let got = self.send("GET", path, &[(HOST, HOSTNAME)], "").await;
        assert_eq!(got.status, 200);
        let cookie = got.headers.get(SET_COOKIE).unwrap().to_str().unwrap();
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    async fn get(&self, cookie: &str, path: &str) -> Got {
        self.send("GET", path, &[(HOST, HOSTNAME), (COOKIE, cookie)], "").await
    }

    async fn ask(&self, cookie: &str, path: &str, question: &Value) -> Got {
        let question = question.to_string();
        let set = percent_encoding::NON_ALPHANUMERIC;
        let question = percent_encoding::utf8_percent_encode(&question, set);
        self.get(cookie, &format!("{path}?q={question}")).await
    }

    async fn what_if(&self, cookie: &str, body: &str) -> Got {
        let headers = [(HOST, HOSTNAME), (COOKIE, cookie), (ORIGIN, "http://127.0.0.1:4711")];
        self.send("POST", "/api/what-if", &headers, body).await
    }
}

#[tokio::test]
async fn the_token_works_once_and_without_it_nothing_is_answered() {
    let fixture = Fixture::new("token").await;
    for path in
        ["/", "/main.js", "/style.css", "/api/overview", "/api/drops", "/?token=", "/?token=0"]
    {
        let got = fixture.get("", path).await;
        assert_eq!(got.status, 401, "{path}");
        assert!(got.body.starts_with("open the address that `netpol ui` has printed"));
    }
    let url = fixture.shared.guard.url();
    let path = url.strip_prefix("http://127.0.0.1:4711").unwrap().to_owned();
    assert_eq!(path.len(), "/?token=".len() + 64);
    let cookie = fixture.enter().await;
    assert_eq!(fixture.get(&cookie, &path).await.status, 401, "used");
    assert_eq!(fixture.shared.guard.url(), "http://127.0.0.1:4711/");
    assert_eq!(fixture.get(&cookie, "/").await.status, 200);
    assert_eq!(fixture.get(&format!("a=b; {cookie}"), "/").await.status, 200);
    let (name, _) = cookie.split_once('=').unwrap();
    assert_eq!(name, "netpol-ui-4711");
    for wrong in
        [format!("{name}="), format!("{name}={}", "0".repeat(64)), cookie.replace("4711", "4712")]
    {
        assert_eq!(fixture.get(&wrong, "/").await.status, 401, "{wrong}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_this_machine_is_no_name_of_the_server() {
    let fixture = Fixture::new("host").await;
    let cookie = fixture.enter().await;
    for host in ["127.0.0.1:4711", "localhost:4711", "LOCALHOST:4711"] {
        let got = fixture.send("GET", "/", &[(HOST, host), (COOKIE, &cookie)], "").await;
        assert_eq!(got.status, 200, "{host}");
    }
    for host in
        ["evil.example:4711", "127.0.0.1", "127.0.0.1:80", "localhost.evil.example:4711", ""]
    {
        let got = fixture.send("GET", "/", &[(HOST, host), (COOKIE, &cookie)], "").await;
        assert_eq!(got.status, 421, "{host}");
    }
    let twice = [(HOST, HOSTNAME), (HOST, "evil.example"), (COOKIE, cookie.as_str())];
    assert_eq!(fixture.send("GET", "/", &twice, "").await.status, 421);
    assert_eq!(fixture.send("GET", "/", &[(COOKIE, &cookie)], "").await.status, 421);
    let url = fixture.shared.guard.url();
    let path = url.strip_prefix("http://127.0.0.1:4711").unwrap();
    assert_eq!(fixture.send("GET", path, &[(HOST, "evil.example:4711")], "").await.status, 421);
}

#[tokio::test]
async fn pages_of_other_origins_ask_nothing() {
    let fixture = Fixture::new("origin").await;
    let cookie = fixture.enter().await;
    let known = [(HOST, HOSTNAME), (COOKIE, cookie.as_str())];
    let fetch_site = HeaderName::from_static("sec-fetch-site");
    for origin in ["http://evil.example", "https://127.0.0.1:4711", "http://127.0.0.1:80", "null"] {
        let headers = [known[0].clone(), known[1].clone(), (ORIGIN, origin)];
        assert_eq!(
            fixture.send("GET", "/api/overview", &headers, "").await.status,
            403,
            "{origin}"
        );
        assert_eq!(
            fixture.send("POST", "/api/what-if", &headers, "{}").await.status,
            403,
            "{origin}"
        );
    }
    for (site, expected) in
        [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)]
    {
        let headers = [known[0].clone(), known[1].clone(), (fetch_site.clone(), site)];
        assert_eq!(fixture.send("GET", "/", &headers, "").await.status, expected, "{site}");
    }
    let without = fixture.send("POST", "/api/what-if", &known, r#"{"text":""}"#).await;
    assert_eq!(without.status, 403, "a browser sends Origin with every POST");
    assert_eq!(fixture.what_if(&cookie, r#"{"text":""}"#).await.status, 200);
}

#[tokio::test]
async fn every_response_forbids_foreign_content_frames_and_copies() {
    let fixture = Fixture::new("headers").await;
    let cookie = fixture.enter().await;
    for path in ["/", "/style.css", "/main.js", "/api/overview", "/nowhere", "/?token=0"] {
        let got = fixture.get(&cookie, path).await;
        let header = |name: &str| got.headers.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            header("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
    }
}

#[test]
fn the_page_has_no_script_or_style_in_its_text_and_loads_nothing_from_elsewhere() {
    for Asset { path, text, .. } in ASSETS.iter().chain([&ENTRANCE]) {
        for foreign in [
            "://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "javascript:",
        ] {
            // The namespace of SVG is a name.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(foreign), "{path}: {foreign}");
        }
        if !text.contains("import ") {
            for inline in ["<style", " style=", " onclick", " onload", "<script>"] {
                assert!(!text.contains(inline), "{path}: {inline}");
            }
        }
    }
}

#[tokio::test]
async fn only_get_and_a_post_of_limited_size_are_answered() {
    let fixture = Fixture::new("methods").await;
    let cookie = fixture.enter().await;
    let headers = [(HOST, HOSTNAME), (COOKIE, cookie.as_str()), (ORIGIN, "http://127.0.0.1:4711")];
    for (method, path) in [
        ("POST", "/"),
        ("POST", "/api/overview"),
        ("PUT", "/api/what-if"),
        ("DELETE", "/api/policy"),
        ("GET", "/api/what-if"),
        ("OPTIONS", "/"),
    ] {
        assert_eq!(fixture.send(method, path, &headers, "").await.status, 405, "{method} {path}");
    }
    let large = json!({ "text": "#".repeat(MAX_BODY) }).to_string();
    assert_eq!(fixture.what_if(&cookie, &large).await.status, 413);
    assert_eq!(fixture.what_if(&cookie, "{").await.status, 400);
    assert_eq!(fixture.get(&cookie, "/api/explain").await.status, 400);
    assert_eq!(fixture.get(&cookie, "/api/drops").await.status, 404, "files have none");
    assert_eq!(fixture.get(&cookie, "/../Cargo.toml").await.status, 404);
}

/// The verdicts of a pair, in words.
fn pair(overview: &Value, from: &str, to: &str) -> String {
    let rows = overview["rows"].as_array().unwrap();
    let at = |name: &str| rows.iter().position(|row| row["title"] == name).unwrap();
    let pattern = overview["cells"][at(from)][at(to)].as_u64().unwrap();
    let pattern = &overview["patterns"][usize::try_from(pattern).unwrap()];
    let verdicts = pattern.as_array().unwrap().iter().map(|verdict| {
        let part = |name: &str| {
            verdict[name].as_str().map(|value| format!(" {name}={value}")).unwrap_or_default()
        };
        let protocol = verdict["protocol"].as_str().unwrap_or("any");
        let ports = format!("{}-{}/{protocol}", verdict["first"], verdict["last"]);
        format!("{ports}{}{}{}", part("answer"), part("before"), part("enforced"))
    });
    verdicts.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn the_matrix_has_workloads_both_families_audit_and_undeclared_ports() {
    let fixture = Fixture::new("matrix").await;
    let cookie = fixture.enter().await;
    let overview = fixture.get(&cookie, "/api/overview").await.json();
    for (from, to, expected) in [
        ("ops/probe", "shop/db-0", "5432-5432/TCP answer=ipv4"),
        ("ops/probe", "shop/deploy/web", "80-80/TCP answer=allow enforced=deny"),
        ("shop/db-0", "ops/probe", "1-65535/any answer=deny"),
        ("shop/db-0", "shop/db-0", ""),
    ] {
        assert_eq!(pair(&overview, from, to), expected, "{from} {to}");
    }
    let tiers: Vec<_> =
        overview["policies"].as_array().unwrap().iter().map(|policy| &policy["tier"]).collect();
    assert_eq!(tiers, ["Admin", "NetworkPolicy", "NetworkPolicy"]);
    assert_eq!(overview["policies"][2]["is_audited"], true);
    assert_eq!(overview["n_pods"], 3);
}

#[tokio::test]
async fn a_connection_is_explained_as_the_command_does_for_each_family_with_its_own_verdict() {
    let fixture = Fixture::new("explain").await;
    let cookie = fixture.enter().await;
    let view = fixture.get(&cookie, "/api/overview").await.json()["view"].clone();
    let question = json!({ "view": view, "from": "ops/probe", "to": "shop/db-0", "port": "5432", "protocol": "TCP" });
    let explained = fixture.ask(&cookie, "/api/explain", &question).await.json();
    let [v4, v6] = explained["connections"].as_array().unwrap().as_slice() else {
        panic!("{explained}")
    };
    assert_eq!((&v4["verdict"], &v6["verdict"]), (&json!("allowed"), &json!("denied")));
    assert!(v6["text"].as_str().unwrap().contains("fd00::3 -> [fd00::2]:5432"), "{v6}");
    assert_eq!(v4["policies"][0]["rule"], "ingress[0]");
    assert_eq!(v4["policies"][0]["is_deciding"], true);
    let denied = json!({ "view": view, "from": "shop/deploy/web", "to": "ops/probe", "port": "80", "protocol": "TCP" });
    let explained = fixture.ask(&cookie, "/api/explain", &denied).await.json();
    let policy = &explained["connections"][0]["policies"][0];
    assert_eq!(
        (&policy["kind"], &policy["effect"]),
        (&json!("ClusterNetworkPolicy"), &json!("denies"))
    );
    for (wrong, name) in [("nobody", "from"), ("999999", "port"), ("ICMP", "protocol")] {
        let mut question = denied.clone();
        question[name] = json!(wrong);
        assert_eq!(fixture.ask(&cookie, "/api/explain", &question).await.status, 400, "{wrong}");
    }
    let old = json!({ "view": 999, "from": "a/b", "to": "a/c", "port": "1", "protocol": "TCP" });
    assert!(fixture.ask(&cookie, "/api/explain", &old).await.body.contains("reload"));
}

#[tokio::test]
async fn an_edited_policy_changes_cells_and_its_mistakes_have_lines() {
    let fixture = Fixture::new("what-if").await;
    let cookie = fixture.enter().await;
    let name = json!({ "kind": "NetworkPolicy", "namespace": "shop", "name": "db" });
    let policy = fixture.ask(&cookie, "/api/policy", &name).await.json();
    let text = policy["text"].as_str().unwrap();
    assert!(
        text.starts_with(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: db"
        ),
        "{text}"
    );
    assert_eq!(policy["rules"], json!([["ingress[0]", 7]]));
    let edited = json!({ "text": text.replace("10.0.0.0/24", "10.0.1.0/24") });
    let what_if = fixture.what_if(&cookie, &edited.to_string()).await.json();
    let overview = &what_if["overview"];
    assert_eq!(pair(overview, "ops/probe", "shop/db-0"), "5432-5432/TCP answer=deny before=ipv4");
    assert_eq!(overview["changes"]["n_closed"], 1);
    assert!(
        overview["changes"]["text"]
            .as_str()
            .unwrap()
            .starts_with("- ops/probe -> shop/db-0: 5432/TCP")
    );
    let deleted = json!({ "text": "", "deleted": name });
    let what_if = fixture.what_if(&cookie, &deleted.to_string()).await.json();
    assert_eq!(
        pair(&what_if["overview"], "ops/probe", "shop/db-0"),
        "5432-5432/TCP answer=allow before=ipv4"
    );
    let broken = json!({ "text": text.replace("cidr: 10.0.0.0/24", "cidr: 10.0.0.0/240") });
    let what_if = fixture.what_if(&cookie, &broken.to_string()).await.json();
    // The agent isolates the pods, and an API server refuses the policy.
    assert_eq!(
        pair(&what_if["overview"], "ops/probe", "shop/db-0"),
        "5432-5432/TCP answer=deny before=ipv4"
    );
    assert_eq!(what_if["findings"][0]["line"], 7);
    assert_eq!(what_if["findings"][0]["level"], "error");
    let what_if = fixture.what_if(&cookie, r#"{"text":"a: ["}"#).await.json();
    assert_eq!((&what_if["overview"], &what_if["findings"][0]["line"]), (&Value::Null, &json!(1)));
    let base = fixture.get(&cookie, "/api/overview").await.json();
    assert_eq!(
        pair(&base, "ops/probe", "shop/db-0"),
        "5432-5432/TCP answer=ipv4",
        "nothing is applied"
    );
}

#[tokio::test]
async fn changed_files_are_read_again_when_the_page_asks() {
    let fixture = Fixture::new("again").await;
    let cookie = fixture.enter().await;
    let file = fixture.folder.join("more.yaml");
    let pod = "{ apiVersion: v1, kind: Pod, metadata: { name: new, namespace: ops } }";
    std::fs::write(file, pod).unwrap();
    assert_eq!(fixture.get(&cookie, "/api/overview").await.json()["n_pods"], 3);
    assert_eq!(fixture.get(&cookie, "/api/overview?again").await.json()["n_pods"], 4);
}
