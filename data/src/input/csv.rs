//! Records of CSV (RFC 4180) into rows.
//!
//! A value without quotes and of no length is null, `""` is an empty string. Values of known
//! columns are read as their type says; those of a new column get the narrowest type that
//! all of them in this block have. A number with leading zeros is text: `007` is a name.

use std::borrow::Cow;
use std::collections::HashSet;

use arrow::datatypes::{DataType, SchemaRef};

use super::cut::{Csv, Step};
use super::value::{Flaw, Member, Value, is_exact_in_float};
use super::{InputError, Limits, json, shape};

/// The names of the columns, in the file's order.
pub struct Header {
    names: Vec<String>,
}

impl Header {
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

/// Reads the header, which is a record of its own.
pub(super) fn header(record: &[u8], line: u64) -> Result<Header, InputError> {
    let invalid = |message: String| InputError::Invalid {
        code: "invalid_csv",
        message: format!("line {line}, the header: {message}"),
    };
    let cells = cells(record).map_err(|flaw| invalid(flaw.message))?;
    let mut seen = HashSet::new();
    for (index, cell) in cells.iter().enumerate() {
        let name = &*cell.text;
        if name.is_empty() {
            return Err(invalid(format!("column {} has no name", index + 1)));
        }
        if shape::is_reserved(name) {
            return Err(reserved(name));
        }
        if !seen.insert(name) {
            return Err(invalid(format!("the name {name:?} is there twice")));
        }
    }
    let names = cells.into_iter().map(|cell| cell.text.into_owned());
    Ok(Header {
        names: names.collect(),
    })
}

/// A column that the engine keeps itself is in the body.
pub(super) fn reserved(name: &str) -> InputError {
    let message = format!(
        "the body has a column {name}, a name that is reserved for the engine: leave it out"
    );
    InputError::invalid("reserved_field", message)
}

struct Cell<'a> {
    text: Cow<'a, str>,
    is_quoted: bool,
}

/// One record, with the line it starts at.
pub(super) struct Record<'a> {
    pub line: u64,
    /// Where in the block it starts.
    pub start: usize,
    cells: Result<Vec<Cell<'a>>, Flaw>,
}

/// The records of a block, the first one at line 1. Blank lines are passed over, but for the
/// null that an empty line is in a body of one column.
pub(super) fn records<'a>(bytes: &'a [u8], header: &Header, limits: &Limits) -> Vec<Record<'a>> {
    let is_single = header.names.len() == 1;
    let (mut records, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let start = at;
        let mut state = Csv::default();
        let end = bytes[at..]
            .iter()
            .position(|&byte| state.step(byte) == Step::RecordEnd)
            .map_or(bytes.len(), |end| at + end + 1);
        at = end;
        let record = &bytes[start..end];
        let is_null = is_single && matches!(record, b"\n" | b"\r\n");
        if is_null || !record.iter().all(u8::is_ascii_whitespace) {
            let longest = limits.max_line_bytes;
            let length = record.trim_ascii_end().len();
            let cells = if length > longest {
                let message = format!("{length} bytes, at most {longest}");
                Err(Flaw::new("line_too_long", message))
            } else {
                cells(record)
            };
            records.push(Record { line, start, cells });
        }
        line += memchr::memchr_iter(b'\n', record).count() as u64;
    }
    records
}

/// Takes a record, with its line end, apart.
fn cells(record: &[u8]) -> Result<Vec<Cell<'_>>, Flaw> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let (mut state, mut start, mut cells) = (Csv::default(), 0, Vec::new());
    for (at, &byte) in record.iter().enumerate() {
        if state.step(byte) == Step::FieldEnd {
            cells.push(cell(&record[start..at])?);
            start = at + 1;
        }
    }
    if state == Csv::Quoted {
        return Err(Flaw::new("invalid_csv", "a value in quotes does not end"));
    }
    cells.push(cell(&record[start..])?);
    Ok(cells)
}

fn cell(raw: &[u8]) -> Result<Cell<'_>, Flaw> {
    let not_text = |_| Flaw::new("invalid_utf8", "a value is not UTF-8");
    let Some(quoted) = raw.strip_prefix(b"\"") else {
        let text = std::str::from_utf8(raw).map_err(not_text)?;
        return Ok(Cell {
            text: Cow::Borrowed(text),
            is_quoted: false,
        });
    };
    let text = match quoted.strip_suffix(b"\"") {
        Some(plain) if memchr::memchr(b'"', plain).is_none() => {
            Cow::Borrowed(std::str::from_utf8(plain).map_err(not_text)?)
        }
        _ => {
            let mut state = Csv::default();
            let bytes = raw.iter().copied();
            let value: Vec<u8> = bytes.filter(|&b| state.step(b) == Step::Value).collect();
            Cow::Owned(
                String::from_utf8(value)
                    .map_err(|_| Flaw::new("invalid_utf8", "a value is not UTF-8"))?,
            )
        }
    };
    Ok(Cell {
        text,
        is_quoted: true,
    })
}

/// How the values of one column are read.
enum Kind {
    Text,
    Number,
    Boolean,
    /// A time, or a number that stands for one.
    Time,
    Nested,
}

/// Reads records into rows, under the names of the header.
pub(super) struct Reader<'h> {
    header: &'h Header,
    kinds: Vec<Kind>,
}

impl<'h> Reader<'h> {
    /// Settles the types of new columns by these records.
    pub fn new(header: &'h Header, schema: &SchemaRef, records: &[Record<'_>]) -> Self {
        let kind = |(index, name): (usize, &String)| match schema.field_with_name(name) {
            Ok(field) => match field.data_type() {
                DataType::Int64 | DataType::Float64 => Kind::Number,
                DataType::Boolean => Kind::Boolean,
                DataType::Timestamp(..) => Kind::Time,
                DataType::Struct(_) | DataType::List(_) => Kind::Nested,
                _ => Kind::Text,
            },
            Err(_) => {
                let cells = records.iter().filter_map(|record| {
                    let cells = record.cells.as_ref().ok()?;
                    let cell = cells
                        .get(index)
                        .filter(|_| cells.len() == header.names.len());
                    cell.map(|cell| &*cell.text).filter(|text| !text.is_empty())
                });
                guess(cells)
            }
        };
        Reader {
            header,
            kinds: header.names.iter().enumerate().map(kind).collect(),
        }
    }

    pub fn read<'a>(&self, record: &'a Record<'_>, limits: &Limits) -> Result<Value<'a>, Flaw>
    where
        'h: 'a,
    {
        let cells = record.cells.as_ref().map_err(Flaw::clone)?;
        let (found, expected) = (cells.len(), self.header.names.len());
        if found != expected {
            let message = format!("{found} values where the header has {expected} columns");
            return Err(Flaw::new("wrong_field_count", message));
        }
        let named = self.header.names.iter().zip(&self.kinds);
        let members = named.zip(cells).map(|((name, kind), cell)| {
            let value = value(cell, kind, limits).map_err(|flaw| flaw.in_member(name))?;
            Ok((Cow::Borrowed(name.as_str()), value))
        });
        Ok(Value::Object(
            members.collect::<Result<Vec<Member<'a>>, Flaw>>()?,
        ))
    }
}

fn value<'a>(cell: &'a Cell<'_>, kind: &Kind, limits: &Limits) -> Result<Value<'a>, Flaw> {
    let text = &*cell.text;
    if text.is_empty() && !cell.is_quoted {
        return Ok(Value::Null);
    }
    let as_text = Value::Text(Cow::Borrowed(text));
    Ok(match kind {
        Kind::Text => as_text,
        Kind::Boolean if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        Kind::Boolean if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        Kind::Boolean => as_text,
        Kind::Number | Kind::Time => number(text)?.unwrap_or(as_text),
        Kind::Nested => {
            return json::parse(text, limits).map_err(|mut flaw| {
                flaw.offset = None;
                flaw.is_syntax = false;
                flaw
            });
        }
    })
}

/// `None` for what is no number.
fn number(text: &str) -> Result<Option<Value<'_>>, Flaw> {
    if let Ok(whole) = text.parse() {
        return Ok(Some(Value::Int(whole)));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Some(Value::Wide(text)));
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_infinite() && digits.starts_with(|c: char| c.is_ascii_digit()) => {
            let message = "the number is beyond 64-bit floats";
            Err(Flaw::new("out_of_range", message))
        }
        Ok(number) => Ok(Some(Value::Float(number))),
        Err(_) => Ok(None),
    }
}

/// The narrowest kind that all values of a new column have. Times are found among texts when
/// these become columns.
fn guess<'a>(mut cells: impl Iterator<Item = &'a str> + Clone) -> Kind {
    let is_boolean =
        |text: &str| text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
    if cells.clone().next().is_none() {
        return Kind::Text;
    }
    if cells.clone().all(is_boolean) {
        return Kind::Boolean;
    }
    let (mut has_float, mut has_number, mut has_wide) = (false, false, false);
    let is_number = cells.all(|text| {
        let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
        let is_padded = matches!(digits, [b'0', b'0'..=b'9', ..]);
        let starts_well = digits.first().is_some_and(u8::is_ascii_digit);
        match text.parse::<i64>() {
            Ok(whole) => {
                has_number = true;
                has_wide |= !is_exact_in_float(whole);
                starts_well && !is_padded
            }
            Err(_) => {
                has_float = true;
                let is_whole = starts_well && digits.iter().all(u8::is_ascii_digit);
                let number = text.parse::<f64>();
                has_number |= number.as_ref().is_ok_and(|number| number.is_finite());
                let is_named = matches!(text, "NaN" | "inf" | "-inf" | "Infinity" | "-Infinity");
                let is_plain = starts_well && !is_padded && !is_whole;
                number.is_ok_and(|number| (is_plain && number.is_finite()) || is_named)
            }
        }
    });
    if is_number && has_number && !(has_float && has_wide) {
        return Kind::Number;
    }
    Kind::Text
}
