//! Steps whose operations are recorded once and launched at a stroke.

use std::rc::Rc;

use tch::{Kind, Tensor};

use super::{
    Cuda, Rows, Spare,
    plan::{Extent, Inputs, Plan},
};
use crate::{
    kernels::{Recording, Shares},
    model::{ModelError, torch::backend::step},
};

/// The numbers of rows that steps are recorded for. A step takes the next larger one: rows beyond it cost little, since
/// what takes the time of a small step is reading the weights. With more rows than these, a step takes longer than its
/// launches do.
pub(super) const ROWS: [usize; 15] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512];

/// A step of some number of rows, and all memory that its operations use.
#[derive(Debug)]
pub(super) struct Step {
    /// What `inputs` are parts of.
    pub(super) packed: Tensor,
    pub(super) inputs: Rc<Inputs>,
    pub(super) shares: Option<Rc<Shares>>,
    /// Once it has run for the first time.
    recorded: Option<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    recording: Recording,
    /// What it computes, among the memory that is its own.
    output: Tensor,
    /// Never read here: the recording works in it.
    _memory: Spare,
}

impl Step {
    /// Rows of the recorded step that takes `asked` rows; nothing where no step is recorded for so many.
    pub(super) fn rows_for(asked: usize) -> Option<usize> {
        ROWS.into_iter().find(|rows| *rows >= asked)
    }
}

impl Cuda {
    /// A step that has not been recorded yet.
    pub(super) fn step(&self, extent: Extent) -> Result<Step, ModelError> {
        let packed =
            Tensor::f_zeros([extent.total() as i64], (Kind::Int, self.place.device)).map_err(step)?;
        Ok(Step {
            inputs: Rc::new(extent.parts(&packed).map_err(step)?),
            packed,
            shares: self.shares(extent.queries)?,
            recorded: None,
        })
    }

    /// Runs a step's operations, by their recording where there can be one.
    pub(super) fn run_recorded(
        &mut self,
        plan: &Plan,
        run: &mut dyn FnMut(&mut Self) -> Result<Rows, ModelError>,
    ) -> Result<Rows, ModelError> {
        let Some(asked) = plan.recorded else { return run(self) };
        let missing = || step(format!("no step of {} rows was planned", plan.rows));
        let key = (plan.rows, asked.part);
        if self.steps.get(&key).ok_or_else(missing)?.recorded.is_none() {
            let recorded = self.record(run)?;
            self.steps.get_mut(&key).ok_or_else(missing)?.recorded = Some(recorded);
        }
        let recorded = self.steps.get(&key).and_then(|made| made.recorded.as_ref()).ok_or_else(missing)?;
        recorded.recording.launch().map_err(step)?;
        let tensor = recorded.output.f_narrow(0, 0, asked.rows as i64).map_err(step)?;
        Ok(Rows { tensor, spare: None })
    }

    /// Runs the operations once, so that all memory is there and libtorch is warm, and records them as they run again.
    fn record(
        &mut self,
        run: &mut dyn FnMut(&mut Self) -> Result<Rows, ModelError>,
    ) -> Result<Recorded, ModelError> {
        let memory = Spare::default();
        self.spare = Some(Spare::clone(&memory));
        let recorded = self.rehearse_and_record(run);
        self.spare = None;
        let (recording, output) = recorded?;
        Ok(Recorded { recording, output, _memory: memory })
    }

    fn rehearse_and_record(
        &mut self,
        run: &mut dyn FnMut(&mut Self) -> Result<Rows, ModelError>,
    ) -> Result<(Recording, Tensor), ModelError> {
        drop(run(self)?);
        self.gpu.begin_recording().map_err(step)?;
        let output = run(self);
        let recording = self.gpu.end_recording();
        let output = output?.tensor.shallow_clone();
        Ok((recording.map_err(step)?, output))
    }
}
