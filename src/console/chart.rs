//! Charts as SVG, drawn on the server: by attributes and classes, so that they need neither script nor inline style.

use maud::{Markup, html};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 22.0;

/// A line or a kind of bar: its name, and the class of its color.
#[derive(Debug, Clone, Copy)]
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) class: &'static str,
}

fn x_of(index: usize, points: usize) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * number(index) / number(points.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "positions in a picture")]
fn number(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "heights in a picture")]
fn height_of(count: i64, top: i64) -> f64 {
    (HEIGHT - TOP - BOTTOM) * count as f64 / top.max(1) as f64
}

fn fixed(value: f64) -> String {
    format!("{value:.1}")
}

/// The next number of the form 1, 2 or 5 times a power of ten.
pub(super) fn round_up(count: i64) -> i64 {
    let mut power: i64 = 1;
    loop {
        for digit in [1, 2, 5] {
            if let Some(candidate) = power.checked_mul(digit).filter(|candidate| *candidate >= count) {
                return candidate;
            }
        }
        let Some(next) = power.checked_mul(10) else { return count };
        power = next;
    }
}

fn legend(series: &[Series]) -> Markup {
    html! {
        p class="legend" {
            @for one in series {
                span {
                    svg class="swatch" viewBox="0 0 12 12" width="12" height="12" aria-hidden="true" { rect class={ "bar " (one.class) } width="12" height="12" {} }
                    " " (one.name)
                }
                " "
            }
        }
    }
}

fn frame(summary: &str, y: &[(f64, String)], labels: &[String], points: usize, inside: &Markup) -> Markup {
    // As many labels as can be read.
    let every = points.div_ceil(8).max(1);
    html! {
        svg class="chart" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(summary) {
            @for (at, label) in y {
                line class="axis" x1=(LEFT) x2=(WIDTH - RIGHT) y1=(fixed(*at)) y2=(fixed(*at)) {}
                text x=(LEFT - 6.0) y=(fixed(at + 4.0)) text-anchor="end" { (label) }
            }
            (inside)
            @for (index, label) in labels.iter().enumerate() {
                @if index % every == 0 {
                    text x=(fixed(x_of(index, points))) y=(fixed(HEIGHT - 6.0)) { (label) }
                }
            }
        }
    }
}

/// Bars of several kinds, one on the other; `points` by time, each with one count a series and the words for its time.
pub(super) fn bars(summary: &str, series: &[Series], labels: &[String], points: &[Vec<i64>]) -> Markup {
    let top = round_up(points.iter().map(|point| point.iter().sum()).max().unwrap_or(0).max(1));
    let base = HEIGHT - BOTTOM;
    let y: Vec<(f64, String)> =
        [0, top / 2, top].iter().map(|count| (base - height_of(*count, top), short(*count))).collect();
    let width = ((WIDTH - LEFT - RIGHT) / number(points.len().max(1)) - 1.0).max(0.6);
    let inside = html! {
        @for (index, point) in points.iter().enumerate() {
            @if point.iter().any(|count| *count > 0) {
                g {
                    title { (labels.get(index).map_or("", String::as_str)) ": " (tell(series, point)) }
                    @for (at, count) in point.iter().enumerate() {
                        @if *count > 0 {
                            rect class={ "bar " (series.get(at).map_or("quiet", |one| one.class)) } x=(fixed(x_of(index, points.len())))
                                y=(fixed(base - height_of(point[..=at].iter().sum(), top))) width=(fixed(width)) height=(fixed(height_of(*count, top).max(0.8))) {}
                        }
                    }
                }
            }
        }
    };
    html! { (frame(summary, &y, labels, points.len(), &inside)) (legend(series)) }
}

fn tell(series: &[Series], point: &[i64]) -> String {
    let words: Vec<String> = series
        .iter()
        .zip(point)
        .filter(|(_, count)| **count > 0)
        .map(|(one, count)| format!("{} {count}", one.name))
        .collect();
    words.join(", ")
}

fn short(count: i64) -> String {
    match count {
        1_000_000.. => format!("{} M", count / 1_000_000),
        10_000.. => format!("{} k", count / 1_000),
        _ => count.to_string(),
    }
}

/// Lines over a logarithmic axis of milliseconds; a gap where there is nothing.
pub(super) fn lines(summary: &str, series: &[Series], labels: &[String], values: &[Vec<Option<f64>>]) -> Markup {
    let all = || values.iter().flatten().filter_map(|value| *value);
    let low = all().fold(f64::INFINITY, f64::min).clamp(1.0, 1e7).log10().floor();
    let high = all().fold(1.0, f64::max).max(10.0).log10().ceil().max(low + 1.0);
    let base = HEIGHT - BOTTOM;
    let y_of = |ms: f64| base - (base - TOP) * (ms.max(1.0).log10() - low).max(0.0) / (high - low);
    let mut y = Vec::new();
    let mut power = low;
    while power <= high {
        let ms = 10f64.powf(power);
        y.push((y_of(ms), super::parts::duration(ms / 1000.0)));
        power += 1.0;
    }
    let points = labels.len();
    let middle = (WIDTH - LEFT - RIGHT) / number(points.max(1)) / 2.0;
    let inside = html! {
        @for (one, line) in series.iter().zip(values) {
            @for (from, part) in runs(line) {
                @if let [only] = part.as_slice() {
                    circle class=(one.class) cx=(fixed(x_of(from, points) + middle)) cy=(fixed(y_of(*only))) r="2" {}
                } @else {
                    polyline class={ "line " (one.class) } points=(
                        part.iter().enumerate().map(|(index, ms)| format!("{},{}", fixed(x_of(from + index, points) + middle), fixed(y_of(*ms)))).collect::<Vec<_>>().join(" ")
                    ) {}
                }
            }
        }
    };
    html! { (frame(summary, &y, labels, points, &inside)) (legend(series)) }
}

/// The unbroken parts of a line, with the index at which each begins.
fn runs(line: &[Option<f64>]) -> Vec<(usize, Vec<f64>)> {
    let mut parts: Vec<(usize, Vec<f64>)> = Vec::new();
    let mut is_open = false;
    for (index, value) in line.iter().enumerate() {
        match (value, parts.last_mut()) {
            (Some(ms), Some((_, part))) if is_open => part.push(*ms),
            (Some(ms), _) => parts.push((index, vec![*ms])),
            (None, _) => {}
        }
        is_open = value.is_some();
    }
    parts
}

/// A small course without axes, for a table's cell.
pub(super) fn sparkline(summary: &str, values: &[i64]) -> Markup {
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    html! {
        svg class="spark" viewBox={ "0 0 " (values.len() * 4) " 20" } width=(values.len() * 4) height="20" role="img" aria-label=(summary) {
            line class="axis" x1="0" x2=(values.len() * 4) y1="19.5" y2="19.5" {}
            @for (index, value) in values.iter().enumerate() {
                @if *value > 0 {
                    rect class="bar bad" x=(index * 4) y=(20 - spark_height(*value, top)) width="3" height=(spark_height(*value, top)) {}
                }
            }
        }
    }
}

fn spark_height(value: i64, top: i64) -> i64 {
    (value.saturating_mul(19) / top).clamp(2, 19)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!([0, 1, 3, 5, 6, 11, 201, 99_999].map(round_up), [1, 1, 5, 5, 10, 20, 500, 100_000]);
        assert_eq!(round_up(i64::MAX), i64::MAX);
    }

    #[test]
    fn a_line_breaks_where_there_is_nothing() {
        let parts = runs(&[None, Some(1.0), Some(2.0), None, Some(3.0), None]);
        assert_eq!(parts, vec![(1, vec![1.0, 2.0]), (4, vec![3.0])]);
        assert!(runs(&[None, None]).is_empty());
    }

    #[test]
    fn a_chart_is_told_in_words_and_holds_no_inline_style() {
        let series = [Series { name: "succeeded", class: "good" }, Series { name: "failed", class: "bad" }];
        let labels = vec!["10:00".to_owned(), "10:01".to_owned()];
        let bars = bars("Jobs <by> minute", &series, &labels, &[vec![3, 1], vec![0, 0]]).into_string();
        assert!(
            bars.contains("aria-label=\"Jobs &lt;by&gt; minute\"") && bars.contains("10:00: succeeded 3, failed 1"),
            "{bars}"
        );
        let values = [vec![Some(12.0), None], vec![Some(900.0), Some(2_000.0)]];
        let lines = lines("Time", &series, &labels, &values).into_string();
        assert!(lines.contains("<circle") && lines.contains("<polyline"), "{lines}");
        let spark = sparkline("Failures", &[0, 1, 1_000]).into_string();
        for text in [bars, lines, spark] {
            assert!(!text.contains("style=") && !text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
