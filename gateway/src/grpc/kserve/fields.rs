//! Our fields under the names that they have in this protocol.

use tonic::Status;
use tonic_types::StatusExt as _;
use weft_runtime::status::Violations;

use crate::{error::Error, outbound::renamed};

/// The status of an error, which names fields as its caller knows them.
pub(super) fn status(error: Error) -> Status {
    let status = Status::from(error);
    renamed(&status, theirs).unwrap_or(status)
}

/// Adds the fields that are wrong by our own rules to those that are wrong already.
pub(super) fn gather(refusal: &Status, faults: &mut Violations) {
    let listed = refusal.get_details_bad_request().into_iter().flat_map(|bad| bad.field_violations);
    for wrong in listed {
        faults.push(theirs(&wrong.field).unwrap_or(wrong.field), wrong.description);
    }
}

/// The field of a parameter.
pub(super) fn parameter(name: &str) -> String {
    format!("parameters[\"{name}\"]")
}

fn theirs(ours: &str) -> Option<String> {
    if ours.starts_with("options.stop_strings") {
        return Some(parameter("stop"));
    }
    match ours {
        "model" => Some("model_name".to_owned()),
        "prompt" => Some("inputs[\"text_input\"]".to_owned()),
        _ => ours
            .strip_prefix("options.sampling.")
            .or_else(|| ours.strip_prefix("options.stop."))
            .map(parameter),
    }
}

#[cfg(test)]
mod tests {
    use weft_runtime::status::violation;

    use super::*;

    #[test]
    fn a_refusal_names_the_fields_of_this_protocol() {
        let named = |ours| status(Error::Refused(violation(ours, "is wrong"))).message().to_owned();
        assert_eq!(named("options.sampling.top_p"), "`parameters[\"top_p\"]` is wrong");
        assert_eq!(named("options.stop.max_tokens"), "`parameters[\"max_tokens\"]` is wrong");
        assert_eq!(named("options.stop_strings[3]"), "`parameters[\"stop\"]` is wrong");
        assert_eq!(named("prompt"), "`inputs[\"text_input\"]` is wrong");
        assert_eq!(named("model"), "`model_name` is wrong");
    }
}
