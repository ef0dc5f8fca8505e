//! From a folder to weights that a step takes.

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    path::Path,
};

use sha2::{Digest, Sha256};
use tch::Tensor;

use super::{Layers, Site, config::AdapterConfig, targets::PROJECTIONS};
use crate::model::{
    AdapterBounds, AdapterFault, AdapterLoader, AdapterWeights, LoadedAdapter,
    torch::{
        LoadError,
        backend::{FactorTensors, LowRankMaker, Width},
        weights::Weights,
    },
};

/// The weights.
const FILE: &str = "adapter_model.safetensors";

/// Widths of a model, as far as adapters need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model::torch) struct Widths {
    pub(in crate::model::torch) layers: usize,
    pub(in crate::model::torch) hidden: usize,
    pub(in crate::model::torch) intermediate: usize,
    pub(in crate::model::torch) queries: usize,
    pub(in crate::model::torch) keys: usize,
}

/// Reads adapters for one model.
#[derive(Debug)]
pub(in crate::model::torch) struct Loader<M> {
    /// Makes what the model's backend takes.
    pub(in crate::model::torch) maker: M,
    /// The model's.
    pub(in crate::model::torch) widths: Widths,
}

/// A projection: one of several that a matrix holds.
struct Projection {
    name: &'static str,
    module: &'static str,
    outputs: usize,
}

impl Widths {
    fn inputs(&self, site: Site) -> usize {
        match site {
            Site::Qkv | Site::GateUp => self.hidden,
            Site::Output => self.queries,
            Site::Down => self.intermediate,
        }
    }

    /// The projections of a matrix, in the order of its outputs.
    fn projections(&self, site: Site) -> Vec<Projection> {
        let attention = |name, outputs| Projection { name, module: "self_attn", outputs };
        let mlp = |name, outputs| Projection { name, module: "mlp", outputs };
        match site {
            Site::Qkv => vec![
                attention("q_proj", self.queries),
                attention("k_proj", self.keys),
                attention("v_proj", self.keys),
            ],
            Site::Output => vec![attention("o_proj", self.hidden)],
            Site::GateUp => vec![mlp("gate_proj", self.intermediate), mlp("up_proj", self.intermediate)],
            Site::Down => vec![mlp("down_proj", self.hidden)],
        }
    }
}

impl<M: LowRankMaker> AdapterLoader for Loader<M> {
    fn load(&self, folder: &Path, bounds: &AdapterBounds) -> Result<LoadedAdapter, AdapterFault> {
        let _no_grad = tch::no_grad_guard();
        let unusable = |error: LoadError| AdapterFault::Unusable(error.to_string());
        let config = AdapterConfig::read(folder, bounds.max_rank).map_err(unusable)?;
        let path = folder.join(FILE);
        let unreadable = |source| unusable(LoadError::Read { file: path.clone(), source });
        let too_large = |bytes| AdapterFault::TooLarge {
            file: path.display().to_string(),
            bytes,
            left: bounds.max_bytes,
        };
        let size = std::fs::metadata(&path).map_err(unreadable)?.len();
        if size > bounds.max_bytes {
            return Err(too_large(size));
        }
        let fingerprint = fingerprint(&path).map_err(unreadable)?;
        let mut reading = Reading {
            config,
            weights: Weights::open_file(path.clone()).map_err(unusable)?,
            rank: 0,
            bytes: 0,
            changed: BTreeSet::new(),
        };
        let mut layers = Layers::with_capacity(self.widths.layers);
        for layer in 0..self.widths.layers {
            let mut sites = [None, None, None, None];
            for site in Site::ALL {
                sites[site as usize] = reading.site(self, layer, site).map_err(unusable)?;
            }
            if reading.bytes > bounds.max_bytes {
                return Err(too_large(reading.bytes));
            }
            layers.push(sites);
        }
        let Reading { weights, rank, bytes, changed, .. } = reading;
        weights.finish("the adapter that its configuration describes").map_err(unusable)?;
        let weights = AdapterWeights::new(layers);
        let targets = PROJECTIONS.iter().filter(|name| changed.contains(*name));
        let targets = targets.map(|name| (*name).to_owned()).collect();
        Ok(LoadedAdapter { weights, rank, targets, bytes, fingerprint })
    }
}

/// An adapter that is being read.
struct Reading {
    config: AdapterConfig,
    weights: Weights,
    /// The highest so far.
    rank: usize,
    bytes: u64,
    /// Names of projections.
    changed: BTreeSet<&'static str>,
}

impl Reading {
    /// What the adapter adds to one matrix, if anything.
    fn site<M: LowRankMaker>(
        &mut self,
        loader: &Loader<M>,
        layer: usize,
        site: Site,
    ) -> Result<Option<M::LowRank>, LoadError> {
        let inputs = loader.widths.inputs(site);
        let (mut factors, mut outputs) = (Vec::new(), 0);
        for projection in loader.widths.projections(site) {
            let module = format!("model.layers.{layer}.{}.{}", projection.module, projection.name);
            if self.config.changes(&module) {
                factors.push(self.factors(&module, projection.outputs, inputs, outputs)?);
                self.changed.insert(projection.name);
            }
            outputs += projection.outputs;
        }
        if factors.is_empty() {
            return Ok(None);
        }
        let (made, bytes) = loader.maker.make(&factors, Width { inputs, outputs })?;
        self.bytes += bytes;
        Ok(Some(made))
    }

    fn factors(
        &mut self,
        module: &str,
        outputs: usize,
        inputs: usize,
        first_output: usize,
    ) -> Result<FactorTensors, LoadError> {
        let (rank, scale) = self.config.factors(module)?;
        self.rank = self.rank.max(rank);
        let down = self.finite(&format!("base_model.model.{module}.lora_A.weight"), &[rank, inputs])?;
        let up = self.finite(&format!("base_model.model.{module}.lora_B.weight"), &[outputs, rank])?;
        Ok(FactorTensors { down, up: up.f_mul_scalar(scale)?, first_output })
    }

    fn finite(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let tensor = self.weights.take(name, shape)?;
        if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(LoadError::NotFinite { file: self.weights.path().into(), tensor: name.into() });
        }
        Ok(tensor)
    }
}

fn fingerprint(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => hash.update(&piece[..length]),
        }
    }
}
