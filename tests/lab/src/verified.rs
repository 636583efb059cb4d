//! The programs' costs according to the kernel's verifier, compared with `netpol-ebpf/verified.txt`.
//!
//! In: the programs, which are loaded here. Out: a table, and the differences. Each kernel series has a table of its own, because
//! verifiers differ. On series without a table only the limit applies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use netpol_datapath::{Config, Datapath, Trace, Verified};

use crate::repository;

/// Half of the kernel's limit, because other kernels may need more instructions.
pub const MAX_VERIFIED: u32 = 500_000;

/// Tolerated growth, percent. The compiler is pinned, but stable releases of a kernel series prune and inline slightly
/// differently.
const TOLERANCE_PERCENT: u32 = 5;

/// Stands for a number that the kernel does not report.
const UNKNOWN: &str = "-";

const HEADER: &str = "\
# What each program costs, on the kernel series of the first column: instructions that the verifier walked (before Linux 5.16
# it does not say), instructions that are left, bytes of machine code. Written by `cargo xtask verify --update` and `cargo
# xtask vm --update`, compared by `cargo xtask verify` and the datapath tests.
";

/// The costs of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Instructions that the verifier processed, over all paths. `None` before Linux 5.16.
    pub n_verified: Option<u32>,
    /// Instructions of the translated program and its functions.
    pub n_translated: u32,
    /// Size of the machine code, bytes.
    pub len_jited_bytes: u32,
}

/// The costs of all programs on one kernel series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Kernel version without patch level, with the processor if that is not x86-64, and `-no-btf` for a kernel without BTF.
    pub series: String,
    /// The costs, by the program's name.
    pub by_program: BTreeMap<String, Cost>,
}

/// The tables of several kernel series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The tables, by series.
    pub by_series: BTreeMap<String, Table>,
}

/// How a table compares with the committed one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Costs above the limits.
    pub excesses: Vec<String>,
    /// Costs that fell, or cannot be compared: reasons to update the table.
    pub notes: Vec<String>,
}

/// Loads the programs, without tracing, and reads their costs.
///
/// # Errors
/// They cannot be loaded, or this kernel does not report costs.
pub fn measure() -> Result<Table> {
    let mut datapath = Datapath::load(&Config { trace: Trace::Off, ..Config::private() })?;
    let costs = datapath.verified()?.into_iter().map(|verified| {
        let Verified { program, n_verified, n_translated, len_jited_bytes } = verified;
        let unknown = || format!("the kernel reports no costs of {}", program.name());
        let cost =
            Cost { n_verified, n_translated: n_translated.with_context(unknown)?, len_jited_bytes };
        Ok((program.name().to_owned(), cost))
    });
    Ok(Table { series: this_series(), by_program: costs.collect::<Result<_>>()? })
}

/// Path of the committed table.
pub fn file() -> PathBuf {
    repository::path("netpol-ebpf/verified.txt")
}

/// The committed tables, as they were when this was compiled.
///
/// # Errors
/// It is not a table.
pub fn committed() -> Result<Tables> {
    Tables::parse(include_str!("../../../netpol-ebpf/verified.txt"))
        .context("reading netpol-ebpf/verified.txt")
}

fn this_series() -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let has_btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    series_of(&release, std::env::consts::ARCH, if has_btf { Btf::Present } else { Btf::Absent })
}

/// Whether the kernel has BTF of its own, without which global functions become static ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Btf {
    Present,
    Absent,
}

/// Kernels of a series have the same verifier, but another processor has other machine code, and without BTF the programs differ.
fn series_of(release: &str, arch: &str, btf: Btf) -> String {
    let mut series = release.split('.').take(2).collect::<Vec<_>>().join(".");
    if arch != "x86_64" {
        series = format!("{series}-{arch}");
    }
    match btf {
        Btf::Present => series,
        Btf::Absent => series + "-no-btf",
    }
}

impl Tables {
    /// Reads lines `series program verified translated jited`.
    ///
    /// # Errors
    /// A line is something else.
    pub fn parse(text: &str) -> Result<Self> {
        let mut tables = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [of_kernel, program, numbers @ ..] = words.as_slice() else {
                anyhow::bail!("no kernel and program in {line:?}")
            };
            let parse = |number: &str| {
                number.parse::<u32>().with_context(|| format!("no number in {line:?}"))
            };
            let [n_verified, n_translated, len_jited_bytes] = numbers else {
                anyhow::bail!("not three numbers in {line:?}")
            };
            let cost = Cost {
                n_verified: if *n_verified == UNKNOWN { None } else { Some(parse(n_verified)?) },
                n_translated: parse(n_translated)?,
                len_jited_bytes: parse(len_jited_bytes)?,
            };
            let series = (*of_kernel).to_owned();
            let table = tables.by_series.entry(series.clone());
            let table = table.or_insert(Table { series, by_program: BTreeMap::new() });
            table.by_program.insert((*program).to_owned(), cost);
        }
        ensure!(!tables.by_series.is_empty(), "the table is empty");
        Ok(tables)
    }

    /// Adds a table, or replaces that of the same series.
    pub fn set(&mut self, table: Table) {
        self.by_series.insert(table.series.clone(), table);
    }

    /// The tables as they are committed.
    pub fn to_text(&self) -> String {
        self.by_series.values().fold(HEADER.to_owned(), |text, table| text + &table.to_text())
    }
}

impl Table {
    /// The lines of this table.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (program, cost) in &self.by_program {
            let Cost { n_verified, n_translated, len_jited_bytes } = cost;
            let n_verified = n_verified.map_or_else(|| UNKNOWN.to_owned(), |n| n.to_string());
            // Writing to a string cannot fail.
            let _written = writeln!(
                text,
                "{:<6} {program:<18} {n_verified:>7} {n_translated:>6} {len_jited_bytes:>7}",
                self.series
            );
        }
        text
    }

    /// Compares with the committed table of the same series, and with the limit for all kernels.
    pub fn compare(&self, committed: &Tables) -> Comparison {
        let mut comparison = Comparison::default();
        for (program, cost) in &self.by_program {
            if let Some(n_verified) = cost.n_verified.filter(|number| *number > MAX_VERIFIED) {
                comparison.excesses.push(format!(
                    "{program}: the verifier walks {n_verified} instructions, more than {MAX_VERIFIED}"
                ));
            }
        }
        let Some(committed) = committed.by_series.get(&self.series) else {
            comparison.notes.push(format!("there is no table for kernel {}", self.series));
            return comparison;
        };
        for (program, cost) in &self.by_program {
            let Some(known) = committed.by_program.get(program) else {
                comparison.excesses.push(format!("{program} is not in the table"));
                continue;
            };
            for (what, now, before) in [
                (
                    "instructions walked by the verifier",
                    cost.n_verified.unwrap_or(0),
                    known.n_verified.unwrap_or(0),
                ),
                ("instructions", cost.n_translated, known.n_translated),
                ("bytes of machine code", cost.len_jited_bytes, known.len_jited_bytes),
            ] {
                let margin = before / 100 * TOLERANCE_PERCENT + TOLERANCE_PERCENT;
                let said = || format!("{program}: {now} {what}, {before} in the table");
                if now > before.saturating_add(margin) {
                    comparison.excesses.push(said());
                } else if now < before.saturating_sub(margin) {
                    comparison.notes.push(said());
                }
            }
        }
        comparison
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(series: &str, n_verified: u32) -> Table {
        let cost = Cost { n_verified: Some(n_verified), n_translated: 2000, len_jited_bytes: 9000 };
        let by_program = BTreeMap::from([("pod_ingress".to_owned(), cost)]);
        Table { series: series.to_owned(), by_program }
    }

    fn tables(list: impl IntoIterator<Item = Table>) -> Tables {
        let mut tables = Tables::default();
        list.into_iter().for_each(|table| tables.set(table));
        tables
    }

    #[test]
    fn tables_are_read_as_they_are_written() {
        let mut older = table("5.10", 1);
        older.by_program.values_mut().for_each(|cost| cost.n_verified = None);
        let tables = tables([table("6.18", 40_000), table("6.1", 50_000), older]);
        let text = tables.to_text();
        assert_eq!(Tables::parse(&text).unwrap(), tables);
        let mut sorted: Vec<_> = text.lines().collect();
        sorted[3..].sort_unstable();
        assert!(text.lines().eq(sorted));
        for text in ["", "6.18 pod_ingress 1 2\n", "6.18 pod_ingress 1 2 x\n"] {
            assert!(Tables::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn another_processor_and_a_kernel_without_btf_have_tables_of_their_own() {
        assert_eq!(series_of("6.12.5+deb13-amd64", "x86_64", Btf::Present), "6.12");
        assert_eq!(series_of("6.12.5+deb13-arm64-16k", "aarch64", Btf::Present), "6.12-aarch64");
        assert_eq!(series_of("6.12.5-no-btf", "x86_64", Btf::Absent), "6.12-no-btf");
    }

    #[test]
    fn growth_beyond_the_tolerance_is_an_excess_and_a_fall_is_a_note() {
        let committed = tables([table("6.18", 40_000)]);
        assert_eq!(table("6.18", 41_900).compare(&committed), Comparison::default());
        assert_eq!(table("6.18", 43_000).compare(&committed).excesses.len(), 1);
        let cheaper = table("6.18", 30_000).compare(&committed);
        assert_eq!((cheaper.excesses.len(), cheaper.notes.len()), (0, 1));
    }

    #[test]
    fn on_another_kernel_only_the_limit_counts() {
        let committed = tables([table("6.18", 40_000)]);
        assert!(table("6.1", 90_000).compare(&committed).excesses.is_empty());
        assert_eq!(table("6.1", MAX_VERIFIED + 1).compare(&committed).excesses.len(), 1);
    }

    #[test]
    fn a_program_that_is_not_in_the_table_is_an_excess() {
        let empty = tables([Table { by_program: BTreeMap::new(), ..table("6.18", 1) }]);
        assert_eq!(table("6.18", 1).compare(&empty).excesses, ["pod_ingress is not in the table"]);
    }
}
