//! Network configurations, as a container runtime hands them to the CNI plugin.

use netpol_cni::config::Config;

/// Reads a configuration. An answer is one of the specification's errors, or what the same text says again.
///
/// # Panics
/// If that does not hold.
pub fn check(bytes: &[u8]) {
    match Config::parse(bytes) {
        Ok(config) => {
            let again = serde_json::to_vec(&config.raw).unwrap();
            assert_eq!(Config::parse(&again).ok().as_ref(), Some(&config));
            if let Err(error) = config.valid_attachments() {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(error) => {
            assert!(error.code().0 != 0 && !error.to_string().is_empty());
        }
    }
}
