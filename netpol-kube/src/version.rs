//! The version of the API server, for what only newer ones protect.

use std::time::Duration;

use kube::Client;
use tokio::time::timeout;

use super::access::Error;

/// Time limit for the response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The minor version of Kubernetes, such as 30 of `v1.30.2`.
///
/// # Errors
/// [`Error::Request`] if the server cannot be reached or refuses the request, [`Error::Timeout`] if it does not respond.
pub async fn minor_version(client: &Client) -> Result<u32, Error> {
    let answer = timeout(ANSWER_TIMEOUT, client.apiserver_version()).await;
    let version = answer.map_err(|_elapsed| Error::Timeout { timeout: ANSWER_TIMEOUT })??;
    // Some providers write `30+`.
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse().unwrap_or(0))
}
