//! A series as a bar chart: one bar per configuration, with the range of its samples.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::page::short;
use super::report::{Line, Series};
use super::stats::{median, quantile};

const WIDTH: u32 = 860;
const BAR_HEIGHT: u32 = 26;
const MARGIN_TOP: u32 = 44;
const LABEL_WIDTH: u32 = 300;

/// Draws the medians as horizontal bars, minus the baseline's if there is one.
///
/// # Errors
/// Drawing failed.
pub fn bars(series: &Series) -> Result<String> {
    let mut svg = String::new();
    draw(series, &mut svg).map_err(|error| anyhow!("drawing {}: {error}", series.title))?;
    Ok(svg)
}

/// A bar: name, length, and interquartile range.
struct Bar<'a> {
    name: &'a str,
    length: f64,
    low: f64,
    high: f64,
}

fn bar<'s>(series: &'s Series, line: &'s Line) -> Result<Bar<'s>> {
    let below = match line.baseline.as_ref().or(series.baseline.as_ref()) {
        Some(name) => median(&series.line(name)?.samples),
        None => 0.0,
    };
    let part = |part| quantile(&line.samples, part) - below;
    Ok(Bar { name: &line.name, length: part(0.5), low: part(0.25), high: part(0.75) })
}

fn draw(series: &Series, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let is_baseline = |line: &&Line| series.baseline.as_ref() == Some(&line.name);
    let lines = series.lines.iter().filter(|line| !is_baseline(line));
    let shown: Vec<_> = lines.map(|line| bar(series, line)).collect::<Result<_>>()?;
    let longest = shown.iter().map(|bar| bar.high).fold(f64::MIN_POSITIVE, f64::max);
    let n_bars = u32::try_from(shown.len())?;
    let height = MARGIN_TOP + n_bars * BAR_HEIGHT + 12;
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let heading = match &series.baseline {
        Some(name) => format!("{}: added to {name}, {}", series.title, series.unit.as_str()),
        None => format!("{}, {}", series.title, series.unit.as_str()),
    };
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw(&Text::new(heading.trim_end_matches([' ', ',']).to_owned(), (12, 12), text(16)))?;
    // Space for the number behind the longest bar.
    let room = f64::from(WIDTH - LABEL_WIDTH - 80);
    let x = |value: f64| -> i32 {
        #[expect(clippy::cast_possible_truncation, reason = "a position in the picture")]
        let offset = (value.max(0.0) / longest * room).round() as i32;
        LABEL_WIDTH.cast_signed() + offset
    };
    for (index, bar) in (0_u32..).zip(&shown) {
        let top = (MARGIN_TOP + index * BAR_HEIGHT).cast_signed();
        let (bottom, middle) = (top + 18, top + 9);
        let colour = if bar.name.starts_with("netpol") {
            RGBColor(30, 110, 200)
        } else {
            RGBColor(160, 160, 160)
        };
        area.draw(&Text::new(bar.name.to_owned(), (12, top + 2), text(13)))?;
        area.draw(&Rectangle::new([(x(0.0), top), (x(bar.length), bottom)], colour.filled()))?;
        area.draw(&PathElement::new([(x(bar.low), middle), (x(bar.high), middle)], BLACK))?;
        area.draw(&Text::new(
            short(bar.length),
            (x(bar.high.max(bar.length)) + 6, top + 2),
            text(13),
        ))?;
    }
    area.present()?;
    Ok(())
}
