//! Why a command could not do what it was asked, and what to do next.

use std::{io, process::ExitCode};

use crate::ui::{Tone, Ui};

/// The exit code of a command that failed.
pub(crate) const FAILED: u8 = 1;
/// The exit code of a command that needs a running mesh where there is none.
pub(crate) const NOT_RUNNING: u8 = 3;
/// The exit code of a command that met a configuration which is not usable; the services' own (EX_USAGE of sysexits).
pub(crate) const CONFIG: u8 = 64;
/// The exit code of a command that was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// An error with advice. Its source, if any, is shown below it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    what: String,
    details: Vec<String>,
    next: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure in one sentence, with exit code 1.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), details: Vec::new(), next: None, code: FAILED }
    }

    /// Lines to show below the sentence.
    #[must_use]
    pub(crate) fn details(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(lines);
        self
    }

    /// What the reader may do about it.
    #[must_use]
    pub(crate) fn next(mut self, advice: impl Into<String>) -> Self {
        self.next = Some(advice.into());
        self
    }

    /// Another exit code than 1.
    #[must_use]
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

/// Shows an error on standard error and gives the exit code that goes with it.
///
/// A reader that went away (`weft logs | head`) is no error.
pub(crate) fn report(ui: &Ui, error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    ui.note(format!("{} {error}", ui.paint("error:", Tone::Bad)));
    for cause in error.chain().skip(1) {
        ui.note(format!("       {cause}"));
    }
    // Looks through contexts too, which `chain` shows as errors of another type.
    let Some(failure) = error.downcast_ref::<Failure>() else { return ExitCode::from(FAILED) };
    for line in &failure.details {
        ui.note(format!("  {line}"));
    }
    if let Some(next) = &failure.next {
        ui.note(format!("{} {next}", ui.paint("next:", Tone::Accent(0))));
    }
    ExitCode::from(failure.code)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_recognised_below_other_errors() {
        let error =
            anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing the table");
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
    }
}
