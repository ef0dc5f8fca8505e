//! A request's body: a JSON object, of bounded size, read field by field with every problem named.
//!
//! Map: `unique` (JSON in which no field is given twice).

mod unique;

use http::{Request, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tonic::{Code, Status};
use weft_runtime::status::{reason, violation, with_reason};

use self::unique::Unique;
use crate::request::Faults;

/// Reads a body of at most `most` bytes.
///
/// # Errors
/// One that is too large, or no JSON object.
pub(super) async fn object(
    request: Request<axum::body::Body>,
    most: usize,
) -> Result<Map<String, Value>, Status> {
    check_kind(&request)?;
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if declared.and_then(|text| text.parse::<usize>().ok()).is_some_and(|bytes| bytes > most) {
        return Err(too_large(most));
    }
    let bytes = match Limited::new(request.into_body(), most).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large(most)),
        Err(error) => return Err(violation("body", &format!("could not be read: {error}"))),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Unique(Value::Object(fields))) => Ok(fields),
        Ok(Unique(other)) => Err(violation("body", &format!("is {}; must be a JSON object", shown(&other)))),
        Err(error) => Err(violation("body", &format!("is not JSON: {error}"))),
    }
}

fn check_kind<B>(request: &Request<B>) -> Result<(), Status> {
    let Some(kind) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = String::from_utf8_lossy(kind.as_bytes());
    let name = kind.split(';').next().unwrap_or_default().trim();
    if name.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(violation("content-type", &format!("is {name:?}; must be application/json")))
}

fn too_large(most: usize) -> Status {
    let message = format!("the body must have at most {most} bytes (server.max_message_bytes)");
    with_reason(Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE, message)
}

/// A value that a field can have.
pub(super) trait Read: Sized {
    /// What is expected, in words: `a number`.
    const EXPECTED: &'static str;
    /// Reads it, or gives it back if it is something else.
    fn read(value: Value) -> Result<Self, Value>;
}

/// What is done about a field that is not read.
pub(super) enum Rule {
    /// It changes nothing that is answered: taken without a word.
    Harmless,
    /// Only what we do anyway is taken: these values.
    Only(&'static [&'static str]),
    /// It would change the answer, and is not served: why, or what is instead.
    Unserved(&'static str),
}

/// The fields of an object that are not read yet.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// Where the object stands: empty for the body.
    path: String,
    left: Map<String, Value>,
    faults: &'a mut Faults,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: Map<String, Value>, faults: &'a mut Faults) -> Self {
        Self { path: String::new(), left: object, faults }
    }

    /// The value of a field. One that is null, or of another kind (which is noted), is none.
    pub(super) fn take<T: Read>(&mut self, name: &str) -> Option<T> {
        let value = self.left.remove(name).filter(|value| !value.is_null())?;
        read(value, &self.at(name), self.faults)
    }

    /// The value of a field that must be there.
    pub(super) fn required<T: Read>(&mut self, name: &str) -> Option<T> {
        if self.left.get(name).is_none_or(Value::is_null) {
            self.left.remove(name);
            self.wrong(name, format!("is missing; must be {}", T::EXPECTED));
            return None;
        }
        self.take(name)
    }

    /// The value of a field that must be there; else a stand-in.
    pub(super) fn need<T: Read + Default>(&mut self, name: &str) -> T {
        self.required(name).unwrap_or_default()
    }

    /// Puts a value where it can be read under this name.
    pub(super) fn put(&mut self, name: &str, value: Value) {
        self.left.insert(name.to_owned(), value);
    }

    /// The objects in a field, each read by `item`.
    pub(super) fn each<T>(&mut self, name: &str, mut item: impl FnMut(Fields<'_>) -> Option<T>) -> Vec<T> {
        let values: Vec<Value> = self.take(name).unwrap_or_default();
        let mut items = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.at(name));
            if let Some(left) = read(value, &path, self.faults) {
                items.extend(item(Fields { path, left, faults: &mut *self.faults }));
            }
        }
        items
    }

    /// The object in a field, read by `inner`.
    pub(super) fn within<T>(&mut self, name: &str, inner: impl FnOnce(Fields<'_>) -> T) -> Option<T> {
        let left = self.take(name)?;
        let path = self.at(name);
        Some(inner(Fields { path, left, faults: &mut *self.faults }))
    }

    /// Notes that a field breaks a rule.
    pub(super) fn wrong(&mut self, name: &str, description: impl Into<String>) {
        let path = self.at(name);
        self.faults.wrong.push(path, description);
    }

    /// Notes every field that nobody has read, unless a rule says what it is.
    pub(super) fn finish(self, rules: &[(&str, Rule)]) {
        let Self { path, left, faults } = self;
        for (name, value) in left.into_iter().filter(|(_, value)| !value.is_null()) {
            let rule = rules.iter().find(|(known, _)| *known == name).map(|(_, rule)| rule);
            if let Some(description) = refused(rule, &value) {
                faults.wrong.push(joined(&path, &name), description);
            }
        }
    }

    /// What else is wrong with the request.
    pub(super) fn faults(&mut self) -> &mut Faults {
        self.faults
    }

    fn at(&self, name: &str) -> String {
        joined(&self.path, name)
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn refused(rule: Option<&Rule>, value: &Value) -> Option<String> {
    match rule {
        Some(Rule::Harmless) => None,
        Some(Rule::Only(allowed)) if allowed.contains(&value.to_string().as_str()) => None,
        Some(Rule::Only([])) => Some(format!("is {}; must be left out", shown(value))),
        Some(Rule::Only(allowed)) => {
            Some(format!("is {}; must be {} or left out", shown(value), allowed.join(" or ")))
        }
        Some(Rule::Unserved(why)) => Some(format!("is not served: {why}")),
        None => Some("is no field that is known here".to_owned()),
    }
}

fn read<T: Read>(value: Value, path: &str, faults: &mut Faults) -> Option<T> {
    T::read(value)
        .map_err(|other| faults.wrong.push(path, format!("is {}; must be {}", shown(&other), T::EXPECTED)))
        .ok()
}

/// A value in few words.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let text = value.to_string();
            let short = text.floor_char_boundary(40);
            if short < text.len() { format!("{}…", &text[..short]) } else { text }
        }
    }
}

impl Read for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_bool().ok_or(value)
    }
}

impl Read for String {
    const EXPECTED: &'static str = "a string";
    fn read(value: Value) -> Result<Self, Value> {
        if let Value::String(text) = value { Ok(text) } else { Err(value) }
    }
}

impl Read for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_u64().and_then(|number| number.try_into().ok()).ok_or(value)
    }
}

impl Read for i32 {
    const EXPECTED: &'static str = "a whole number";
    fn read(value: Value) -> Result<Self, Value> {
        value.as_i64().and_then(|number| number.try_into().ok()).ok_or(value)
    }
}

impl Read for f32 {
    const EXPECTED: &'static str = "a number";
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what the contract takes; a number beyond it becomes infinite"
    )]
    fn read(value: Value) -> Result<Self, Value> {
        value.as_f64().map(|number| number as f32).ok_or(value)
    }
}

/// A seed: any whole number of 64 bits, with a sign or without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(pub(super) u64);

impl Read for Seed {
    const EXPECTED: &'static str = "a whole number of at most 64 bits";
    fn read(value: Value) -> Result<Self, Value> {
        let bits = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
        bits.map(Self).ok_or(value)
    }
}

impl Read for Map<String, Value> {
    const EXPECTED: &'static str = "an object";
    fn read(value: Value) -> Result<Self, Value> {
        if let Value::Object(fields) = value { Ok(fields) } else { Err(value) }
    }
}

impl Read for Value {
    const EXPECTED: &'static str = "a value";
    fn read(value: Value) -> Result<Self, Value> {
        Ok(value)
    }
}

impl Read for Vec<Value> {
    const EXPECTED: &'static str = "a list";
    fn read(value: Value) -> Result<Self, Value> {
        if let Value::Array(items) = value { Ok(items) } else { Err(value) }
    }
}

impl Read for Vec<u32> {
    const EXPECTED: &'static str = "a list of whole numbers from 0 to 4294967295";
    fn read(value: Value) -> Result<Self, Value> {
        let number = |item: &Value| item.as_u64().and_then(|number| u32::try_from(number).ok());
        let numbers = value.as_array().and_then(|items| items.iter().map(number).collect());
        numbers.ok_or(value)
    }
}

impl Read for Vec<String> {
    const EXPECTED: &'static str = "a list of strings";
    fn read(value: Value) -> Result<Self, Value> {
        let strings = value
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        strings.ok_or(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str, read: impl FnOnce(&mut Fields<'_>)) -> String {
        let mut faults = Faults::default();
        let Value::Object(object) = serde_json::from_str(body).unwrap() else { panic!("no object") };
        let mut fields = Fields::new(object, &mut faults);
        read(&mut fields);
        fields.finish(&[
            ("user", Rule::Harmless),
            ("store", Rule::Only(&["false"])),
            ("audio", Rule::Unserved("there is text only")),
        ]);
        faults.into_result().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        let body = r#"{"n": "two", "messages": [{"role": 3}, 7], "user": "u", "store": true, "audio": {}, "hop": 1}"#;
        let told = told(body, |fields| {
            assert_eq!(fields.take::<u32>("n"), None);
            assert_eq!(fields.need::<String>("model"), "");
            fields.each("messages", |mut message| message.take::<String>("role"));
        });
        for problem in [
            "`n` is \"two\"; must be a whole number from 0 to 4294967295",
            "`model` is missing; must be a string",
            "`messages[0].role` is 3; must be a string",
            "`messages[1]` is 7; must be an object",
            "`store` is true; must be false or left out",
            "`audio` is not served: there is text only",
            "`hop` is no field that is known here",
        ] {
            assert!(told.contains(problem), "{problem}\n{told}");
        }
        assert!(!told.contains("user"), "{told}");
    }

    #[test]
    fn null_is_as_good_as_nothing() {
        let told = told(r#"{"n": null, "hop": null}"#, |fields| assert_eq!(fields.take::<u32>("n"), None));
        assert_eq!(told, "");
    }
}
