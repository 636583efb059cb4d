//! The addresses of the API servers, kept on disk for the next agent.
//!
//! After a reboot the address of the API server's Service works only once kube-proxy has written its rules, for which kube-proxy
//! needs the API server. The agent then tries the addresses that it saw last. In: a file. Out: the same file, and the addresses
//! for [`Access`]. Must not: fail; without the file there is only the usual address.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netpol_kube::Access;
use tokio::time::sleep;
use tracing::{debug, warn};

use super::saved_file;

/// Time between two looks at the addresses, which change when a control-plane node comes or goes.
const INTERVAL: Duration = Duration::from_mins(10);

/// Pause after a look that failed.
const PAUSE: Duration = Duration::from_secs(30);

/// Gives the addresses of the file to the connections, and keeps both up to date.
pub(super) async fn follow(access: Access, file: PathBuf) {
    let mut known = read(&file);
    access.set_alternatives(known.clone());
    loop {
        let pause = match netpol_kube::addresses(&access.client()).await {
            Ok(addresses) => {
                if !addresses.is_empty() && addresses != known {
                    debug!(?addresses, "addresses of the API servers");
                    if let Err(error) = write(&file, &addresses) {
                        warn!(file = %file.display(), %error, "addresses of the API servers not kept");
                    }
                    access.set_alternatives(addresses.clone());
                    known = addresses;
                }
                INTERVAL
            }
            Err(error) => {
                debug!(%error, "addresses of the API servers not read");
                PAUSE
            }
        };
        sleep(pause).await;
    }
}

fn read(file: &Path) -> Vec<SocketAddr> {
    match fs::read(file).map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => {
            warn!(file = %file.display(), %error, "addresses of the API servers ignored");
            Vec::new()
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(file = %file.display(), %error, "addresses of the API servers not read");
            }
            Vec::new()
        }
    }
}

fn write(file: &Path, addresses: &[SocketAddr]) -> io::Result<()> {
    saved_file::replace(file, &serde_json::to_vec(addresses)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_and_a_spoilt_file_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("servers.json");
        assert_eq!(read(&file), []);
        let addresses: Vec<SocketAddr> =
            vec!["192.0.2.1:6443".parse().unwrap(), "[2001:db8::1]:6443".parse().unwrap()];
        write(&file, &addresses).unwrap();
        assert_eq!(read(&file), addresses);
        fs::write(&file, "[").unwrap();
        assert_eq!(read(&file), []);
    }
}
