//! Rotary frequencies, in the forms that Llama-family models use.

/// How a model turns positions into angles.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    /// Width of a head; even.
    pub(super) head_dim: usize,
    /// The base of the frequencies.
    pub(super) theta: f64,
    /// What is done to go beyond the trained length.
    pub(super) scaling: Scaling,
}

/// What is done to go beyond the trained length.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scaling {
    /// Nothing.
    Default,
    /// All frequencies over `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than `trained`.
    ///
    /// The keys already in the cache keep the base of their time, as in transformers; so a long prompt prefilled in chunks
    /// is rotated by the length it had at each chunk.
    Dynamic {
        /// At least 1.
        factor: f64,
        /// Longest trained sequence.
        trained: usize,
    },
    /// Low frequencies over `factor`, high ones as they are, a ramp between.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Where the ramp begins, in turns within the trained length.
        low: f64,
        /// Where it ends; above `low`.
        high: f64,
        /// Longest sequence before the scaling.
        trained: usize,
    },
}

impl Rope {
    /// `[head_dim / 2]` angles for one position, for a sequence of `length` tokens.
    pub(super) fn frequencies(&self, length: usize) -> Vec<f32> {
        let theta = self.theta_at(length);
        (0..self.head_dim / 2)
            .map(|pair| {
                let frequency = theta.powf(-((2 * pair) as f64 / self.head_dim as f64));
                // transformers keeps them in f32, and positions are multiplied in f32 too.
                self.scaled(frequency) as f32
            })
            .collect()
    }

    /// Whether the frequencies depend on the length of the sequence.
    pub(super) fn depends_on_length(&self) -> bool {
        matches!(self.scaling, Scaling::Dynamic { .. })
    }

    fn theta_at(&self, length: usize) -> f64 {
        let Scaling::Dynamic { factor, trained } = self.scaling else { return self.theta };
        let (dim, stretch) = (self.head_dim as f64, length.max(trained) as f64 / trained as f64);
        self.theta * (factor * stretch - (factor - 1.0)).powf(dim / (dim - 2.0))
    }

    fn scaled(&self, frequency: f64) -> f64 {
        match self.scaling {
            Scaling::Default | Scaling::Dynamic { .. } => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low, high, trained } => {
                let turns = trained as f64 * frequency / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        }
    }
}

/// The rotations of a step's rows.
#[derive(Debug, Default)]
pub(super) struct Rotations {
    /// `[rows, head_dim / 2]`
    pub(super) cos: Vec<f32>,
    /// `[rows, head_dim / 2]`
    pub(super) sin: Vec<f32>,
}

impl Rotations {
    /// Adds rows at `positions`, rotated by `frequencies`.
    pub(super) fn extend(&mut self, positions: &[u32], frequencies: &[f32]) {
        for position in positions {
            for frequency in frequencies {
                let (sin, cos) = (*position as f32 * frequency).sin_cos();
                self.cos.push(cos);
                self.sin.push(sin);
            }
        }
    }
}
