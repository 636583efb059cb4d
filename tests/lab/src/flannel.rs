//! What Flannel installs.

/// The CNI configuration in the `ConfigMap` `kube-flannel-cfg` of its kube-flannel.yml.
pub const CNI_CONF: &str = include_str!("flannel/cni-conf.json");
