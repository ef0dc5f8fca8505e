//! The one door to the terminal: results go to standard output, everything about the way there to standard error.

mod progress;

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

use clap::ValueEnum;
use owo_colors::{OwoColorize as _, Style};

pub(crate) use progress::Progress;

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Also into pipes and files.
    Always,
    /// Nowhere.
    Never,
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// All is well.
    Good,
    /// Something failed.
    Bad,
    /// Something wants attention.
    Warn,
    /// Less important than its surroundings.
    Dim,
    /// More important than its surroundings.
    Strong,
    /// One of several things that are told apart by colour.
    Accent(usize),
}

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    colour: bool,
    terminal: bool,
    live: bool,
    width: usize,
}

impl Ui {
    /// Looks at the terminal. CI and pipes get plain lines, no colours and no moving parts.
    pub(crate) fn detect(colour: Colour) -> Self {
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let plain = dumb || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = match colour {
            Colour::Auto => io::stdout().is_terminal() && !plain,
            Colour::Always => true,
            Colour::Never => false,
        };
        let live = io::stderr().is_terminal() && !dumb && env::var_os("CI").is_none();
        Self { colour, terminal: io::stdout().is_terminal(), live, width: width() }
    }

    /// A terminal without any abilities, `width` columns wide.
    #[cfg(test)]
    pub(crate) fn plain(width: usize) -> Self {
        Self { colour: false, terminal: false, live: false, width }
    }

    /// Whether standard error can show moving parts.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether standard output is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Columns of the terminal.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Writes to standard output and flushes, so that a stream is seen as it comes.
    ///
    /// # Errors
    /// The output cannot be written, such as to a pipe whose reader went away.
    #[expect(clippy::unused_self, reason = "whoever prints was given the terminal to print to")]
    pub(crate) fn print(&self, text: impl Display) -> io::Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "{text}")?;
        out.flush()
    }

    /// Writes text that somebody else made up, such as a model. On a terminal, control characters other than line
    /// breaks and tabs are shown as U+FFFD: an answer must not move the cursor or rename the window.
    ///
    /// # Errors
    /// As for [`Ui::print`].
    pub(crate) fn print_foreign(&self, text: &str) -> io::Result<()> {
        if self.terminal { self.print(harmless(text)) } else { self.print(text) }
    }

    /// Writes a line to standard output.
    ///
    /// # Errors
    /// As for [`Ui::print`].
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        self.print(format_args!("{text}\n"))
    }

    /// Writes a line to standard error. If nobody reads it, nobody misses it.
    #[expect(clippy::unused_self, reason = "whoever prints was given the terminal to print to")]
    pub(crate) fn note(&self, text: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Colours a text by what it means, where colours can be shown.
    pub(crate) fn paint(&self, text: impl Display, tone: Tone) -> String {
        if self.colour { text.style(style(tone)).to_string() } else { text.to_string() }
    }
}

/// Colours that are told apart easily on dark and on light ground.
const ACCENTS: [fn(Style) -> Style; 6] = [
    |style| style.cyan(),
    |style| style.magenta(),
    |style| style.blue(),
    |style| style.green(),
    |style| style.yellow(),
    |style| style.bright_red(),
];

fn style(tone: Tone) -> Style {
    let style = Style::new();
    match tone {
        Tone::Good => style.green(),
        Tone::Bad => style.red().bold(),
        Tone::Warn => style.yellow(),
        Tone::Dim => style.dimmed(),
        Tone::Strong => style.bold(),
        Tone::Accent(index) => ACCENTS[index % ACCENTS.len()](style),
    }
}

fn harmless(text: &str) -> String {
    let shown =
        |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

/// Columns: the terminal's, else COLUMNS, else 100.
fn width() -> usize {
    let asked = || env::var("COLUMNS").ok()?.parse().ok();
    comfy_table::Table::new().width().map(usize::from).or_else(asked).unwrap_or(100).max(40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\n\tb\u{1b}[2Jc\u{9b}d"), "a\n\tb\u{fffd}[2Jc\u{fffd}d");
    }
}
