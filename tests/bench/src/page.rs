//! `benchmarks.md`, generated from the reports of all suites.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::gates::{ROWS, Reached, Row, Sense, Unit};
use super::report::{Report, Series};
use super::stats::{Estimate, median, min};
use super::{SUITES, plot};

const INTRODUCTION: &str = "\
# Benchmarks

Made by `cargo xtask bench`; each suite's command stands with its figures. Times depend on the machine: what counts are the
ratios, of what two configurations *add* to the same baseline, measured in one run in an order that changes from round to
round. The intervals are 95 % (bootstrap over rounds). `benchmarks/*.json` holds every sample.
";

/// Writes a report and its plots, and regenerates the page.
///
/// # Errors
/// A file cannot be read or written, or an older report is malformed.
pub fn write(folder: &Path, report: &Report) -> Result<()> {
    let files = folder.join("benchmarks");
    fs::create_dir_all(&files).with_context(|| format!("creating {}", files.display()))?;
    let put = |name: &str, text: String| {
        let file = files.join(name);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    };
    put(&format!("{}.json", report.suite), serde_json::to_string_pretty(report)? + "\n")?;
    for series in &report.series {
        put(&plot_file(&report.suite, series), plot::bars(series)?)?;
    }
    let mut reports = Vec::new();
    for (suite, _) in SUITES {
        let file = files.join(format!("{suite}.json"));
        if file.exists() {
            let context = || format!("reading {}", file.display());
            let text = fs::read_to_string(&file).with_context(context)?;
            reports.push(serde_json::from_str(&text).with_context(context)?);
        }
    }
    let page = folder.join("benchmarks.md");
    fs::write(&page, text(&reports)?).with_context(|| format!("writing {}", page.display()))
}

/// The page.
///
/// # Errors
/// A series names a baseline that it does not have.
pub fn text(reports: &[Report]) -> Result<String> {
    let mut page = String::from(INTRODUCTION);
    page += "\n## What is to be reached\n\n\
             | row | what | gate | stretch | measured | 95 % | holds | |\n|---|---|---|---|---|---|---|---|\n";
    for row in &ROWS {
        page += &line(row, reports);
    }
    for report in reports {
        page += &section(report)?;
    }
    Ok(page)
}

fn line(row: &Row, reports: &[Report]) -> String {
    let Row { number, suite: _, what, unit, sense, gate, stretch } = row;
    let sign = match sense {
        Sense::AtMost => '≤',
        Sense::AtLeast => '≥',
    };
    let answer = reports.iter().find_map(|report| report.answer(number));
    let (measured, interval, holds, note) = match answer {
        None => ("not measured".to_owned(), String::new(), "", ""),
        Some(answer) => {
            let Estimate { value, low, high } = answer.measured;
            let holds = match row.reached(&answer.measured) {
                Reached::Stretch => "stretch",
                Reached::Gate => "yes",
                Reached::No => "**no**",
            };
            let is_exact = low.total_cmp(&high).is_eq();
            let interval = if is_exact {
                String::new()
            } else {
                format!("{} – {}", short(low), short(high))
            };
            (with_unit(value, *unit), interval, holds, answer.note.as_str())
        }
    };
    let limit = |limit: f64| format!("{sign} {}", with_unit(limit, *unit));
    format!(
        "| {number} | {what} | {} | {} | {measured} | {interval} | {holds} | {note} |\n",
        limit(*gate),
        limit(*stretch)
    )
}

fn section(report: &Report) -> Result<String> {
    let machine = &report.machine;
    let mut text = format!(
        "\n## {}\n\n`{}`: {}, {} × {}, Linux {}, load {} before, {} rounds.\n",
        report.suite,
        report.command,
        machine.date,
        machine.n_processors,
        machine.processor,
        machine.kernel,
        machine.load,
        report.n_rounds
    );
    if report.is_quick {
        text += "\n**A quick run: a test of the benchmark, its times mean nothing.**\n";
    }
    for note in &report.notes {
        write!(text, "\n{note}\n")?;
    }
    for series in &report.series {
        text += &table(report, series)?;
    }
    Ok(text)
}

fn table(report: &Report, series: &Series) -> Result<String> {
    let unit = series.unit.as_str();
    let heading = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
    let mut text = format!("\n### {}{heading}\n\n", series.title);
    if !series.note.is_empty() {
        write!(text, "{}\n\n", series.note)?;
    }
    let has_baseline = series.baseline.is_some();
    text += if has_baseline {
        "| configuration | min | median | added | 95 % |\n|---|---|---|---|---|\n"
    } else {
        "| configuration | min | median | 95 % |\n|---|---|---|---|\n"
    };
    for line in &series.lines {
        let (least, middle) = (short(min(&line.samples)), short(median(&line.samples)));
        let is_baseline = series.baseline.as_ref() == Some(&line.name);
        let cells = if is_baseline {
            "— | — |".to_owned()
        } else if has_baseline {
            let Estimate { value, low, high } = series.added(&line.name)?;
            format!("{} | {} – {} |", short(value), short(low), short(high))
        } else {
            let Estimate { value: _, low, high } = series.level(&line.name)?;
            format!("{} – {} |", short(low), short(high))
        };
        writeln!(text, "| {} | {least} | {middle} | {cells}", line.name)?;
    }
    let file = plot_file(&report.suite, series);
    write!(text, "\n![{}](benchmarks/{file})\n", series.title)?;
    Ok(text)
}

/// The name of a series' plot.
fn plot_file(suite: &str, series: &Series) -> String {
    let words: Vec<_> = series
        .title
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    format!("{suite}-{}.svg", words.join("-").to_lowercase())
}

fn with_unit(number: f64, unit: Unit) -> String {
    format!("{} {}", short(number), unit.as_str()).trim_end().to_owned()
}

/// Three significant digits.
pub fn short(number: f64) -> String {
    let n_decimals = match number.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        size if size >= 0.01 => 3,
        size if size > 0.0 => 5,
        _ => 0,
    };
    let text = format!("{number:.n_decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Line;
    use crate::{Answer, Settings, machine::Machine};

    fn report() -> Report {
        let settings = Settings {
            is_quick: false,
            n_rounds: None,
            is_load_ignored: false,
            output: None,
            part: None,
            seed: 1,
        };
        let machine = Machine {
            processor: "a processor".into(),
            n_processors: 2,
            kernel: "6.18".into(),
            date: "2026-01-02".into(),
            load: 0.1,
        };
        let mut report = Report::new("dp", "cargo xtask bench dp", machine, &settings);
        report.series.push(Series {
            title: "new flow, IPv4".into(),
            unit: Unit::Nanos,
            baseline: Some("none".into()),
            note: "A note.".into(),
            lines: vec![Line::of("none", &[1000.0, 1010.0]), Line::of("netpol", &[1100.0, 1110.0])],
        });
        report.answers.push(Answer {
            row: "2".into(),
            measured: Estimate { value: 0.2345, low: 0.2, high: 0.3 },
            note: "how".into(),
        });
        report
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.00314, 0.25, 1.0, 12.345, 1418.4, 99.96, -3.456].map(short);
        assert_eq!(shown, ["0", "0.00314", "0.25", "1", "12.3", "1418", "100", "-3.46"]);
    }

    #[test]
    fn the_page_tells_what_holds_and_what_was_measured() {
        let page = text(&[report()]).unwrap();
        for part in [
            "| ≤ 0.4 | ≤ 0.25 | 0.234 | 0.2 – 0.3 | stretch | how |\n",
            "| 3b | the same for 110 pods | ≤ 0.08 | ≤ 0.05 | not measured |",
            "`cargo xtask bench dp`: 2026-01-02, 2 × a processor, Linux 6.18",
            "### new flow, IPv4 (ns)",
            "| none | 1000 | 1005 | — | — |",
            "| netpol | 1100 | 1105 | 100 | 100 – 100 |",
            "](benchmarks/dp-new-flow-ipv4.svg)",
        ] {
            assert!(page.contains(part), "no `{part}` in\n{page}");
        }
    }

    #[test]
    fn files_are_written_and_reports_of_other_suites_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &report()).unwrap();
        write(folder.path(), &Report { suite: "other".into(), ..report() }).unwrap();
        let page = fs::read_to_string(folder.path().join("benchmarks.md")).unwrap();
        assert!(page.contains("## dp"), "{page}");
        let plot = folder.path().join("benchmarks/dp-new-flow-ipv4.svg");
        assert!(fs::read_to_string(plot).unwrap().contains("netpol"));
    }
}
