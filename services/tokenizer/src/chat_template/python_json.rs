//! `tojson` as transformers has it: Python's `json.dumps(x, ensure_ascii=False)`, byte for byte.

use std::io::{self, Write};

use minijinja::{Error, ErrorKind, State, Value, value::Kwargs};
use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};

/// Serializing costs more than copying; minijinja's own `tojson` charges the same.
const BYTES_PER_FUEL: usize = 4;
/// Far below what the stack can take, far above what a schema needs.
const DEEPEST: usize = 256;

/// The filter. Keyword arguments: `ensure_ascii`, `indent`, `separators`, `sort_keys`, as in Python.
pub(super) fn tojson(state: &State<'_, '_>, value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let style = Style::from_arguments(&arguments)?;
    let sorted = arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    arguments.assert_all_used()?;
    if !sorted {
        return write(state, value, style);
    }
    let mut json: serde_json::Value =
        serde_json::from_str(&write(state, value, Style::default())?).map_err(not_serializable)?;
    json.sort_all_objects();
    write(state, &json, style)
}

fn write(state: &State<'_, '_>, value: &impl Serialize, style: Style) -> Result<String, Error> {
    let mut paid = Paid { state, out: Vec::new(), unpaid: 0, broke: None };
    let written = value.serialize(&mut Serializer::with_formatter(&mut paid, style));
    if let Some(broke) = paid.broke {
        return Err(broke);
    }
    written.map_err(not_serializable)?;
    String::from_utf8(paid.out).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn not_serializable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::BadSerialization, "tojson").with_source(error)
}

/// Output that is paid for with fuel as it grows: a value may hold itself many times over.
struct Paid<'a> {
    state: &'a State<'a, 'a>,
    out: Vec<u8>,
    unpaid: usize,
    broke: Option<Error>,
}

impl Write for Paid<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unpaid += bytes.len();
        if let Err(broke) = self.state.consume_fuel((self.unpaid / BYTES_PER_FUEL) as u64) {
            self.broke = Some(broke);
            return Err(io::Error::other("out of fuel"));
        }
        self.unpaid %= BYTES_PER_FUEL;
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How Python lays out JSON.
#[derive(Debug)]
struct Style {
    between_items: String,
    after_key: String,
    /// One level of indentation; `None` keeps all on one line.
    indent: Option<String>,
    ascii: bool,
    level: usize,
    /// Whether the innermost open list or object has an item yet: an empty one stays on one line.
    has_items: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            between_items: ", ".to_owned(),
            after_key: ": ".to_owned(),
            indent: None,
            ascii: false,
            level: 0,
            has_items: false,
        }
    }
}

impl Style {
    fn from_arguments(arguments: &Kwargs) -> Result<Self, Error> {
        let ascii = arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        let indent = match arguments.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
            None => None,
            Some(indent) => Some(match indent.as_str() {
                Some(text) => text.to_owned(),
                None => " ".repeat(u8::try_from(indent)?.into()),
            }),
        };
        let (between_items, after_key) = match arguments.get::<Option<Vec<String>>>("separators")?.as_deref()
        {
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
            Some([between_items, after_key]) => (between_items.clone(), after_key.clone()),
            Some(_) => {
                return Err(Error::new(ErrorKind::InvalidOperation, "separators must be a pair of texts"));
            }
        };
        Ok(Self { between_items, after_key, indent, ascii, ..Self::default() })
    }

    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        if self.level > DEEPEST {
            return Err(io::Error::other("nested too deeply"));
        }
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        if self.has_items {
            self.new_line(writer)?;
        }
        self.has_items = true;
        writer.write_all(bracket)
    }

    fn begin_item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.between_items.as_bytes())?;
        }
        self.has_items = true;
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        writer.write_all(b"\n")?;
        (0..self.level).try_for_each(|_| writer.write_all(indent.as_bytes()))
    }
}

impl Formatter for Style {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(writer, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.after_key.as_bytes())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        // Rust's shortest form has the same digits and thresholds as Python's; only the exponent looks different.
        let text = format!("{value:?}");
        match text.split_once('e') {
            None => writer.write_all(text.as_bytes()),
            Some((digits, exponent)) => {
                let (sign, exponent) =
                    exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
                write!(writer, "{digits}e{sign}{exponent:0>2}")
            }
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() && character != '\u{7f}' {
                write!(writer, "{character}")?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    fn tojson(expression: &str) -> Result<String, minijinja::Error> {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        environment.render_str(expression, ())
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (float, python) in
            [("1e16", "1e+16"), ("0.00001", "1e-05"), ("1e15", "1000000000000000.0"), ("2.0", "2.0")]
        {
            assert_eq!(tojson(&format!("{{{{ {float} | tojson }}}}")).unwrap(), python);
        }
    }

    #[test]
    fn a_value_without_end_is_refused() {
        let nested =
            "{% set ns = namespace(l=1) %}{% for i in range(300) %}{% set ns.l = [ns.l] %}{% endfor %}";
        assert!(tojson(&format!("{nested}{{{{ ns.l | tojson }}}}")).is_err());
    }

    #[test]
    fn an_argument_that_python_does_not_know_is_refused() {
        assert!(tojson("{{ 1 | tojson(colour=true) }}").is_err());
        assert!(tojson("{{ 1 | tojson(separators=[',']) }}").is_err());
        assert!(tojson("{{ 1 | tojson(indent=-1) }}").is_err());
    }
}
