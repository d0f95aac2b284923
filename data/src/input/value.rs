//! One row as a light tree that borrows from the body, and what can be wrong with it.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, SecondsFormat};

use crate::widen::EXACT_IN_FLOAT;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// The literal of an integer beyond 64 bits.
    Wide(&'a str),
    /// NaN and infinite only from formats that can write them: CSV, Arrow and Parquet.
    Float(f64),
    Text(Cow<'a, str>),
    /// A time already understood, in microseconds since 1970; access logs have these.
    Micros(i64),
    List(Vec<Value<'a>>),
    /// Names are distinct.
    Object(Vec<Member<'a>>),
}

pub(super) type Member<'a> = (Cow<'a, str>, Value<'a>);

impl fmt::Display for Value<'_> {
    /// As in "found string "abc"", with long text cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(flag) => write!(f, "boolean {flag}"),
            Value::Int(number) => write!(f, "integer {number}"),
            Value::Wide(digits) if digits.len() > SHOWN => {
                write!(f, "integer {}…", &digits[..SHOWN])
            }
            Value::Wide(digits) => write!(f, "integer {digits}"),
            Value::Float(number) => write!(f, "number {number:?}"),
            Value::Text(text) => match text.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "string {:?}…", &text[..end]),
                None => write!(f, "string {text:?}"),
            },
            Value::Micros(_) => f.write_str("timestamp"),
            Value::List(_) => f.write_str("list"),
            Value::Object(_) => f.write_str("object"),
        }
    }
}

impl Value<'_> {
    /// As JSON text; times as RFC 3339.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        self.push_json(&mut text);
        text
    }

    fn push_json(&self, out: &mut String) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Int(number) => out.push_str(&number.to_string()),
            Value::Wide(digits) => out.push_str(digits),
            // JSON has no such numbers.
            Value::Float(number) if !number.is_finite() => {
                push_quoted(&number.to_string(), out);
            }
            Value::Float(number) => out.push_str(&format!("{number:?}")),
            Value::Text(text) => push_quoted(text, out),
            Value::Micros(micros) => match DateTime::from_timestamp_micros(*micros) {
                Some(time) => push_quoted(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true), out),
                None => out.push_str(&micros.to_string()),
            },
            Value::List(elements) => {
                push_separated('[', elements, ']', out, |element, out| {
                    element.push_json(out)
                });
            }
            Value::Object(members) => {
                push_separated('{', members, '}', out, |(name, value), out| {
                    push_quoted(name, out);
                    out.push(':');
                    value.push_json(out);
                });
            }
        }
    }
}

fn push_quoted(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn push_separated<T>(
    open: char,
    items: &[T],
    close: char,
    out: &mut String,
    push: impl Fn(&T, &mut String),
) {
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push(item, out);
    }
    out.push(close);
}

pub(super) fn is_exact_in_float(number: i64) -> bool {
    (-EXACT_IN_FLOAT..=EXACT_IN_FLOAT).contains(&number)
}

/// The value an `Int64` column takes: a float only when it is whole and surely exact.
pub(super) fn as_int(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Float(number) if number.fract() == 0.0 && number.abs() <= EXACT_IN_FLOAT as f64 => {
            Some(*number as i64)
        }
        _ => None,
    }
}

/// The value a `Float64` column takes: an integer only when it is surely exact.
pub(super) fn as_float(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Int(number) if is_exact_in_float(*number) => Some(*number as f64),
        _ => None,
    }
}

/// Names can be as long as a line; the way to a place is cut at so many characters.
const LONGEST_PATH: usize = 256;

/// One step from a row to a place within it.
#[derive(Clone, Debug)]
enum Step {
    Member(String),
    Element(usize),
}

/// What is wrong with a row. The way to the place is added while the error travels up, so
/// that good rows do not pay for it.
#[derive(Clone, Debug)]
pub(super) struct Flaw {
    pub code: &'static str,
    pub message: String,
    /// Byte in the row's text, where that helps more than a field.
    pub offset: Option<usize>,
    /// The text is broken, so that what follows cannot be trusted either.
    pub is_syntax: bool,
    /// From the inside out.
    steps: Vec<Step>,
}

impl Flaw {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Flaw {
            code,
            message: message.into(),
            offset: None,
            is_syntax: false,
            steps: Vec::new(),
        }
    }

    pub fn at(mut self, offset: usize) -> Self {
        self.offset = Some(offset);
        self
    }

    pub fn breaking_syntax(mut self) -> Self {
        self.is_syntax = true;
        self
    }

    pub fn in_member(mut self, name: &str) -> Self {
        self.steps.push(Step::Member(name.to_owned()));
        self
    }

    pub fn in_element(mut self, index: usize) -> Self {
        self.steps.push(Step::Element(index));
        self
    }

    /// The row's own member that the flaw lies in.
    pub fn top_member(&self) -> Option<&str> {
        match self.steps.last() {
            Some(Step::Member(name)) => Some(name),
            _ => None,
        }
    }

    /// Such as `payload.tags[2]`; `None` when the row as a whole is meant.
    pub fn field(&self) -> Option<String> {
        if self.steps.is_empty() {
            return None;
        }
        let mut path = String::new();
        for step in self.steps.iter().rev() {
            match step {
                Step::Member(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Step::Element(index) => path.push_str(&format!("[{index}]")),
            }
        }
        if let Some((end, _)) = path.char_indices().nth(LONGEST_PATH) {
            path.truncate(end);
            path.push('…');
        }
        Some(path)
    }
}
