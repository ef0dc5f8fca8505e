//! An answer on its way to the terminal, and how fast it came.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::time::Instant;

use crate::{
    grpc::{
        Refusal,
        answer::{Ending, Piece},
    },
    ui::{Tone, Ui},
    units,
};

/// An answer that was heard to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// Its text.
    pub(crate) text: String,
    /// The model that gave it.
    pub(crate) model: String,
    /// From the question to the first text; `None` if there was no text.
    pub(crate) first_text: Option<Duration>,
    /// From the question to the end.
    pub(crate) total: Duration,
    /// How it ended; `None` if the stream ended without saying so.
    pub(crate) ending: Option<Ending>,
}

/// Prints an answer as it comes. `asked` is when the question was sent.
///
/// # Errors
/// The gateway refuses to go on, or the terminal is gone.
pub(crate) async fn print(
    ui: &Ui,
    mut pieces: impl Stream<Item = Result<Piece, Refusal>> + Unpin,
    asked: Instant,
) -> anyhow::Result<Answer> {
    let mut answer = Answer::default();
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Started { model } => answer.model = model,
            Piece::Text(text) => {
                answer.first_text.get_or_insert_with(|| asked.elapsed());
                ui.print_foreign(&text)?;
                answer.text.push_str(&text);
            }
            Piece::Finished(ending) => answer.ending = Some(ending),
        }
    }
    answer.total = asked.elapsed();
    Ok(answer)
}

impl Answer {
    /// How fast it came and why it ended, in one line.
    pub(crate) fn summary(&self, ui: &Ui) -> String {
        let Some(ending) = &self.ending else {
            return ui.paint("the stream ended before the answer did", Tone::Bad);
        };
        let first =
            self.first_text.map_or("no text".to_owned(), |time| format!("first text {}", units::time(time)));
        let speed = f64::from(ending.completion_tokens) / self.total.as_secs_f64().max(1e-9);
        let line = format!(
            "{first} · {} tokens in {} ({speed:.1} tokens/s) · {} prompt tokens · {}",
            ending.completion_tokens,
            units::time(self.total),
            ending.prompt_tokens,
            ending.reason,
        );
        let mut line = ui.paint(line, Tone::Dim);
        if ending.blocked_prompt {
            line += &ui.paint(" · the filter refused the prompt", Tone::Warn);
        }
        if !ending.findings.is_empty() {
            let found: Vec<String> = ending.findings.iter().map(|(what, n)| format!("{what} {n}")).collect();
            line += &ui.paint(format!(" · filter: {}", found.join(", ")), Tone::Warn);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_tells_speed_and_reason() {
        let ending = Ending { reason: "stop", prompt_tokens: 31, completion_tokens: 20, ..Ending::default() };
        let answer = Answer {
            first_text: Some(Duration::from_millis(50)),
            total: Duration::from_secs(2),
            ending: Some(ending),
            ..Answer::default()
        };
        assert_eq!(
            answer.summary(&Ui::plain(80)),
            "first text 50.0ms · 20 tokens in 2.00s (10.0 tokens/s) · 31 prompt tokens · stop"
        );
    }

    #[test]
    fn a_stream_without_an_end_is_not_called_complete() {
        assert!(Answer::default().summary(&Ui::plain(80)).contains("ended before the answer"));
    }
}
