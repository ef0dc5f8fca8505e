//! Attention straight from the blocks of the cache, for decode and for chunks of prompts alike.
//!
//! Two passes over a step's rows: `enter` rotates queries and keys and writes keys and values to the cache; `attend` lets
//! each query look at all positions up to its own. The softmax runs block by block along absolute positions, and a long
//! context is looked at in `shares`, so a row's result depends neither on the chunk it came in nor on the threads.

mod attend;
mod enter;
mod plan;
mod shares;
mod soften;

pub(crate) use plan::{Plan, Sequence};

use super::{
    Cpu,
    cache::{Element, LayerCache, Pages, Store},
    shared::SharedMut,
};

/// Weights of the norms that Qwen3 puts on each head's query and key.
#[derive(Debug)]
pub(crate) struct HeadNorms {
    /// `[head_dim]`
    pub(crate) query: Vec<f32>,
    /// `[head_dim]`
    pub(crate) key: Vec<f32>,
    /// Added to the mean square.
    pub(crate) epsilon: f32,
}

/// What attention of one layer works with beside the rows.
#[derive(Debug)]
pub(crate) struct Layer<'a> {
    /// Norms of the heads, where the model has them.
    pub(crate) norms: Option<&'a HeadNorms>,
    /// Its keys and values.
    pub(crate) cache: &'a mut LayerCache,
}

impl Cpu {
    /// Writes the rows' keys and values to the layer's cache, and attends: `qkv` is
    /// `[rows, (heads + 2 kv_heads) * head_dim]` and is left in disorder, `output` is `[rows, heads * head_dim]`.
    ///
    /// # Panics
    /// If plan, layer and lengths do not belong together.
    pub(crate) fn attention(
        &mut self,
        qkv: &mut [f32],
        layer: Layer<'_>,
        plan: &Plan<'_>,
        output: &mut [f32],
    ) {
        let Layer { norms, cache } = layer;
        let geometry = cache.geometry;
        assert_eq!(plan.geometry, geometry, "a plan for this cache");
        assert_eq!(qkv.len(), plan.positions.len() * geometry.row_width(), "a row for each position");
        assert_eq!(
            output.len(),
            plan.positions.len() * geometry.heads * geometry.head_dim,
            "an output for each query"
        );
        if let Some(norms) = norms {
            assert!(
                norms.query.len() == geometry.head_dim && norms.key.len() == geometry.head_dim,
                "norms of a head"
            );
        }
        match &mut cache.store {
            Store::F32(pages) => self.attention_in(qkv, norms, (plan, pages), output),
            Store::Bf16(pages) => self.attention_in(qkv, norms, (plan, pages), output),
            Store::F16(pages) => self.attention_in(qkv, norms, (plan, pages), output),
            Store::Int8(pages) => self.attention_in(qkv, norms, (plan, pages), output),
        }
    }

    fn attention_in<T: Element>(
        &mut self,
        qkv: &mut [f32],
        norms: Option<&HeadNorms>,
        (plan, pages): (&Plan<'_>, &mut Pages<T>),
        output: &mut [f32],
    ) {
        let isa = self.isa;
        let target = enter::Target {
            keys: SharedMut::new(&mut pages.keys),
            values: SharedMut::new(&mut pages.values),
            key_units: SharedMut::new(&mut pages.key_units),
            value_units: SharedMut::new(&mut pages.value_units),
        };
        self.each_row(qkv, plan.geometry.row_width(), &|row, values| {
            isa.run(enter::Enter { row, values, norms, plan, target });
        });
        let output = SharedMut::new(output);
        let (qkv, pages) = (&*qkv, &*pages);
        let split: Vec<_> = plan.split.iter().map(|count| shares::Shares::new(*count)).collect();
        self.pool.run(plan.items.len(), &|item| {
            let item = &plan.items[item];
            isa.run(attend::Attend { item, qkv, pages, plan, split: &split, output });
        });
    }
}
