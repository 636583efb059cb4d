//! Named network namespaces, as of `ip netns`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::interrupt;

/// The folder of `ip netns`.
pub const FOLDER: &str = "/run/netns";

/// Sysctls of every namespace of a lab. Without duplicate address detection an IPv6 address is usable at once.
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// A network namespace. It exists until [`delete`] is called with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace, with its loopback device up.
    ///
    /// # Errors
    /// `ip netns add` failed, mostly for lack of root, or a sysctl could not be set.
    pub fn create(name: &str) -> Result<Self> {
        let _change = interrupt::change();
        run_ip(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned() };
        for (key, value) in SETTINGS {
            netns.set(key, value)?;
        }
        netns.configure("link set lo up\n")?;
        Ok(netns)
    }

    /// Its name, as `ip netns exec` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs `ip` commands in it, one per line, without the leading `ip`.
    ///
    /// # Errors
    /// One of them failed: the message contains the output of `ip`.
    pub fn configure(&self, commands: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-batch", "-"]).stdin(Stdio::piped());
        ip.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = ip.spawn().context("starting ip")?;
        child.stdin.take().context("ip has no input")?.write_all(commands.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("configuring {}: ip said {}, to\n{commands}", self.name, said.trim());
        }
        Ok(())
    }

    /// Sets a sysctl, given by its path below `/proc/sys`.
    ///
    /// # Errors
    /// The sysctl does not exist or cannot be set.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.inside(|| fs::write(&path, value).with_context(|| format!("writing {key}")))
    }

    /// Runs code on a new thread that has entered the namespace. Its sockets and child processes belong to the namespace; the
    /// mount namespace, with bpffs, stays the same.
    ///
    /// # Errors
    /// The namespace is gone, or the error of the code.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter = || -> io::Result<()> {
            let file = File::open(self.path())?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(())
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter().with_context(|| format!("entering the namespace {}", self.name))?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a program in the namespace, in a process group of its own: Ctrl-C on the terminal does not reach it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let _change = interrupt::change();
        command.process_group(0);
        self.inside(|| command.spawn().with_context(|| format!("starting {command:?}")))
    }

    /// The index of a device in it.
    ///
    /// # Errors
    /// There is no such device.
    pub fn interface_index(&self, device: &str) -> Result<u32> {
        let output =
            run_ip(Command::new("ip").args(["-n", &self.name, "-o", "link", "show", device]))?;
        let index = output.split(':').next().and_then(|index| index.trim().parse().ok());
        index.with_context(|| format!("ip says no index of {device}: {output}"))
    }

    /// The kernel's counter, summed over both families, since the namespace was made.
    ///
    /// # Errors
    /// The kernel does not have this counter.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let (v4, v6) = self.inside(|| {
            let read =
                |file: &str| fs::read_to_string(Path::new("/proc/thread-self/net").join(file));
            Ok((read("snmp")?, read("snmp6")?))
        })?;
        let mut n = 0;
        for name in counter.ipv4() {
            n += ipv4_counter(&v4, name).with_context(|| format!("no counter {name:?}"))?;
        }
        for name in counter.ipv6() {
            n += ipv6_counter(&v6, name).with_context(|| format!("no counter {name}"))?;
        }
        Ok(n)
    }
}

/// The kernel counters that tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// UDP datagrams that arrived, whether or not there was a socket for them.
    UdpArrived,
    /// TCP segments that arrived.
    TcpArrived,
    /// TCP segments that were sent a second time.
    TcpSentAgain,
}

impl Counter {
    fn ipv4(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::UdpArrived => &[("Udp:", "InDatagrams"), ("Udp:", "NoPorts")],
            Self::TcpArrived => &[("Tcp:", "InSegs")], // of both families
            Self::TcpSentAgain => &[("Tcp:", "RetransSegs")],
        }
    }

    fn ipv6(self) -> &'static [&'static str] {
        match self {
            Self::UdpArrived => &["Udp6InDatagrams", "Udp6NoPorts"],
            Self::TcpArrived | Self::TcpSentAgain => &[],
        }
    }
}

/// `/proc/net/snmp` has pairs of lines: names, then values.
fn ipv4_counter(text: &str, (group, name): &(&str, &str)) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split(' ').next() == Some(*group));
    let (names, values) = (lines.next()?, lines.next()?);
    let (_, value) =
        names.split(' ').zip(values.split(' ')).find(|(candidate, _)| candidate == name)?;
    value.parse().ok()
}

/// `/proc/net/snmp6` has one name and value per line.
fn ipv6_counter(text: &str, name: &str) -> Option<u64> {
    let mut words = text.lines().map(str::split_whitespace);
    words
        .find_map(|mut words| if words.next()? == name { words.next()?.parse().ok() } else { None })
}

/// The names of the namespaces that start with `prefix`.
///
/// # Errors
/// The folder of the names is there and cannot be read.
pub fn names(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(FOLDER) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {FOLDER}"))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok().filter(|name| name.starts_with(prefix)));
    }
    Ok(names)
}

/// The processes in a namespace.
///
/// # Errors
/// `ip netns pids` failed.
pub fn processes(name: &str) -> Result<Vec<i32>> {
    let output = run_ip(Command::new("ip").args(["netns", "pids", name]))?;
    Ok(output.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Deletes a namespace's name. The namespace and its devices go when no process is in it.
///
/// # Errors
/// `ip netns delete` failed.
pub fn delete(name: &str) -> Result<()> {
    run_ip(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

fn run_ip(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_group_and_name() {
        let snmp =
            "Ip: InReceives\nIp: 9\nTcp: InSegs RetransSegs\nTcp: 7 3\nUdp: InDatagrams\nUdp: 4\n";
        assert_eq!(ipv4_counter(snmp, &("Tcp:", "RetransSegs")), Some(3));
        assert_eq!(ipv4_counter(snmp, &("Udp:", "RetransSegs")), None);
        let snmp6 = "Udp6InDatagrams                 \t5\nUdp6NoPorts                     \t6\n";
        assert_eq!(ipv6_counter(snmp6, "Udp6NoPorts"), Some(6));
        assert_eq!(ipv6_counter(snmp6, "Udp6"), None);
    }
}
