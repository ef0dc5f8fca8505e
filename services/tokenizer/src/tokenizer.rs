//! The tokenizer of one model folder: encode, decode, and what is loaded.

use std::path::Path;

use tokenizers::{
    Model as _, Normalizer as _, OffsetType, PreTokenizedString, PreTokenizer as _, Tokenizer as Library,
};

use crate::{
    chat_template::ChatTemplates,
    config::{SpecialTokensInContent, TokenizerConfig},
    conversation::Conversation,
    detokenizer::{Decoder, Detokenizer},
    error::{Error, LoadError},
    fingerprint,
    folder::Folder,
    special_tokens::{Piece, SpecialTokens},
};

/// A loaded tokenizer. Immutable, so that any number of calls share it.
#[derive(Debug)]
pub struct Tokenizer {
    library: Library,
    decoder: Decoder,
    templates: Option<ChatTemplates>,
    special_tokens: SpecialTokens,
    in_content: SpecialTokensInContent,
    vocabulary_size: u32,
    end_token_ids: Vec<u32>,
    fingerprint: String,
}

impl Tokenizer {
    /// Loads a model folder.
    ///
    /// # Errors
    /// A folder that is not usable: the file, what was expected and what was found.
    pub fn load(config: &TokenizerConfig) -> Result<Self, LoadError> {
        let folder = Folder::open(&config.folder)?;
        let path = folder.join("tokenizer.json");
        let json = folder.tokenizer_json()?;
        let library = library(&path, &json)?;
        let decoder = Decoder::new(library.get_decoder()).map_err(|twin| LoadError::NotStreamable {
            path: path.clone(),
            decoder: twin.decoder,
            reason: twin.reason,
        })?;
        let named_tokens = folder.named_tokens()?;
        let vocabulary_size = vocabulary_size(&library, &folder)?;
        let eos_token = named_tokens.get("eos_token").and_then(|token| library.token_to_id(token));
        let end_token_ids = match folder.end_token_ids()? {
            Some(ids) => ids,
            None => eos_token.into_iter().collect(),
        };
        if let Some(&id) = end_token_ids.iter().find(|id| **id >= vocabulary_size) {
            return Err(LoadError::EndTokenOutside { path: config.folder.clone(), id, vocabulary_size });
        }
        Ok(Self {
            templates: ChatTemplates::compile(folder.chat_templates()?, named_tokens, config.template_fuel)?,
            special_tokens: special_tokens(&library)
                .map_err(|source| LoadError::SpecialTokens { path, source })?,
            in_content: config.special_tokens_in_content,
            fingerprint: fingerprint::of(&json),
            library,
            decoder,
            vocabulary_size,
            end_token_ids,
        })
    }

    /// Text to ids. Special tokens in the text are special; `add_special_tokens` adds those that the model expects
    /// around a text.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.library.encode_fast(text, add_special_tokens).map_err(Error::Tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A conversation to ids, through the model's chat template, which may make at most `max_text_bytes` of it.
    ///
    /// # Errors
    /// A model without a template, or a conversation that the template refuses, cannot work with or does not come to
    /// an end with.
    pub fn encode_chat(&self, conversation: Conversation, max_text_bytes: usize) -> Result<Vec<u32>, Error> {
        let templates = self.templates.as_ref().ok_or(Error::NoChatTemplate)?;
        let mut variables = conversation.into_variables();
        let marks = match self.in_content {
            SpecialTokensInContent::Text => self.special_tokens.mark(&mut variables)?,
            SpecialTokensInContent::Token => None,
        };
        let rendered = templates.render(variables)?;
        if rendered.len() > max_text_bytes {
            return Err(Error::RenderedTooLong { bytes: rendered.len(), limit: max_text_bytes });
        }
        match marks {
            // The template itself writes what the model expects around a conversation.
            None => self.encode(&rendered, false),
            Some(marks) => self.encode_pieces(&self.special_tokens.split(&rendered, marks)),
        }
    }

    /// Ids to text. Ids without a token of their own (padding of the model's embedding) are left out, as are special
    /// tokens with `skip_special_tokens`.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, Error> {
        let mut detokenizer = self.detokenizer();
        let mut text = detokenizer.push(self.tokens(ids, skip_special_tokens))?;
        text.push_str(&detokenizer.finish()?);
        Ok(text)
    }

    /// How an id is spelled by itself, as it stands within a text; nothing where it has no token of its own.
    ///
    /// # Errors
    /// If the `tokenizers` library fails.
    pub fn spell(&self, id: u32) -> Result<Vec<u8>, Error> {
        self.tokens(&[id], false).next().map_or_else(|| Ok(Vec::new()), |token| self.decoder.spell(token))
    }

    /// Begins a text whose ids come one after the other: [`Tokenizer::tokens`] of them go to it.
    pub fn detokenizer(&self) -> Detokenizer {
        self.decoder.start()
    }

    /// How the vocabulary spells each id that becomes text.
    pub fn tokens(&self, ids: &[u32], skip_special_tokens: bool) -> impl Iterator<Item = String> {
        let added = self.library.get_added_vocabulary();
        let token =
            |id: &u32| added.simple_id_to_token(*id).or_else(|| self.library.get_model().id_to_token(*id));
        ids.iter()
            .filter_map(token)
            .filter(move |token| !(skip_special_tokens && added.is_special_token(token)))
    }

    /// Ids run from 0 to one less than this.
    pub fn vocabulary_size(&self) -> u32 {
        self.vocabulary_size
    }

    /// SHA-256 of `tokenizer.json`, in lower-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Ids that end a turn or a text.
    pub fn end_token_ids(&self) -> &[u32] {
        &self.end_token_ids
    }

    /// Whether [`Tokenizer::encode_chat`] can work.
    pub fn has_chat_template(&self) -> bool {
        self.templates.is_some()
    }

    fn encode_pieces(&self, pieces: &[Piece<'_>]) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            match *piece {
                Piece::Markup("") => {}
                Piece::Markup(text) if index == 0 => ids.extend(self.encode(text, false)?),
                Piece::Markup(text) => ids.extend(self.encode_inside(text, |text| self.encode(text, false))?),
                Piece::Text(token) => {
                    let as_text = self.encode_inside(token, |text| self.encode_without_added_tokens(text))?;
                    if self.special_tokens.id(token).is_some_and(|id| as_text.contains(&id)) {
                        return Err(Error::Inseparable(token.to_owned()));
                    }
                    ids.extend(as_text);
                }
            }
        }
        Ok(ids)
    }

    /// Encodes a text that stands inside of another. SentencePiece vocabularies put a space before the first word of
    /// a text; so it is encoded behind a line break, whose ids are then taken away again. (transformers does so too.)
    fn encode_inside(
        &self,
        text: &str,
        encode: impl Fn(&str) -> Result<Vec<u32>, Error>,
    ) -> Result<Vec<u32>, Error> {
        let line_break = self.encode("\n", false)?;
        let ids = encode(&format!("\n{text}"))?;
        match ids.strip_prefix(&line_break[..]) {
            Some(ids) => Ok(ids.to_vec()),
            None => encode(text),
        }
    }

    fn encode_without_added_tokens(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encode = || {
            let mut text = PreTokenizedString::from(text);
            if let Some(normalizer) = self.library.get_normalizer() {
                text.normalize(|text| normalizer.normalize(text))?;
            }
            if let Some(pre_tokenizer) = self.library.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut text)?;
            }
            text.tokenize(|text| self.library.get_model().tokenize(text.get()))?;
            text.into_encoding(None, 0, OffsetType::None)
        };
        Ok(encode().map_err(Error::Tokenizer)?.get_ids().to_vec())
    }
}

fn library(path: &Path, json: &[u8]) -> Result<Library, LoadError> {
    let not_a_tokenizer = |source| LoadError::NotATokenizer { path: path.to_owned(), source };
    let mut library = Library::from_bytes(json).map_err(not_a_tokenizer)?;
    // Some folders carry the settings of their training; transformers sets both aside unless asked.
    library.with_truncation(None).map_err(not_a_tokenizer)?;
    library.with_padding(None);
    Ok(library)
}

/// One more than the highest id of the tokenizer and of the model, whose embedding may be padded.
fn vocabulary_size(library: &Library, folder: &Folder) -> Result<u32, LoadError> {
    let of_tokenizer =
        library.get_vocab(true).into_values().max().map_or(0, |highest| highest.saturating_add(1));
    Ok(of_tokenizer.max(folder.model_vocabulary_size()?.unwrap_or(0)))
}

fn special_tokens(library: &Library) -> Result<SpecialTokens, aho_corasick::BuildError> {
    let added = library.get_added_tokens_decoder();
    let special = added.into_iter().filter(|(_, token)| token.special && !token.content.is_empty());
    SpecialTokens::new(special.map(|(id, token)| (token.content, id)))
}

#[cfg(test)]
mod tests;
