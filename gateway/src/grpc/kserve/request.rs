//! A request's tensors, as a request of our own API; or everything that is wrong with it at once.

use std::mem;

use tonic::Status;
use weft_proto::{
    gateway::v1::CompleteRequest,
    kserve::{
        InferTensorContents, ModelInferRequest,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};
use weft_runtime::status::Violations;

use super::{
    answer::{Form, TEXT_OUTPUT},
    fields,
    parameters::{self, Parameters},
};
use crate::{config::Limits, grpc::parse, request::Ask};

/// The tensor that goes in.
pub(super) const TEXT_INPUT: &str = "text_input";
/// The datatype of texts.
pub(super) const BYTES: &str = "BYTES";
/// The version of every model.
pub(super) const VERSION: &str = "1";
/// In raw contents, the length of an element stands before it in so many bytes.
const LENGTH_BYTES: usize = size_of::<u32>();

/// What a caller wants, after every rule was checked.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) ask: Ask,
    /// What is known of the answer's form by now.
    pub(super) form: Form,
    /// Whether the answer comes piece by piece; `None` leaves that to the method.
    pub(super) stream: Option<bool>,
}

/// A prompt and the form in which it came.
struct Prompt {
    text: String,
    shape: Vec<i64>,
    raw: bool,
}

/// Reads a request.
pub(super) fn read(request: ModelInferRequest, limits: &Limits) -> Result<Wanted, Status> {
    let mut faults = Violations::new();
    faults.require(is_version(&request.model_version), "model_version", || {
        version_rule(&request.model_version)
    });
    let Parameters { options, stream } = parameters::read(request.parameters, &mut faults);
    check_outputs(&request.outputs, &mut faults);
    let prompt = prompt(request.inputs, request.raw_input_contents, &mut faults);
    // Where the tensor is wrong, that is said already: our own rules are given a text that they have nothing against.
    let Prompt { text, shape, raw } =
        prompt.unwrap_or_else(|| Prompt { text: "-".to_owned(), shape: Vec::new(), raw: false });
    let ours = CompleteRequest {
        model: request.model_name,
        prompt: text,
        options: Some(options),
        ..CompleteRequest::default()
    };
    let ask = parse::complete(ours, limits).map_err(Status::from);
    if let Err(refusal) = &ask {
        fields::gather(refusal, &mut faults);
    }
    faults.into_result()?;
    let form = Form { id: request.id, shape, raw, ..Form::default() };
    Ok(Wanted { ask: ask?, form, stream })
}

/// Whether a model has this version.
pub(super) fn is_version(version: &str) -> bool {
    version.is_empty() || version == VERSION
}

/// What is wrong with a version that is none.
pub(super) fn version_rule(version: &str) -> String {
    format!("is {version:?}; must be empty or {VERSION:?}")
}

fn check_outputs(outputs: &[InferRequestedOutputTensor], faults: &mut Violations) {
    for (index, output) in outputs.iter().enumerate() {
        faults.require(output.name == TEXT_OUTPUT, &format!("outputs[{index}].name"), || {
            format!("is {:?}; must be {TEXT_OUTPUT:?}, the only tensor that comes out", output.name)
        });
        no_parameters(output.parameters.len(), &format!("outputs[{index}]"), faults);
    }
}

fn no_parameters(count: usize, tensor: &str, faults: &mut Violations) {
    faults.require(count == 0, &format!("{tensor}.parameters"), || {
        format!("has {count}; must have none: neither shared memory nor classification is served")
    });
}

/// The prompt, or what is wrong with the tensors.
fn prompt(inputs: Vec<InferInputTensor>, raw: Vec<Vec<u8>>, faults: &mut Violations) -> Option<Prompt> {
    let count = inputs.len();
    let Ok([input]) = <[InferInputTensor; 1]>::try_from(inputs) else {
        faults.push("inputs", format!("has {count} tensors; must have exactly one, {TEXT_INPUT:?}"));
        return None;
    };
    check_tensor(&input, faults);
    let (bytes, came_raw) = match (input.contents, raw.is_empty()) {
        (Some(_), false) => {
            let rule = "is set; must not be where `raw_input_contents` has the elements";
            faults.push("inputs[0].contents", rule);
            return None;
        }
        (Some(contents), true) => (typed_element(contents, faults)?, false),
        (None, _) => (raw_element(raw, faults)?, true),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(Prompt { text, shape: input.shape, raw: came_raw }),
        Err(error) => {
            let place = error.utf8_error().valid_up_to();
            faults.push(
                text_field(came_raw),
                format!("is not UTF-8 from byte {place} of the text on; must be"),
            );
            None
        }
    }
}

fn check_tensor(input: &InferInputTensor, faults: &mut Violations) {
    let InferInputTensor { name, datatype, shape, parameters, .. } = input;
    faults.require(name == TEXT_INPUT, "inputs[0].name", || format!("is {name:?}; must be {TEXT_INPUT:?}"));
    faults.require(datatype == BYTES, "inputs[0].datatype", || format!("is {datatype:?}; must be {BYTES:?}"));
    faults.require([&[1][..], &[1, 1]].contains(&&shape[..]), "inputs[0].shape", || {
        format!("is {shape:?}; must be [1] or [1, 1]: one prompt a request")
    });
    no_parameters(parameters.len(), "inputs[0]", faults);
}

fn text_field(raw: bool) -> &'static str {
    if raw { "raw_input_contents[0]" } else { "inputs[0].contents.bytes_contents" }
}

/// The one element of a tensor's own contents.
fn typed_element(mut contents: InferTensorContents, faults: &mut Violations) -> Option<Vec<u8>> {
    let texts = mem::take(&mut contents.bytes_contents);
    faults.require(contents == InferTensorContents::default(), "inputs[0].contents", || {
        "has elements of another datatype than BYTES; must have none".to_owned()
    });
    let count = texts.len();
    let element = <[Vec<u8>; 1]>::try_from(texts).ok();
    faults.require(element.is_some(), text_field(false), || {
        format!("has {count} elements; must have one, as the shape says")
    });
    element.map(|[text]| text)
}

/// The one element of the raw contents.
fn raw_element(raw: Vec<Vec<u8>>, faults: &mut Violations) -> Option<Vec<u8>> {
    let count = raw.len();
    let Ok([mut entry]) = <[Vec<u8>; 1]>::try_from(raw) else {
        let rule = format!("has {count} entries; must have one for each of the inputs, which are 1");
        faults.push("raw_input_contents", rule);
        return None;
    };
    let bytes = entry.len();
    let Some((length, text)) = entry.split_first_chunk::<LENGTH_BYTES>() else {
        let rule = format!("has {bytes} bytes; must have at least {LENGTH_BYTES}, the length of the text");
        faults.push(text_field(true), rule);
        return None;
    };
    let said = u32::from_le_bytes(*length);
    if usize::try_from(said) != Ok(text.len()) {
        let rule = format!("announces {said} bytes of text and has {}; must have as many", text.len());
        faults.push(text_field(true), rule);
        return None;
    }
    Some(entry.split_off(LENGTH_BYTES))
}
