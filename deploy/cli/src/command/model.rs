//! `weft model`: work on model folders.

use std::{io::Write as _, num::NonZero, path::PathBuf, process::ExitCode, thread};

use tokio::time::Instant;
use weft_weights::{Conversion, Converted, Format, Group, WeightsError};

use crate::{
    failure::Failure,
    ui::{Progress, Tone, Ui},
    units,
};

/// Options of `weft model`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    work: Work,
}

/// What can be done with a model folder.
#[derive(Debug, clap::Subcommand)]
enum Work {
    /// Make a folder with the same model in fewer bits
    ///
    /// The services read it like any other folder: set model.folder of inference.toml to it. Its weft_quantization.json
    /// says what it was made from and how far each matrix is from the original. With int4 the embedding and the head
    /// get int8. Numbers are chosen by the weights alone: the same folder gives the same bytes on every machine.
    ///
    /// The new folder appears when it is whole: an error, a full disk or Ctrl-C leave nothing half-made.
    Quantize(Quantize),
}

/// Options of `weft model quantize`.
#[derive(Debug, clap::Args)]
struct Quantize {
    /// A model folder in Hugging Face's format, with plain weights
    #[arg(value_name = "FOLDER")]
    source: PathBuf,
    /// Bits of a weight
    #[arg(long, value_enum)]
    format: Bits,
    /// Inputs that share a scale, of int4 [default: 32]
    #[arg(long, value_parser = group, value_name = "32|64|128")]
    group: Option<Group>,
    /// The folder to make [default: FOLDER with the format behind its name]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Replace the folder if it is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Bits {
    /// A byte a weight, a scale an output: half the size of bf16
    Int8,
    /// Half a byte a weight, a scale and a least value a group: a third of the size
    Int4,
}

fn group(text: &str) -> Result<Group, String> {
    let sized = |group: &Group| group.size().to_string() == text;
    Group::ALL.into_iter().find(sized).ok_or_else(|| "must be 32, 64 or 128".to_owned())
}

/// Runs `weft model`.
///
/// # Errors
/// The folder cannot be read or quantized, or the new one cannot be made.
pub(crate) fn run(ui: &Ui, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.work {
        Work::Quantize(args) => quantize(ui, args),
    }
}

fn quantize(ui: &Ui, args: &Quantize) -> anyhow::Result<ExitCode> {
    let format = format(args)?;
    let target = args.out.clone().unwrap_or_else(|| beside(&args.source, format));
    let conversion = Conversion {
        source: args.source.clone(),
        target,
        format,
        replace: args.force,
        threads: thread::available_parallelism().map_or(1, NonZero::get),
    };
    let started = Instant::now();
    let mut progress = Progress::new(ui);
    let mut tenth = 0;
    let converted = conversion.run(&mut |now| {
        // Elsewhere than on a terminal each step is a line of its own.
        if 10 * now.done / now.total >= tenth {
            tenth = 10 * now.done / now.total + 1;
            progress.says(format.name(), format_args!("{} of {} tensors", now.done, now.total));
        }
    });
    match converted {
        Ok(converted) => {
            let took = units::time(started.elapsed());
            progress.done(format.name(), format_args!("{} in {took}", conversion.target.display()));
            show(ui, &converted)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            progress.failed(format.name(), "nothing was made");
            Err(advised(error).into())
        }
    }
}

fn format(args: &Quantize) -> anyhow::Result<Format> {
    match (args.format, args.group) {
        (Bits::Int8, None) => Ok(Format::Int8),
        (Bits::Int8, Some(_)) => Err(Failure::new("int8 has no groups: each output has one scale")
            .next("leave --group out")
            .into()),
        (Bits::Int4, group) => Ok(Format::Int4(group.unwrap_or(Group::G32))),
    }
}

/// The folder's name with the format behind it.
fn beside(source: &std::path::Path, format: Format) -> PathBuf {
    let mut name = source.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{format}"));
    source.with_file_name(name)
}

fn advised(error: WeightsError) -> Failure {
    let what = error.to_string();
    match error {
        WeightsError::Exists { .. } => {
            Failure::new(what).next("choose another folder with --out, or replace it with --force")
        }
        _ => Failure::new(what),
    }
}

/// What was made, and how close it is.
fn show(ui: &Ui, converted: &Converted) -> std::io::Result<()> {
    let Converted { manifest, bytes_before, bytes_after } = converted;
    let (before, after) = (units::bytes(*bytes_before), units::bytes(*bytes_after));
    let mut out = std::io::stdout().lock();
    writeln!(out, "weights         {before} → {after}")?;
    writeln!(out, "relative error  {:.3} % over all quantized matrices", 100.0 * manifest.relative_error)?;
    for format in Format::ALL {
        let of_format = || manifest.tensors.iter().filter(|(_, entry)| entry.format == format);
        let worst = of_format().max_by(|a, b| a.1.relative_error.total_cmp(&b.1.relative_error));
        if let Some((name, entry)) = worst {
            let (count, error) = (of_format().count(), 100.0 * entry.relative_error);
            writeln!(out, "{:<15} {count} matrices, at most {error:.3} % ({name})", format.name())?;
        }
    }
    let warning = ui.paint("warning:", Tone::Warn);
    if let Some(caution) = manifest.format.caution() {
        ui.note(format_args!("{warning} {caution}"));
    }
    for (name, entry) in manifest.doubtful() {
        let (error, bound) = (100.0 * entry.relative_error, 100.0 * entry.format.doubtful_error());
        ui.note(format_args!(
            "{warning} {name} is {error:.1} % away from the original, above {bound:.0} %: measure before use"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_folder_stands_beside_the_old_one() {
        let made = beside("models/m/".as_ref(), Format::Int4(Group::G64));
        assert_eq!(made, PathBuf::from("models/m-int4-g64"));
    }

    #[test]
    fn groups_are_those_that_kernels_know() {
        assert_eq!(group("64"), Ok(Group::G64));
        assert_eq!(group("48"), Err("must be 32, 64 or 128".to_owned()));
    }
}
