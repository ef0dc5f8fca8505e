//! A safetensors file, written tensor by tensor: the header first, so all shapes are known beforehand.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use half::f16;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use crate::{Codes, Format, QuantizedMatrix};

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: BufWriter<File>,
    written: u64,
    expected: u64,
}

/// The tensors of a file that is to be written, in their order.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    tensors: Vec<(String, TensorInfo)>,
    end: usize,
}

impl Outline {
    /// Adds a tensor that stays as it is.
    pub(crate) fn plain(&mut self, name: String, dtype: Dtype, shape: Vec<usize>) {
        let from = self.end;
        // All types that are written have whole bytes.
        self.end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
        self.tensors.push((name, TensorInfo { dtype, shape, data_offsets: (from, self.end) }));
    }

    /// Adds the parts of a tensor in fewer bits.
    pub(crate) fn quantized(&mut self, name: &str, format: Format, [outputs, inputs]: [usize; 2]) {
        match format {
            Format::Int8 => {
                self.plain(name.into(), Dtype::I8, vec![outputs, inputs]);
                self.plain(Format::scale_of(name), Dtype::F32, vec![outputs]);
            }
            Format::Int4(group) => {
                let groups = vec![outputs, inputs / group.size()];
                self.plain(name.into(), Dtype::U8, vec![outputs, inputs / 2]);
                self.plain(Format::scale_of(name), Dtype::F16, groups.clone());
                self.plain(Format::min_of(name), Dtype::F16, groups);
            }
        }
    }
}

impl Writer {
    /// Creates a file and writes its header.
    ///
    /// # Errors
    /// The system's own.
    pub(crate) fn create(path: &Path, outline: Outline) -> io::Result<Self> {
        /// Readers that map the file find its data aligned.
        const ALIGNMENT: usize = 64;
        let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let metadata = Metadata::new(Some(about), outline.tensors).map_err(io::Error::other)?;
        let mut header = serde_json::to_vec(&metadata)?;
        let padded = (8 + header.len()).next_multiple_of(ALIGNMENT) - 8;
        header.resize(padded, b' ');
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        Ok(Self { file, written: 0, expected: outline.end as u64 })
    }

    /// Writes the next tensor's bytes.
    ///
    /// # Errors
    /// The system's own.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Writes the parts of the next tensor.
    ///
    /// # Errors
    /// The system's own.
    pub(crate) fn write_quantized(&mut self, matrix: &QuantizedMatrix) -> io::Result<()> {
        let halves =
            |values: &[f16]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
        match &matrix.codes {
            Codes::Int8 { values, scales } => {
                self.write(&values.iter().map(|value| value.cast_unsigned()).collect::<Vec<u8>>())?;
                self.write(&scales.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<u8>>())
            }
            Codes::Int4 { codes, scales, mins, .. } => {
                self.write(codes)?;
                self.write(&halves(scales))?;
                self.write(&halves(mins))
            }
        }
    }

    /// Ends the file and waits until the disk has it; gives its size.
    ///
    /// # Errors
    /// The system's own.
    pub(crate) fn finish(self) -> io::Result<u64> {
        assert_eq!(self.written, self.expected, "what the header describes has been written");
        let file = self.file.into_inner()?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }
}
