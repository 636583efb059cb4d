//! Why the kernel denied an operation: what confines this process.
//!
//! In: an error of a command. Out: the error with its likely cause and the remedy, if the kernel answered `EACCES` or `EPERM`
//! and something confines the process. Must not: change anything, or fail.

use std::error::Error;
use std::fs;
use std::io;

use netpol_datapath::PinCause;
use rustix::thread::{CapabilitySet, capabilities};

/// An error, with its likely cause if the kernel denied the operation.
pub(crate) fn explain(error: anyhow::Error) -> anyhow::Error {
    if !error.chain().any(is_denial) {
        return error;
    }
    match Confinement::of_this_process().cause() {
        Some(cause) => anyhow::anyhow!("{error:#}; likely cause: {cause}"),
        None => error,
    }
}

fn is_denial(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let errno = error.downcast_ref::<rustix::io::Errno>().map(|errno| errno.kind());
    // Shown as the error that it wraps, which is not in the chain for that reason.
    let pin = match error.downcast_ref::<PinCause>() {
        Some(PinCause::Io(error)) => Some(error.kind()),
        Some(PinCause::Map(_) | PinCause::Pin(_)) | None => None,
    };
    io.or(errno).or(pin) == Some(io::ErrorKind::PermissionDenied)
}

/// What can deny an operation to this process.
#[derive(Debug)]
struct Confinement {
    /// The label of the security module: `PROFILE (MODE)` for `AppArmor`, `USER:ROLE:TYPE:LEVEL` for `SELinux`; empty if there is none.
    label: String,
    /// The levels of the kernel's lockdown, with the one in force in brackets; empty if there is none.
    lockdown: String,
    capabilities: CapabilitySet,
    /// `/proc/self/status`.
    status: String,
    /// The user ids of this process's user namespace: start, start outside, number.
    uid_map: String,
}

/// The names of the capabilities that the containers of the manifest have.
const CAPABILITIES: [(CapabilitySet, &str); 5] = [
    (CapabilitySet::NET_ADMIN, "NET_ADMIN"),
    (CapabilitySet::SYS_ADMIN, "SYS_ADMIN"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (CapabilitySet::CHOWN, "CHOWN"),
    (CapabilitySet::FOWNER, "FOWNER"),
];

impl Confinement {
    fn of_this_process() -> Self {
        let read = |path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.trim_end_matches(['\0', '\n']).to_owned()
        };
        let apparmor = read("/proc/self/attr/apparmor/current");
        Self {
            label: if apparmor.is_empty() { read("/proc/self/attr/current") } else { apparmor },
            lockdown: read("/sys/kernel/security/lockdown"),
            capabilities: capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective),
            status: read("/proc/self/status"),
            uid_map: read("/proc/self/uid_map"),
        }
    }

    /// The likely cause, and its remedy. A security module is likelier than a capability, because the manifests grant those.
    fn cause(&self) -> Option<String> {
        self.apparmor().or_else(|| self.selinux()).or_else(|| self.rest())
    }

    fn apparmor(&self) -> Option<String> {
        let (profile, mode) = self.label.strip_suffix(')')?.rsplit_once(" (")?;
        if mode != "enforce" && mode != "kill" {
            return None;
        }
        Some(format!(
            "the AppArmor profile {profile} confines this process: set appArmorProfile: {{type: Unconfined}} in the \
             container's securityContext, or before Kubernetes 1.30 use deploy/components/pre-1.30"
        ))
    }

    fn selinux(&self) -> Option<String> {
        let mut parts = self.label.split(':');
        let (_user, _role, label_type) = (parts.next()?, parts.next()?, parts.next()?);
        if label_type.contains("unconfined") || label_type == "spc_t" {
            return None;
        }
        Some(format!(
            "SELinux confines this process to the type {label_type}: set seLinuxOptions: {{type: spc_t}} in the container's \
             securityContext"
        ))
    }

    fn rest(&self) -> Option<String> {
        let mut words = self.uid_map.split_whitespace();
        let is_whole = words.next() == Some("0") && words.next() == Some("0");
        if !self.uid_map.is_empty() && !is_whole {
            return Some("the process is in a user namespace: remove hostUsers: false".to_owned());
        }
        let missing: Vec<_> = CAPABILITIES
            .into_iter()
            .filter(|(capability, _)| !self.capabilities.contains(*capability))
            .map(|(_, name)| name)
            .collect();
        // Each container of the manifest lacks some of them.
        let is_agent = self.capabilities.contains(CapabilitySet::SYS_ADMIN);
        let is_cni = self.capabilities.contains(CapabilitySet::DAC_OVERRIDE);
        if !is_agent && !is_cni {
            let missing = missing.join(", ");
            return Some(format!("the process lacks capabilities: it has none of {missing}"));
        }
        let in_force = self.lockdown.split('[').nth(1).and_then(|rest| rest.split(']').next());
        if let Some(level @ ("integrity" | "confidentiality")) = in_force {
            return Some(format!("the kernel is locked down (lockdown={level})"));
        }
        let seccomp = self.status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        if seccomp.map(str::trim) == Some("2") {
            return Some(
                "a seccomp filter denies the system call: set seccompProfile: {type: Unconfined} in the container's \
                 securityContext"
                    .to_owned(),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> Confinement {
        Confinement {
            label: "unconfined".to_owned(),
            lockdown: "[none] integrity confidentiality".to_owned(),
            capabilities: CapabilitySet::all(),
            status: "Name:\tnetpol-agent\nSeccomp:\t0\n".to_owned(),
            uid_map: "         0          0 4294967295".to_owned(),
        }
    }

    #[track_caller]
    fn check(confinement: &Confinement, expected: &str) {
        let cause = confinement.cause().unwrap_or_default();
        assert!(cause.starts_with(expected), "{cause}");
        assert_eq!(cause.is_empty(), expected.is_empty(), "{cause}");
    }

    #[test]
    fn what_confines_the_process_is_named_with_its_remedy() {
        check(&free(), "");
        let label = |label: &str| Confinement { label: label.to_owned(), ..free() };
        check(
            &label("cri-containerd.apparmor.d (enforce)"),
            "the AppArmor profile cri-containerd.apparmor.d confines this process: set appArmorProfile",
        );
        check(&label("netpol (complain)"), "");
        check(
            &label("system_u:system_r:container_t:s0:c87,c219"),
            "SELinux confines this process to the type container_t: set seLinuxOptions: {type: spc_t}",
        );
        check(&label("system_u:system_r:spc_t:s0"), "");
        check(&label("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"), "");
        check(&label(""), "");
        let lockdown = "none integrity [confidentiality]".to_owned();
        check(&Confinement { lockdown, ..free() }, "the kernel is locked down (lockdown=confid");
        let capabilities = CapabilitySet::NET_RAW;
        check(&Confinement { capabilities, ..free() }, "the process lacks capabilities");
        for enough in [
            CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN,
            CapabilitySet::DAC_OVERRIDE | CapabilitySet::CHOWN | CapabilitySet::FOWNER,
        ] {
            check(&Confinement { capabilities: enough, ..free() }, "");
        }
        let status = "Seccomp:\t2\n".to_owned();
        check(&Confinement { status, ..free() }, "a seccomp filter denies the system call");
        let uid_map = "0 100000 65536".to_owned();
        check(&Confinement { uid_map, ..free() }, "the process is in a user namespace");
    }

    #[test]
    fn only_denials_are_explained() {
        let denied = anyhow::Error::new(io::Error::from_raw_os_error(13)).context("writing a");
        assert!(denied.chain().any(is_denial));
        let denied = anyhow::Error::new(rustix::io::Errno::PERM).context("locking a");
        assert!(denied.chain().any(is_denial));
        let source = PinCause::Io(io::Error::from_raw_os_error(13));
        let pin = netpol_datapath::Error::Pin { path: "/sys/fs/bpf/netpol".into(), source };
        assert!(anyhow::Error::new(pin).chain().any(is_denial));
        let missing = anyhow::Error::new(io::Error::from_raw_os_error(2)).context("reading a");
        assert!(!missing.chain().any(is_denial));
        assert_eq!(
            format!("{:#}", explain(missing)),
            "reading a: No such file or directory (os error 2)"
        );
    }
}
