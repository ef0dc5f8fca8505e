//! Progress of several things at once: moving lines on a terminal, one plain line for each change elsewhere.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Tone, Ui};

/// How far several named things are.
#[derive(Debug)]
pub(crate) struct Progress {
    ui: Ui,
    bars: MultiProgress,
    rows: BTreeMap<String, Row>,
}

#[derive(Debug)]
struct Row {
    bar: ProgressBar,
    said: String,
    finished: bool,
}

impl Progress {
    /// Nothing yet.
    pub(crate) fn new(ui: &Ui) -> Self {
        Self { ui: *ui, bars: MultiProgress::new(), rows: BTreeMap::new() }
    }

    /// Says what `name` is doing. Saying the same again changes nothing.
    pub(crate) fn says(&mut self, name: &str, state: impl Display) {
        self.set(name, &state.to_string());
    }

    /// Says that `name` has arrived.
    pub(crate) fn done(&mut self, name: &str, state: impl Display) {
        let state = format!("{} {state}", self.ui.paint("✓", Tone::Good));
        self.finish(name, &state);
    }

    /// Says that `name` will not arrive.
    pub(crate) fn failed(&mut self, name: &str, state: impl Display) {
        let state = format!("{} {state}", self.ui.paint("✗", Tone::Bad));
        self.finish(name, &state);
    }

    /// Those that neither arrived nor failed, with what they said last.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let late = self.rows.iter().filter(|(_, row)| !row.finished);
        late.map(|(name, row)| format!("{name}: {}", row.said)).collect()
    }

    fn finish(&mut self, name: &str, state: &str) {
        self.set(name, state);
        if let Some(row) = self.rows.get_mut(name) {
            row.finished = true;
            row.bar.set_style(template("  {prefix:<10} {wide_msg}"));
            row.bar.finish();
        }
    }

    fn set(&mut self, name: &str, state: &str) {
        let live = self.ui.is_live();
        let row = self.rows.entry(name.to_owned()).or_insert_with(|| Row::new(&self.bars, name, live));
        if row.said == state {
            return;
        }
        state.clone_into(&mut row.said);
        if live {
            row.bar.set_message(state.to_owned());
        } else {
            self.ui.note(format_args!("  {name:<10} {state}"));
        }
    }
}

impl Row {
    fn new(bars: &MultiProgress, name: &str, live: bool) -> Self {
        let bar = if live { bars.add(ProgressBar::new_spinner()) } else { ProgressBar::hidden() };
        bar.set_style(template("  {prefix:<10} {spinner} {elapsed:>4} {wide_msg}"));
        bar.set_prefix(name.to_owned());
        if live {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self { bar, said: String::new(), finished: false }
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
