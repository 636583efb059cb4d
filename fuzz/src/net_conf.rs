//! Network configurations, as the CNI plugin gets them from a container runtime.

use netpol_cni::config::Config;

/// Parses a configuration. The result must be an error of the specification, or equal to that of parsing its serialised form.
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
