//! Our words as tensors.

use std::collections::HashMap;

use futures::{TryStreamExt as _, future};
use tonic::Status;
use weft_proto::kserve::{
    InferParameter, InferTensorContents, ModelInferResponse, ModelMetadataResponse, ModelStreamInferResponse,
    ServerMetadataResponse, infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor,
    model_metadata_response::TensorMetadata,
};
use weft_runtime::status::code_name;

use super::{
    fields,
    request::{BYTES, TEXT_INPUT, VERSION},
};
use crate::{
    answer::{Event, Finished},
    pipeline::Events,
};

/// The tensor that comes out.
pub(super) const TEXT_OUTPUT: &str = "text_output";
/// Triton's name for the last answer to a request.
const FINAL: &str = "triton_final_response";

type Parameters = HashMap<String, InferParameter>;

/// What the answers to one request have in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    /// The caller's name for the request.
    pub(super) id: String,
    /// The model that answers.
    pub(super) model: String,
    /// The seed in use.
    pub(super) seed: u64,
    /// The shape of the prompt's tensor, and so of the answer's.
    pub(super) shape: Vec<i64>,
    /// Whether the text goes out as raw bytes, as the prompt came in.
    pub(super) raw: bool,
}

/// Why there is no further answer to a request of a stream.
#[derive(Debug)]
pub(super) struct Failed {
    /// Which request; `None` where the stream itself failed.
    pub(super) id: Option<String>,
    pub(super) status: Status,
}

impl Form {
    /// The next piece of an answer.
    pub(super) fn piece(&self, event: Event) -> ModelInferResponse {
        match event {
            Event::Delta { text, .. } => self.response(text, [(FINAL.to_owned(), of_bool(false))].into()),
            Event::Finished(finished) => last(self.response(String::new(), self.end(finished))),
        }
    }

    fn response(&self, text: String, parameters: Parameters) -> ModelInferResponse {
        let bytes = text.into_bytes();
        let (contents, raw_output_contents) = if self.raw {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
            (None, vec![[&length[..], &bytes[..]].concat()])
        } else {
            let contents =
                InferTensorContents { bytes_contents: vec![bytes], ..InferTensorContents::default() };
            (Some(contents), Vec::new())
        };
        let output = InferOutputTensor {
            name: TEXT_OUTPUT.to_owned(),
            datatype: BYTES.to_owned(),
            shape: self.shape.clone(),
            parameters: Parameters::new(),
            contents,
        };
        ModelInferResponse {
            model_name: self.model.clone(),
            model_version: VERSION.to_owned(),
            id: self.id.clone(),
            parameters,
            outputs: vec![output],
            raw_output_contents,
        }
    }

    /// What is said of an answer at its end.
    fn end(&self, finished: Finished) -> Parameters {
        let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
        let count = |count: u32| ParameterChoice::Int64Param(count.into());
        let known = [
            ("finish_reason", Some(text(finished.reason.name()))),
            ("stop_string", finished.stop_string.as_deref().map(text)),
            ("prompt_tokens", Some(count(finished.usage.prompt))),
            ("completion_tokens", Some(count(finished.usage.completion))),
            ("seed", Some(ParameterChoice::Uint64Param(self.seed))),
        ];
        let said = known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), parameter(value?))));
        said.collect()
    }
}

/// The whole answer at once.
pub(super) async fn whole(form: Form, events: Events) -> Result<ModelInferResponse, Status> {
    let add = |(mut text, end): (String, Parameters), event: Event| {
        future::ready(Ok(match event {
            Event::Delta { text: piece, .. } => {
                text.push_str(&piece);
                (text, end)
            }
            Event::Finished(finished) => (text, form.end(finished)),
        }))
    };
    let (text, end) =
        events.try_fold((String::new(), Parameters::new()), add).await.map_err(fields::status)?;
    Ok(form.response(text, end))
}

/// The last answer of a stream to a request.
pub(super) fn last(mut response: ModelInferResponse) -> ModelInferResponse {
    response.parameters.insert(FINAL.to_owned(), of_bool(true));
    response
}

/// An answer as it goes out in a stream. The stream outlives what is wrong with a request, unless the caller wants the
/// call's own status (`as_status`).
pub(super) fn in_stream(
    answer: Result<ModelInferResponse, Failed>,
    as_status: bool,
) -> Result<ModelStreamInferResponse, Status> {
    match answer {
        Ok(response) => Ok(ModelStreamInferResponse {
            infer_response: Some(response),
            ..ModelStreamInferResponse::default()
        }),
        Err(Failed { id: Some(id), status }) if !as_status => Ok(ModelStreamInferResponse {
            error_message: format!("{}: {}", code_name(status.code()), status.message()),
            infer_response: Some(ModelInferResponse { id, ..ModelInferResponse::default() }),
        }),
        Err(Failed { status, .. }) => Err(status),
    }
}

pub(super) fn server_metadata() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "weft".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: vec!["parameters".to_owned()],
    }
}

pub(super) fn model_metadata(model: &str) -> ModelMetadataResponse {
    let one_text = |name: &str| {
        vec![TensorMetadata { name: name.to_owned(), datatype: BYTES.to_owned(), shape: vec![1] }]
    };
    ModelMetadataResponse {
        name: model.to_owned(),
        versions: vec![VERSION.to_owned()],
        platform: "weft".to_owned(),
        inputs: one_text(TEXT_INPUT),
        outputs: one_text(TEXT_OUTPUT),
    }
}

fn of_bool(truth: bool) -> InferParameter {
    parameter(ParameterChoice::BoolParam(truth))
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}
