//! A small stand-in for the engine: block tables and steps.

use crate::{
    model::{AdapterWeights, Batch, BlockId, Model, ScoredRow, SequenceRows, StepOutput, Wanted},
    sampler::Logprobs,
};

/// Drives a model with blocks that are handed out in a shuffled order.
pub(super) struct Driver {
    pub(super) model: Box<dyn Model>,
    block_size: usize,
    free: Vec<BlockId>,
    /// Of the next step.
    scored: Vec<ScoredRow>,
    /// Never chosen.
    pub(super) forbidden: Option<u32>,
}

/// A sequence: its tokens, how many are in the cache, and where.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) tokens: Vec<u32>,
    cached: usize,
    blocks: Vec<BlockId>,
    pub(super) adapter: Option<AdapterWeights>,
}

impl Sequence {
    pub(super) fn new(prompt: &[u32]) -> Self {
        Self { tokens: prompt.to_vec(), cached: 0, blocks: Vec::new(), adapter: None }
    }

    fn left(&self) -> usize {
        self.tokens.len() - self.cached
    }
}

impl Driver {
    pub(super) fn new(model: Box<dyn Model>) -> Self {
        Self::with_blocks(model, 1024, 16)
    }

    pub(super) fn with_blocks(mut model: Box<dyn Model>, blocks: usize, block_size: usize) -> Self {
        model.allocate_cache(blocks, block_size).unwrap();
        // 7 is prime to any power of two: neighbours in a table are never neighbours in the cache.
        let free = (0..blocks).map(|index| (index * 7 % blocks) as BlockId).collect();
        Self { model, block_size, free, scored: Vec::new(), forbidden: None }
    }

    /// One step: `rows` next tokens of each sequence.
    pub(super) fn step(&mut self, work: &mut [(&mut Sequence, usize, Wanted)]) -> StepOutput {
        let mut batch = Batch { scored: std::mem::take(&mut self.scored), ..Batch::default() };
        for (sequence, rows, output) in work.iter_mut() {
            let (from, to) = (sequence.cached, sequence.cached + *rows);
            while sequence.blocks.len() * self.block_size < to {
                sequence.blocks.push(self.free.pop().expect("enough blocks"));
            }
            let first = batch.token_ids.len();
            batch.token_ids.extend(&sequence.tokens[from..to]);
            batch.positions.extend(from as u32..to as u32);
            batch.sequences.push(SequenceRows {
                rows: first..batch.token_ids.len(),
                blocks: sequence.blocks.clone(),
                context_len: to,
                adapter: sequence.adapter.clone(),
                output: *output,
            });
            sequence.cached = to;
        }
        self.model.forward(&batch).unwrap()
    }

    /// How likely each token after the first is, and the `top` likeliest there, in chunks of `chunk` tokens.
    pub(super) fn scores(&mut self, tokens: &[u32], top: usize, chunk: usize) -> Vec<Logprobs> {
        let mut sequence = Sequence::new(tokens);
        let mut scores = Vec::new();
        while sequence.left() > 0 {
            let (from, rows) = (sequence.cached, sequence.left().min(chunk));
            let next = tokens[from + 1..].iter().take(rows).enumerate();
            self.scored = next.map(|(row, next)| ScoredRow { row, next: *next, top }).collect();
            let output = self.step(&mut [(&mut sequence, rows, Wanted::Nothing)]);
            scores.extend(output.scores.into_iter().map(Result::unwrap));
        }
        self.free(sequence);
        scores
    }

    pub(super) fn free(&mut self, sequence: Sequence) {
        self.free.extend(sequence.blocks);
    }

    fn choose(&self, logits: &[f32]) -> u32 {
        let mut logits = logits.to_vec();
        if let Some(id) = self.forbidden {
            logits[id as usize] = f32::NEG_INFINITY;
        }
        super::argmax(&logits)
    }

    /// Logits after the prompt, prefilled in chunks of `chunk` tokens.
    pub(super) fn prefill(&mut self, sequence: &mut Sequence, chunk: usize) -> Vec<f32> {
        loop {
            let rows = sequence.left().min(chunk);
            let last = rows == sequence.left();
            let output = if last { Wanted::LastLogits } else { Wanted::Nothing };
            let output = self.step(&mut [(&mut *sequence, rows, output)]);
            if last {
                return output.logits.into_vec();
            }
        }
    }

    /// `count` greedy tokens after the prompt.
    pub(super) fn greedy(&mut self, prompt: &[u32], count: usize, chunk: usize) -> Vec<u32> {
        self.greedy_from(Sequence::new(prompt), count, chunk)
    }

    /// `count` greedy tokens after a sequence's own.
    pub(super) fn greedy_from(&mut self, mut sequence: Sequence, count: usize, chunk: usize) -> Vec<u32> {
        let mut logits = self.prefill(&mut sequence, chunk);
        let mut answer = vec![self.choose(&logits)];
        while answer.len() < count {
            sequence.tokens.push(answer[answer.len() - 1]);
            logits = self.step(&mut [(&mut sequence, 1, Wanted::LastLogits)]).logits.into_vec();
            answer.push(self.choose(&logits));
        }
        self.free(sequence);
        answer
    }

    /// `count` greedy tokens after each prompt, all in the same steps: each sequence joins one step after the one before.
    pub(super) fn greedy_together(&mut self, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
        let mut sequences: Vec<Sequence> = prompts.iter().map(|prompt| Sequence::new(prompt)).collect();
        let mut answers = vec![Vec::new(); prompts.len()];
        for step in 0..count + prompts.len() - 1 {
            let running = |index: usize| step >= index && step < index + count;
            let mut work: Vec<_> = sequences
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| running(*index))
                .map(|(_, sequence)| {
                    let rows = sequence.left();
                    (sequence, rows, Wanted::LastLogits)
                })
                .collect();
            let logits = self.step(&mut work).logits;
            let vocabulary = self.model.info().vocabulary_size;
            let indices = (0..prompts.len()).filter(|index| running(*index));
            for (index, logits) in indices.zip(logits.chunks_exact(vocabulary)) {
                let token = self.choose(logits);
                answers[index].push(token);
                sequences[index].tokens.push(token);
            }
        }
        sequences.into_iter().for_each(|sequence| self.free(sequence));
        answers
    }
}
