//! Metrics of the agent's own process, under the names that Prometheus' client libraries share.
//!
//! In: files of `/proc`. Out: values for a scrape. A value that the kernel does not give is missing.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// What the kernel says of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnProcess {
    cpu_s: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    n_threads: u64,
    start_unix_s: f64,
    n_open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl OwnProcess {
    /// Reads the values; `None` without `/proc`.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot_unix_s = fs::read_to_string("/proc/stat").ok()?;
        let boot_unix_s = boot_unix_s.lines().find_map(|line| line.strip_prefix("btime "));
        let n_open_fds = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        Some(Self {
            n_open_fds: n_open_fds.and_then(|n| n.try_into().ok()),
            max_fds: getrlimit(Resource::Nofile).current,
            ..Self::parse(&stat, boot_unix_s?.trim().parse().ok()?)?
        })
    }

    /// The values of a line of `/proc/PID/stat`. The name before them is in brackets and may have any characters.
    fn parse(stat: &str, boot_unix_s: f64) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // proc(5) counts from 1 and names two fields before these.
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
        let seconds = |number| Some(to_f64(field(number)?) / to_f64(clock_ticks_per_second()));
        Some(Self {
            cpu_s: seconds(14)? + seconds(15)?,
            n_threads: field(20)?,
            start_unix_s: boot_unix_s + seconds(22)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(u64::try_from(page_size()).ok()?),
            n_open_fds: None,
            max_fds: None,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "no number of ticks reaches 2^53")]
const fn to_f64(n: u64) -> f64 {
    n as f64
}

impl Collector for OwnProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self {
            cpu_s,
            resident_bytes,
            virtual_bytes,
            n_threads,
            start_unix_s,
            n_open_fds,
            max_fds,
        } = *self;
        let help = "Processor time of the agent, of the user and the system, in seconds";
        let family =
            encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(cpu_s).encode(family)?;
        let help = "Start of the agent, in seconds since 1970";
        let family = encoder.encode_descriptor(
            "process_start_time_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(start_unix_s).encode(family)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory of the agent", Some(resident_bytes)),
            ("process_virtual_memory_bytes", "Virtual memory of the agent", Some(virtual_bytes)),
            ("process_threads", "Threads of the agent", Some(n_threads)),
            ("process_open_fds", "Open file descriptors of the agent", n_open_fds),
            ("process_max_fds", "Largest possible number of open file descriptors", max_fds),
        ] {
            if let Some(value) = value {
                let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(family)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_even_if_the_name_looks_like_fields() {
        let ticks = clock_ticks_per_second();
        let line = format!(
            "7 (a) b) S 1 1 1 0 -1 4194560 9 0 0 0 {} {} 0 0 20 0 3 0 {} 4096 2 18446744073709551615",
            3 * ticks,
            ticks / 2,
            10 * ticks
        );
        let found = OwnProcess::parse(&line, 1000.0).unwrap();
        let expected = OwnProcess {
            cpu_s: 3.5,
            n_threads: 3,
            start_unix_s: 1010.0,
            virtual_bytes: 4096,
            resident_bytes: 2 * u64::try_from(page_size()).unwrap(),
            ..OwnProcess::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let found = OwnProcess::read().unwrap();
        assert!(found.resident_bytes > 1 << 20 && found.n_threads > 0, "{found:?}");
        assert!(found.n_open_fds > Some(2) && found.max_fds > found.n_open_fds, "{found:?}");
        assert!(found.start_unix_s > 1_600_000_000.0, "{found:?}");
    }
}
