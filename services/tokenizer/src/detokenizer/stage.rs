//! The twins of the `tokenizers` library's decoders, one token at a time.
//!
//! A decoder that treats each token for itself is asked token by token. Of the others, each looks at something beyond
//! the token: whether it is the first, whether it is the last, the run of bytes it stands in, or the whole text.

use std::{mem, sync::Arc};

use tokenizers::{Decoder as _, DecoderWrapper};

use super::{
    NotStreamable,
    strip::Strip,
    utf8::{Utf8, bytes_of},
};
use crate::error::Error;

/// One step from tokens to text.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Treats each token for itself.
    Each(Arc<DecoderWrapper>),
    /// Treats the first token differently from all others.
    First { decoder: Arc<DecoderWrapper>, started: bool },
    /// Treats the last token differently, so one is held back.
    Last { decoder: Arc<DecoderWrapper>, held: Option<String> },
    /// Reads `<0xE2>` as a byte. What a byte becomes depends on its whole run, so the run is held back.
    ByteFallback { decoder: Arc<DecoderWrapper>, run: Vec<String> },
    /// Reads each character as a byte.
    ByteLevel(Utf8),
    /// Strips each token.
    StripEach(Strip),
    /// Strips the text.
    StripText(Strip),
    /// Puts a space between tokens.
    Join { started: bool },
}

impl Stage {
    /// For a tokenizer without a decoder.
    pub(super) fn joining() -> Self {
        Self::Join { started: false }
    }

    /// Takes the next piece and gives what became final.
    pub(super) fn push(&mut self, piece: String) -> Result<Vec<String>, Error> {
        match self {
            Self::Each(decoder) => chain(decoder, vec![piece]),
            Self::First { decoder, started } => {
                if !mem::replace(started, true) {
                    return chain(decoder, vec![piece]);
                }
                let mut with_an_earlier = chain(decoder, vec![String::new(), piece])?;
                Ok(with_an_earlier.split_off(1))
            }
            Self::Last { decoder, held } => match held.replace(piece) {
                None => Ok(Vec::new()),
                Some(earlier) => {
                    let mut with_a_later = chain(decoder, vec![earlier, String::new()])?;
                    with_a_later.truncate(1);
                    Ok(with_a_later)
                }
            },
            Self::ByteFallback { run, .. } if is_byte(&piece) => {
                run.push(piece);
                Ok(Vec::new())
            }
            Self::ByteFallback { decoder, run } => {
                let mut tokens = mem::take(run);
                tokens.push(piece);
                chain(decoder, tokens)
            }
            Self::ByteLevel(utf8) => Ok(vec![utf8.push(&bytes_of(piece))]),
            Self::StripEach(strip) => Ok(vec![strip.clone().push(&piece)]),
            Self::StripText(strip) => Ok(vec![strip.push(&piece)]),
            Self::Join { started } => {
                let first = !mem::replace(started, true);
                Ok(vec![if first { piece } else { format!(" {piece}") }])
            }
        }
    }

    /// Gives what was held back.
    pub(super) fn finish(&mut self) -> Result<Vec<String>, Error> {
        match self {
            Self::Last { decoder, held } => match held.take() {
                None => Ok(Vec::new()),
                Some(last) => chain(decoder, vec![last]),
            },
            Self::ByteFallback { decoder, run } => chain(decoder, mem::take(run)),
            Self::ByteLevel(utf8) => Ok(vec![utf8.finish()]),
            // What a strip holds back is what it strips from the end.
            Self::Each(_)
            | Self::First { .. }
            | Self::StripEach(_)
            | Self::StripText(_)
            | Self::Join { .. } => Ok(Vec::new()),
        }
    }
}

impl Stage {
    /// The bytes that this token stands for, where this stage reads it as bytes.
    pub(super) fn bytes_of(&self, token: &str) -> Option<Vec<u8>> {
        match self {
            Self::ByteLevel(_) => Some(bytes_of(token.to_owned())),
            Self::ByteFallback { .. } => byte(token).map(|byte| vec![byte]),
            Self::Each(_)
            | Self::First { .. }
            | Self::Last { .. }
            | Self::StripEach(_)
            | Self::StripText(_)
            | Self::Join { .. } => None,
        }
    }
}

/// The twins of a decoder, in order.
pub(super) fn twins(decoder: &DecoderWrapper) -> Result<Vec<Stage>, NotStreamable> {
    let mut stages = Vec::new();
    let mut fused = false;
    add_twins(decoder, &mut stages, &mut fused)?;
    Ok(stages)
}

/// `fused`: whether what comes next sees one token, the text.
fn add_twins(
    decoder: &DecoderWrapper,
    stages: &mut Vec<Stage>,
    fused: &mut bool,
) -> Result<(), NotStreamable> {
    let ours = || Arc::new(decoder.clone());
    let (name, stage) = match decoder {
        DecoderWrapper::Sequence(sequence) => {
            return sequence.get_decoders().iter().try_for_each(|decoder| add_twins(decoder, stages, fused));
        }
        // From here on there is one token; the pieces of a stream are parts of it.
        DecoderWrapper::Fuse(_) => {
            *fused = true;
            return Ok(());
        }
        DecoderWrapper::Strip(strip) => {
            let strip = Strip::new(strip.content, strip.start, strip.stop);
            stages.push(if *fused { Stage::StripText(strip) } else { Stage::StripEach(strip) });
            return Ok(());
        }
        DecoderWrapper::CTC(_) => {
            let reason = "it is made for speech, where tokens repeat";
            return Err(NotStreamable { decoder: "CTC", reason });
        }
        DecoderWrapper::ByteLevel(_) => ("ByteLevel", Stage::ByteLevel(Utf8::default())),
        DecoderWrapper::ByteFallback(_) => {
            ("ByteFallback", Stage::ByteFallback { decoder: ours(), run: Vec::new() })
        }
        DecoderWrapper::Replace(_) => ("Replace", Stage::Each(ours())),
        DecoderWrapper::Metaspace(_) => ("Metaspace", Stage::First { decoder: ours(), started: false }),
        DecoderWrapper::WordPiece(_) => ("WordPiece", Stage::First { decoder: ours(), started: false }),
        DecoderWrapper::BPE(_) => ("BPEDecoder", Stage::Last { decoder: ours(), held: None }),
    };
    if *fused {
        let reason = "it comes after the tokens were fused, so it may need the whole text at once";
        return Err(NotStreamable { decoder: name, reason });
    }
    *fused = matches!(stage, Stage::ByteLevel(_));
    stages.push(stage);
    Ok(())
}

fn chain(decoder: &DecoderWrapper, tokens: Vec<String>) -> Result<Vec<String>, Error> {
    decoder.decode_chain(tokens).map_err(Error::Tokenizer)
}

fn is_byte(token: &str) -> bool {
    byte(token).is_some()
}

/// The byte as which the library reads a token: its own test, to the letter.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x").and_then(|token| token.strip_suffix('>'));
    digits.filter(|_| token.len() == 6).and_then(|digits| u8::from_str_radix(digits, 16).ok())
}
