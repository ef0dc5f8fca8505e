//! Draws a trace: one line a span, then where the time went.

use std::{collections::BTreeMap, time::Duration};

use super::{
    jaeger::{Span, Trace},
    tree::{Node, by_service, tree},
};
use crate::{
    ui::{Tone, Ui},
    units,
};

/// Columns that the names may take at most.
const WIDEST_NAME: usize = 52;
/// Columns for start and duration.
const NUMBERS: usize = 18;
/// Columns that bars get at least.
const NARROWEST_BAR: usize = 10;
/// How many spans with the largest shares are listed.
const HEAVIEST: usize = 5;

/// What stands for an event in a bar.
const EVENT_MARK: char = '◆';

/// The trace as text for a terminal.
pub(crate) fn render(ui: &Ui, trace: &Trace) -> String {
    let nodes = tree(trace);
    let scale = Scale::of(ui, trace, &nodes);
    let mut lines = vec![heading(ui, trace), String::new()];
    for node in &nodes {
        lines.push(scale.line(ui, node));
        lines.extend(scale.notes(ui, node));
    }
    lines.push(String::new());
    lines.extend(where_the_time_went(ui, &nodes));
    lines.join("\n")
}

fn heading(ui: &Ui, trace: &Trace) -> String {
    let services: BTreeMap<&str, ()> = trace.spans.iter().map(|span| (span.service.as_str(), ())).collect();
    let errors = match trace.errors() {
        0 => String::new(),
        1 => ui.paint(" · 1 span failed", Tone::Bad),
        n => ui.paint(format!(" · {n} spans failed"), Tone::Bad),
    };
    let about = format!("{} spans of {} services", trace.spans.len(), services.len());
    format!("trace {} · {} · {about}{errors}", ui.paint(&trace.id, Tone::Strong), micros(trace.duration()))
}

fn micros(micros: u64) -> String {
    units::time(Duration::from_micros(micros))
}

/// The same colour for the same service in every trace, as long as there are few.
fn tone(service: &str) -> Tone {
    let known = ["weft-gateway", "weft-inference", "weft-tokenizer", "weft-safety"];
    let sum = || service.bytes().map(usize::from).sum();
    Tone::Accent(known.iter().position(|name| *name == service).unwrap_or_else(sum))
}

/// How microseconds become columns.
struct Scale {
    start: u64,
    duration: u64,
    name_width: usize,
    bar_width: usize,
}

impl Scale {
    fn of(ui: &Ui, trace: &Trace, nodes: &[Node<'_>]) -> Self {
        let widest = nodes.iter().map(|node| label(node).chars().count()).max().unwrap_or(0);
        let room = ui.width().saturating_sub(NUMBERS + NARROWEST_BAR + 2);
        let name_width = widest.min(WIDEST_NAME).min(room);
        let bar_width = ui.width().saturating_sub(name_width + NUMBERS + 2).max(NARROWEST_BAR);
        Self { start: trace.start(), duration: trace.duration().max(1), name_width, bar_width }
    }

    fn line(&self, ui: &Ui, node: &Node<'_>) -> String {
        let span = node.span;
        let name = fit(&label(node), self.name_width);
        let mark = if span.error.is_some() { ui.paint('✗', Tone::Bad) } else { " ".to_owned() };
        let offset = micros(span.start - self.start);
        let numbers = format!("{offset:>8} {:>8}", micros(span.duration));
        let colour = if span.error.is_some() { Tone::Bad } else { tone(&span.service) };
        format!("{}{mark}{numbers} {}", ui.paint(name, tone(&span.service)), ui.paint(self.bar(span), colour))
    }

    /// A bar with at least one block, and a mark for each event.
    fn bar(&self, span: &Span) -> String {
        let (from, to) = (self.column(span.start), self.column(span.end()));
        let mut bar: Vec<char> = vec![' '; self.bar_width];
        bar[from..=to].fill('█');
        for event in &span.events {
            bar[self.column(event.time)] = EVENT_MARK;
        }
        bar.into_iter().collect::<String>().trim_end().to_owned()
    }

    fn column(&self, time: u64) -> usize {
        let offset = u128::from(time.saturating_sub(self.start).min(self.duration));
        let last = self.bar_width - 1;
        usize::try_from(offset * last as u128 / u128::from(self.duration)).unwrap_or(last)
    }

    /// What happened within a span and what went wrong, below its line.
    fn notes(&self, ui: &Ui, node: &Node<'_>) -> Vec<String> {
        let indent = " ".repeat(node.depth * 2 + 2);
        let event = |event: &super::jaeger::Event| {
            let at = micros(event.time.saturating_sub(self.start));
            ui.paint(format!("{indent}{EVENT_MARK} {} at {at}", event.name), Tone::Dim)
        };
        let mut notes: Vec<String> = node.span.events.iter().map(event).collect();
        notes.extend(node.span.error.iter().map(|error| ui.paint(format!("{indent}✗ {error}"), Tone::Bad)));
        notes
    }
}

/// A span's name with its service, behind the lines of the tree.
fn label(node: &Node<'_>) -> String {
    let mut lines = String::new();
    if let Some((own, above)) = node.more.split_last()
        && node.depth > 0
    {
        for more in &above[1..] {
            lines += if *more { "│ " } else { "  " };
        }
        lines += if *own { "├ " } else { "└ " };
    }
    let service = node.span.service.strip_prefix("weft-").unwrap_or(&node.span.service);
    format!("{lines}{service}  {}", short(&node.span.name))
}

/// `weft.gateway.v1.GatewayService/Chat` is `GatewayService/Chat` to a reader.
fn short(name: &str) -> &str {
    match name.split_once('/') {
        Some((service, _)) => &name[service.rfind('.').map_or(0, |dot| dot + 1)..],
        None => name,
    }
}

fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return format!("{text:<width$}");
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// The shares of services and of the heaviest spans.
fn where_the_time_went(ui: &Ui, nodes: &[Node<'_>]) -> Vec<String> {
    let total: f64 = nodes.iter().map(|node| node.credit).sum();
    let mut lines = vec![ui.paint(
        "where the time went (what streams beside the model counts when nothing else runs)",
        Tone::Dim,
    )];
    for (service, credit) in by_service(nodes) {
        let blocks = "█".repeat(blocks_of(credit, total));
        let name = ui.paint(format!("{service:<18}"), tone(service));
        lines.push(format!("  {name} {} {}", amount(credit, total), ui.paint(blocks, tone(service))));
    }
    let mut heaviest: Vec<&Node<'_>> = nodes.iter().filter(|node| node.credit >= 1.0).collect();
    heaviest.sort_by(|a, b| b.credit.total_cmp(&a.credit));
    lines.push(ui.paint("heaviest spans", Tone::Dim));
    for node in heaviest.into_iter().take(HEAVIEST) {
        let name = format!("{}  {}", node.span.service, short(&node.span.name));
        lines.push(format!("  {}  {name}", amount(node.credit, total)));
    }
    lines
}

/// A share as time and as percent.
fn amount(credit: f64, total: f64) -> String {
    let time = Duration::try_from_secs_f64(credit / 1e6).unwrap_or_default();
    format!("{:>8} {:>5.1} %", units::time(time), 100.0 * credit / total.max(1.0))
}

/// One block for each four percent.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 25")]
fn blocks_of(credit: f64, total: f64) -> usize {
    (25.0 * credit / total.max(1.0)).round().clamp(0.0, 25.0) as usize
}

#[cfg(test)]
mod tests;
