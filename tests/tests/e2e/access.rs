//! Authentication, and single requests.

use netpol_lab::cluster::Able;
use netpol_lab::watched::Watched;
use netpol_policy::model::ObjectName;

#[tokio::test]
async fn a_token_that_is_refused_is_read_again() {
    let mut watched = Watched::filled().await;
    watched.cluster.revoke_token().await.unwrap();
    watched.cluster.break_connections();
    watched.until("the refusal is reported", |w| w.errors.iter().any(|e| e.contains("401"))).await;
    watched.cluster.renew_token().await.unwrap();
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
}

#[tokio::test]
async fn a_server_with_another_authority_is_trusted_once_the_file_says_so() {
    let mut watched = Watched::filled().await;
    if watched.cluster.change_authority().await.unwrap() == Able::No {
        return;
    }
    let is_mistrust = |error: &String| error.contains("certificate");
    watched
        .until("the untrusted certificate is reported", |w| w.errors.iter().any(is_mistrust))
        .await;
    std::fs::remove_file(watched.kubeconfig.with_file_name("ca.crt")).unwrap();
    let names_file = |error: &String| error.contains("certificate") && error.contains("ca.crt");
    watched.until("the missing file is reported", |w| w.errors.iter().any(names_file)).await;
    watched.put(watched.new_pod("new", "10.0.0.3")).await;
    watched.cluster.trust_server().unwrap();
    watched.until("the new pod is there", |w| w.pod("new").is_some()).await;
    // Single requests use the current kubeconfig.
    let name = ObjectName::new(&watched.namespace, "new");
    let (pod, _) = netpol_kube::pod(&watched.access.client(), &name).await.unwrap();
    assert!(pod.is_some());
}

#[tokio::test]
async fn a_pod_can_be_asked_for_by_name() {
    let watched = Watched::filled().await;
    let client = watched.access.client();
    let name = |name| ObjectName::new(&watched.namespace, name);
    let (web, found) = netpol_kube::pod(&client, &name("web")).await.unwrap();
    assert_eq!(web.unwrap().addresses()[0].to_string(), "10.0.0.1");
    assert_eq!(found, []);
    let (none, found) = netpol_kube::pod(&client, &name("none")).await.unwrap();
    assert_eq!((none, found), (None, Vec::new()));
}
