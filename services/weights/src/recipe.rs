//! Which tensor of a folder gets which format.
//!
//! Names are those of the Llama family. Norms and biases stay as they are: they are few, and everything passes through them.
//! With int4 the embedding and the head get int8: an error in the head shifts all logits of all tokens.

use crate::{Entry, Format, Group, QuantizedMatrix, Store, WeightsError, quantize::Plain};

/// The projections of a layer.
const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// What becomes of the tensors of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    format: Format,
}

impl Recipe {
    /// The recipe of a format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format that was asked for.
    pub fn format(self) -> Format {
        self.format
    }

    /// The format of a tensor; none for one that stays as it is.
    ///
    /// Where the inputs do not divide into the groups that were asked for, groups are smaller; where they divide into none,
    /// the tensor gets int8.
    pub fn format_of(self, name: &str, shape: &[usize]) -> Option<Format> {
        let [_, inputs] = shape else { return None };
        let parts: Vec<&str> = name.split('.').collect();
        match (parts.as_slice(), self.format) {
            (["model", "embed_tokens", "weight"] | ["lm_head", "weight"], _) => Some(Format::Int8),
            (["model", "layers", _, _, projection, "weight"], format) if PROJECTIONS.contains(projection) => {
                Some(match format {
                    Format::Int8 => Format::Int8,
                    Format::Int4(asked) => fitting(asked, *inputs),
                })
            }
            _ => None,
        }
    }

    /// Reads a matrix of plain weights and quantizes it. One that this recipe has no format for gets the format itself.
    ///
    /// # Errors
    /// It cannot be read, or has no form in its format.
    pub fn quantize(
        self,
        store: &Store,
        name: &str,
        shape: [usize; 2],
        threads: usize,
    ) -> Result<(QuantizedMatrix, Entry), WeightsError> {
        let format = self.format_of(name, &shape).unwrap_or(self.format);
        let values = store.floats(name, &shape)?;
        let importance = importance(store, name, shape[1])?;
        let plain = Plain { values: &values, inputs: shape[1], importance: &importance };
        let unfit =
            |reason| WeightsError::Unfit { file: store.file_of(name).into(), tensor: name.into(), reason };
        let matrix = plain.quantize(format, threads).map_err(unfit)?;
        let relative_error = matrix.relative_error(&values);
        Ok((matrix, Entry { format, shape, relative_error }))
    }

    /// The norm whose weights scale what a matrix takes, where there is one: the square of each is a fair guess at how much
    /// an error in that column weighs.
    pub(crate) fn norm_before(name: &str) -> Option<String> {
        let parts: Vec<&str> = name.split('.').collect();
        match parts.as_slice() {
            ["model", "embed_tokens", "weight"] | ["lm_head", "weight"] => Some("model.norm.weight".into()),
            ["model", "layers", layer, "self_attn", "q_proj" | "k_proj" | "v_proj", "weight"] => {
                Some(format!("model.layers.{layer}.input_layernorm.weight"))
            }
            ["model", "layers", layer, "mlp", "gate_proj" | "up_proj", "weight"] => {
                Some(format!("model.layers.{layer}.post_attention_layernorm.weight"))
            }
            _ => None,
        }
    }
}

/// How much an error in each column of a matrix weighs.
fn importance(store: &Store, name: &str, inputs: usize) -> Result<Vec<f32>, WeightsError> {
    let norm = Recipe::norm_before(name).filter(|norm| store.describe(norm).is_some());
    match norm {
        Some(norm) => Ok(store.floats(&norm, &[inputs])?.into_iter().map(|weight| weight * weight).collect()),
        None => Ok(vec![1.0; inputs]),
    }
}

/// Int4 in the largest groups, at most `asked`, that `inputs` divide into.
fn fitting(asked: Group, inputs: usize) -> Format {
    let fits = |group: &Group| *group <= asked && inputs.is_multiple_of(group.size());
    Group::ALL.into_iter().find(fits).map_or(Format::Int8, Format::Int4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedding_and_the_head_keep_eight_bits() {
        let recipe = Recipe::new(Format::Int4(Group::G32));
        assert_eq!(recipe.format_of("model.embed_tokens.weight", &[512, 64]), Some(Format::Int8));
        assert_eq!(recipe.format_of("lm_head.weight", &[512, 64]), Some(Format::Int8));
        let projection = "model.layers.7.self_attn.q_proj.weight";
        assert_eq!(recipe.format_of(projection, &[64, 64]), Some(Format::Int4(Group::G32)));
    }

    #[test]
    fn norms_and_biases_stay_as_they_are() {
        for format in Format::ALL {
            let recipe = Recipe::new(format);
            for name in [
                "model.norm.weight",
                "model.layers.0.input_layernorm.weight",
                "model.layers.0.self_attn.q_proj.bias",
            ] {
                assert_eq!(recipe.format_of(name, &[64]), None, "{name}");
            }
            assert_eq!(recipe.format_of("model.layers.0.self_attn.rotary_emb.inv_freq", &[32]), None);
        }
    }

    #[test]
    fn groups_shrink_until_the_inputs_divide_into_them() {
        let recipe = Recipe::new(Format::Int4(Group::G128));
        let of = |inputs| recipe.format_of("model.layers.0.mlp.up_proj.weight", &[8, inputs]);
        assert_eq!(of(1536), Some(Format::Int4(Group::G128)));
        assert_eq!(of(576), Some(Format::Int4(Group::G64)));
        assert_eq!(of(96), Some(Format::Int4(Group::G32)));
        assert_eq!(of(40), Some(Format::Int8));
    }
}
