//! A request's parameters, as options of our own API. Their ranges are for its rules to judge; here, they only have to be
//! what they are called.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
};

use weft_proto::{
    common::v1::{SamplingParams, StopConditions},
    gateway::v1::GenerationOptions,
    kserve::{InferParameter, infer_parameter::ParameterChoice as Choice},
};
use weft_runtime::status::Violations;

use super::fields;

/// What parameters ask for.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    pub(super) options: GenerationOptions,
    pub(super) stream: Option<bool>,
}

/// Reads parameters. What is not known is refused: a wish that is not granted must not look like one that is.
pub(super) fn read(given: HashMap<String, InferParameter>, faults: &mut Violations) -> Parameters {
    let (mut sampling, mut stop) = (SamplingParams::default(), StopConditions::default());
    let (mut stop_strings, mut stream) = (Vec::new(), None);
    // In order, so that the same mistakes get the same answer.
    for (name, parameter) in BTreeMap::from_iter(given) {
        let mut one = Parameter { name: &name, value: parameter.parameter_choice, faults };
        match name.as_str() {
            "max_tokens" => stop.max_tokens = one.whole(u32::MAX),
            "min_tokens" => stop.min_tokens = one.whole(u32::MAX),
            "ignore_eos" => stop.ignore_eos = one.truth().unwrap_or_default(),
            "stop" => stop_strings = one.texts(),
            "temperature" => sampling.temperature = one.number(),
            "top_p" => sampling.top_p = one.number(),
            "top_k" => sampling.top_k = one.whole(u32::MAX),
            "min_p" => sampling.min_p = one.number(),
            "repetition_penalty" => sampling.repetition_penalty = one.number(),
            "frequency_penalty" => sampling.frequency_penalty = one.number(),
            "presence_penalty" => sampling.presence_penalty = one.number(),
            "seed" => sampling.seed = one.whole(u64::MAX),
            "stream" => stream = one.truth(),
            // The last answer of ours is always one without text.
            "triton_enable_empty_final_response" => {
                one.truth();
            }
            _ => faults.push(
                fields::parameter(&name),
                "is not known; must be one that the contract lists at `ModelInferRequest.parameters`",
            ),
        }
    }
    let options = GenerationOptions {
        sampling: Some(sampling),
        stop: Some(stop),
        stop_strings,
        ..GenerationOptions::default()
    };
    Parameters { options, stream }
}

/// One parameter, to be read as what it must be.
struct Parameter<'a> {
    name: &'a str,
    value: Option<Choice>,
    faults: &'a mut Violations,
}

impl Parameter<'_> {
    /// A whole number from 0 on, which may come as text.
    fn whole<T: TryFrom<i128> + Display>(&mut self, most: T) -> Option<T> {
        let number = match &self.value {
            Some(Choice::Int64Param(number)) => Some(i128::from(*number)),
            Some(Choice::Uint64Param(number)) => Some(i128::from(*number)),
            Some(Choice::StringParam(text)) => text.parse().ok(),
            Some(Choice::BoolParam(_) | Choice::DoubleParam(_)) | None => None,
        };
        let read = number.and_then(|number| T::try_from(number).ok());
        self.require(read, || format!("a whole number from 0 to {most}"))
    }

    /// A number, which may come as text.
    fn number(&mut self) -> Option<f32> {
        let read = match &self.value {
            Some(Choice::DoubleParam(number)) => Some(*number as f32),
            Some(Choice::Int64Param(number)) => Some(*number as f32),
            Some(Choice::Uint64Param(number)) => Some(*number as f32),
            Some(Choice::StringParam(text)) => text.parse().ok(),
            Some(Choice::BoolParam(_)) | None => None,
        };
        self.require(read, || "a number".to_owned())
    }

    fn truth(&mut self) -> Option<bool> {
        let read = match &self.value {
            Some(Choice::BoolParam(truth)) => Some(*truth),
            Some(Choice::StringParam(text)) => text.parse().ok(),
            Some(Choice::Int64Param(_) | Choice::Uint64Param(_) | Choice::DoubleParam(_)) | None => None,
        };
        self.require(read, || "true or false".to_owned())
    }

    /// A text, or a JSON array of some.
    fn texts(&mut self) -> Vec<String> {
        let read = match &self.value {
            Some(Choice::StringParam(text)) => {
                Some(serde_json::from_str(text).unwrap_or_else(|_| vec![text.clone()]))
            }
            Some(_) | None => None,
        };
        self.require(read, || "a text, or a JSON array of texts".to_owned()).unwrap_or_default()
    }

    fn require<T>(&mut self, read: Option<T>, rule: impl FnOnce() -> String) -> Option<T> {
        self.faults.require(read.is_some(), &fields::parameter(self.name), || {
            format!("is {}; must be {}", spoken(self.value.as_ref()), rule())
        });
        read
    }
}

/// A value as an error names it.
fn spoken(value: Option<&Choice>) -> String {
    match value {
        Some(Choice::BoolParam(truth)) => truth.to_string(),
        Some(Choice::Int64Param(number)) => number.to_string(),
        Some(Choice::Uint64Param(number)) => number.to_string(),
        Some(Choice::DoubleParam(number)) => number.to_string(),
        Some(Choice::StringParam(text)) => format!("{text:?}"),
        None => "without a value".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(name: &str, value: Choice) -> Result<Parameters, String> {
        let mut faults = Violations::new();
        let parameter = InferParameter { parameter_choice: Some(value) };
        let read = read([(name.to_owned(), parameter)].into(), &mut faults);
        faults.into_result().map(|()| read).map_err(|status| status.message().to_owned())
    }

    fn text(text: &str) -> Choice {
        Choice::StringParam(text.to_owned())
    }

    #[test]
    fn a_number_may_be_whole_broken_or_a_text() {
        for value in [Choice::Int64Param(2), Choice::Uint64Param(2), Choice::DoubleParam(2.0), text("2")] {
            let sampling = read_one("temperature", value).unwrap().options.sampling.unwrap();
            assert_eq!(sampling.temperature, Some(2.0));
        }
        for value in [Choice::Int64Param(2), Choice::Uint64Param(2), text("2")] {
            let stop = read_one("max_tokens", value).unwrap().options.stop.unwrap();
            assert_eq!(stop.max_tokens, Some(2));
        }
    }

    #[test]
    fn what_is_not_what_it_must_be_is_named_with_its_value() {
        for (name, value, rule) in [
            ("max_tokens", Choice::DoubleParam(2.5), "is 2.5; must be a whole number from 0 to 4294967295"),
            ("top_k", Choice::Int64Param(-1), "is -1; must be a whole number from 0 to 4294967295"),
            ("seed", text("x"), "is \"x\"; must be a whole number from 0 to 18446744073709551615"),
            ("top_p", Choice::BoolParam(true), "is true; must be a number"),
            ("stream", Choice::Int64Param(1), "is 1; must be true or false"),
            ("stop", Choice::Int64Param(1), "is 1; must be a text, or a JSON array of texts"),
        ] {
            assert_eq!(read_one(name, value).unwrap_err(), format!("`parameters[\"{name}\"]` {rule}"));
        }
        assert!(read_one("max_token", Choice::Int64Param(1)).unwrap_err().contains("is not known"));
    }

    #[test]
    fn a_stop_text_is_itself_unless_it_is_an_array_of_texts() {
        let stops = |given| read_one("stop", text(given)).unwrap().options.stop_strings;
        assert_eq!(stops("."), ["."]);
        assert_eq!(stops("[\"a\", \"b\"]"), ["a", "b"]);
        assert_eq!(stops("[1]"), ["[1]"]);
    }
}
