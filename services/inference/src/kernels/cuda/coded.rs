//! Weights of few bits: products straight from the codes where there are few rows, which is where reading the weights
//! takes the time; beyond that the weights are decoded first, for libtorch's products.

use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, DriverError};
use tch::{Device, Kind, Tensor};
use weft_weights::{Codes, QuantizedMatrix};

use super::{
    super::Mode,
    Dtype, Gpu, GpuError, compile,
    launch::{Argument, length, pointer, sizes},
    scalar,
};

/// Rows of a block of `product`, for each of its forms.
const ROWS: [usize; 4] = [1, 2, 4, 8];

/// Most rows of the forms of `many`, which work on all rows at once.
const MANY: [usize; 4] = [8, 16, 32, 64];

/// Rows from which on the matrix units pay.
const UNITS_PAY: usize = 3;

/// Most rows of `product`, which reads the weights once for every eight.
const FEW: usize = 32;

/// What a lane takes at a time: inputs come in multiples of it.
const TAKEN: usize = 16;

/// What a warp of `many` takes at a time: inputs come in multiples of it.
const SPAN: usize = 64;

/// Threads of a block that decodes.
const THREADS: u32 = 128;

/// The kernels, for one format.
#[derive(Debug)]
pub(super) struct CodedFunctions {
    product: [CudaFunction; 4],
    /// On matrix units, which take no f32.
    many: Option<[CudaFunction; 4]>,
    decode: CudaFunction,
}

impl CodedFunctions {
    fn of(module: &Arc<CudaModule>, dtype: Dtype) -> Result<Self, DriverError> {
        let forms = |name: &str, rows: [usize; 4]| -> Result<[CudaFunction; 4], DriverError> {
            let [a, b, c, d] = rows.map(|rows| module.load_function(&format!("{name}_{rows}")));
            Ok([a?, b?, c?, d?])
        };
        Ok(Self {
            product: forms("product", ROWS)?,
            many: (dtype != Dtype::F32).then(|| forms("many", MANY)).transpose()?,
            decode: module.load_function("decode")?,
        })
    }
}

/// A matrix `[outputs, inputs]` of few bits on the device.
#[derive(Debug)]
pub(crate) struct Coded {
    /// `[outputs, inputs]` int8, or `[outputs, inputs / 2]` bytes of two codes.
    codes: Tensor,
    /// `[outputs]` f32, or `[outputs, inputs / group]` f16.
    scales: Tensor,
    /// `[outputs, inputs / group]` f16, of int4.
    leasts: Option<Tensor>,
    outputs: usize,
    inputs: usize,
    /// Inputs that share a scale.
    group: usize,
}

impl Coded {
    /// Copies a matrix to the device, and compiles the kernels for its format if it is the first.
    ///
    /// # Errors
    /// Its width is none that the kernels take, or there is no memory.
    pub(crate) fn new(matrix: &QuantizedMatrix, gpu: &Gpu) -> Result<Self, GpuError> {
        gpu.prepare(matches!(matrix.codes, Codes::Int4 { .. }))?;
        let device = Device::Cuda(gpu.index);
        let (outputs, inputs) = (matrix.outputs, matrix.inputs);
        if !inputs.is_multiple_of(TAKEN) {
            return Err(GpuError::Unsupported(format!(
                "{} matrices of {inputs} inputs, only multiples of {TAKEN}",
                matrix.format()
            )));
        }
        let placed =
            |tensor: Tensor, width: usize| tensor.f_view([outputs as i64, width as i64])?.f_to_device(device);
        Ok(match &matrix.codes {
            Codes::Int8 { values, scales } => Self {
                codes: placed(Tensor::f_from_slice(values)?, inputs)?,
                scales: Tensor::f_from_slice(scales)?.f_to_device(device)?,
                leasts: None,
                outputs,
                inputs,
                group: inputs,
            },
            Codes::Int4 { codes, scales, mins, group } => {
                let groups = inputs / group.size();
                Self {
                    codes: placed(Tensor::f_from_slice(codes)?, inputs / 2)?,
                    scales: placed(Tensor::f_from_slice(scales)?, groups)?,
                    leasts: Some(placed(Tensor::f_from_slice(mins)?, groups)?),
                    outputs,
                    inputs,
                    group: group.size(),
                }
            }
        })
    }

    /// Rows of the matrix.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Values of a row.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Codes, scales and least values, as the kernels take them.
    fn arguments(&self, device: usize) -> Result<[Argument; 3], GpuError> {
        let Self { codes, scales, leasts, outputs, inputs, group } = self;
        let (outputs, inputs, groups) = (*outputs, *inputs, inputs / group);
        let at = |what, tensor: &Tensor, kind, size: &[usize]| {
            pointer(what, tensor, kind, size, device).map(Argument::Pointer)
        };
        Ok(match leasts {
            None => [
                at("the codes", codes, Kind::Int8, &[outputs, inputs])?,
                at("the scales", scales, Kind::Float, &[outputs])?,
                Argument::Pointer(0),
            ],
            Some(leasts) => [
                at("the codes", codes, Kind::Uint8, &[outputs, inputs / 2])?,
                at("the scales", scales, Kind::Half, &[outputs, groups])?,
                at("the least values", leasts, Kind::Half, &[outputs, groups])?,
            ],
        })
    }
}

/// A linear layer of such weights.
#[derive(Debug)]
pub(crate) struct Linear<'a> {
    /// Its weights.
    pub(crate) matrix: &'a Coded,
    /// `[outputs]`
    pub(crate) bias: Option<&'a Tensor>,
}

/// How a product is launched.
#[derive(Debug)]
struct Form<'a> {
    function: &'a CudaFunction,
    grid: (usize, usize, usize),
    threads: u32,
}

impl Gpu {
    /// Stores `rows * matrix^T + bias` to `out` or adds it. Answers whether it did: not where there are so many rows that
    /// the weights are better decoded first.
    pub(crate) fn product_coded(
        &self,
        out: &Tensor,
        rows: &Tensor,
        linear: &Linear<'_>,
        mode: Mode,
    ) -> Result<bool, GpuError> {
        let Linear { matrix, bias } = linear;
        let (outputs, inputs, add) = (matrix.outputs, matrix.inputs, usize::from(mode == Mode::Add));
        let count = length(rows, 0)?;
        let Some(form) = self.form(matrix, count)? else { return Ok(false) };
        let bias = bias.map_or(Ok(0), |bias| self.scalars("the bias", bias, &[outputs]))?;
        let mut arguments = vec![
            Argument::Pointer(self.scalars("the output", out, &[count, outputs])?),
            Argument::Pointer(self.scalars("the rows", rows, &[count, inputs])?),
        ];
        arguments.extend(matrix.arguments(self.index)?);
        arguments.push(Argument::Pointer(bias));
        arguments.extend([count, outputs, inputs, matrix.group, add].map(Argument::Length));
        self.launch(form.function, form.grid, (form.threads, 1), &arguments)?;
        Ok(true)
    }

    /// The rows of a matrix at `ids`, or all of them: `[rows, inputs]`.
    pub(crate) fn decode_coded(
        &self,
        out: &Tensor,
        matrix: &Coded,
        ids: Option<&Tensor>,
    ) -> Result<(), GpuError> {
        let [rows, _] = sizes(out)?;
        let ids = ids.map_or(Ok(0), |ids| self.integers("the ids", ids, &[rows]))?;
        let mut arguments =
            vec![Argument::Pointer(self.scalars("the output", out, &[rows, matrix.inputs])?)];
        arguments.extend(matrix.arguments(self.index)?);
        arguments.push(Argument::Pointer(ids));
        arguments.extend([matrix.inputs, matrix.group].map(Argument::Length));
        self.launch(&self.coded(matrix)?.decode, (rows, 1, 1), (THREADS, 1), &arguments)
    }

    /// Compiles the kernels for a format, if that was not done.
    fn prepare(&self, four: bool) -> Result<(), GpuError> {
        let place = &self.coded[usize::from(four)];
        if place.get().is_some() {
            return Ok(());
        }
        let constants = [scalar(self.dtype), ("CODED", if four { 4 } else { 8 })];
        let module = compile(&self.context, self.chip, include_str!("coded.cu"), &constants)?;
        let functions = CodedFunctions::of(&module, self.dtype)?;
        place.get_or_init(|| functions);
        Ok(())
    }

    fn coded(&self, matrix: &Coded) -> Result<&CodedFunctions, GpuError> {
        let unprepared = || GpuError::Unsupported("weights that another device has prepared".into());
        self.coded[usize::from(matrix.leasts.is_some())].get().ok_or_else(unprepared)
    }

    fn form(&self, matrix: &Coded, rows: usize) -> Result<Option<Form<'_>>, GpuError> {
        let functions = self.coded(matrix)?;
        let most = |forms: [usize; 4]| forms.iter().position(|most| *most >= rows);
        let many =
            functions.many.as_ref().filter(|_| rows >= UNITS_PAY && matrix.inputs.is_multiple_of(SPAN));
        if let Some((many, place)) = many.zip(most(MANY)) {
            let grid = (matrix.outputs.div_ceil(16), 1, 1);
            return Ok(Some(Form { function: &many[place], grid, threads: 256 }));
        }
        if rows > FEW {
            return Ok(None);
        }
        let place = most(ROWS).unwrap_or(ROWS.len() - 1);
        let grid = (matrix.outputs.div_ceil(8), rows.div_ceil(ROWS[place]), 1);
        Ok(Some(Form { function: &functions.product[place], grid, threads: 128 }))
    }
}
