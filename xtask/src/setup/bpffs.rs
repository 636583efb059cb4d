//! bpffs on `/sys/fs/bpf`, for pinned maps and links.

use std::fs;

use crate::{privilege::Privilege, shell, term};

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Mounts bpffs unless it is mounted. Only warns on failure, because building does not need it, and tests that do report it
/// themselves.
pub(super) fn ensure(privilege: Privilege) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if is_mounted(&mounts) {
        return;
    }
    let by_hand = format!("mount -t bpf bpf {MOUNT_POINT}");
    let mounted = match privilege.command("mount") {
        Some(mut mount) => shell::step(
            &format!("mounting bpffs on {MOUNT_POINT}"),
            mount.args(["-t", "bpf", "bpf", MOUNT_POINT]),
        ),
        None => Err(anyhow::anyhow!("it needs root")),
    };
    if let Err(error) = mounted {
        term::warning(&format!(
            "bpffs is not mounted ({error:#}); tests of the datapath need `{by_hand}`"
        ));
    }
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some(MOUNT_POINT), Some("bpf"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_found_among_the_mounts() {
        assert!(is_mounted("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"));
        assert!(!is_mounted("sysfs /sys sysfs rw 0 0\nbpf /run/other bpf rw 0 0\n"));
    }
}
