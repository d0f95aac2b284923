//! Lines of access logs in Common and Combined Log Format.
//!
//! ```text
//! 83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a b HTTP/1.1" 200 203 "-" "Mozilla/5.0"
//! client_ip    │ │  ts                           request             │   │    │   user_agent
//!          ident auth_user                                      status bytes referer
//! ```
//!
//! Text is kept as written, neither `\"` nor `%20` is undone. `-` is null where a value is
//! absent (ident, auth_user, bytes, referer, user_agent), `""` stays an empty string.
//! `method`, `path` and `protocol` are there only if the request has the form
//! `METHOD path HTTP/d.d`; the path may contain spaces.

use std::borrow::Cow;

use arrow::datatypes::{DataType, FieldRef, Fields};

use super::column::{nullable, timestamp};
use super::value::{Flaw, Member, Value};
use super::{InputOptions, time};

/// The columns of Combined Log Format; Common lacks the last two.
pub(super) const COLUMNS: [&str; 12] = [
    "ts",
    "client_ip",
    "ident",
    "auth_user",
    "request",
    "method",
    "path",
    "protocol",
    "status",
    "bytes",
    "referer",
    "user_agent",
];

const COMMON_COLUMNS: usize = 10;

/// The names under which the columns are stored.
pub(super) fn names(options: &InputOptions) -> Vec<String> {
    let stored = |name: &&str| {
        let renamed = options.field_names.get(*name);
        renamed.cloned().unwrap_or_else(|| (*name).to_owned())
    };
    COLUMNS.iter().map(stored).collect()
}

/// The columns an access log has, whether or not a line has a value for them; `names` are
/// theirs.
pub(super) fn fields(is_combined: bool, names: &[String]) -> Fields {
    let count = if is_combined {
        COLUMNS.len()
    } else {
        COMMON_COLUMNS
    };
    let field = |(column, name): (&&str, &String)| -> FieldRef {
        match *column {
            "ts" => nullable(name, timestamp()),
            "status" | "bytes" => nullable(name, DataType::Int64),
            _ => nullable(name, DataType::Utf8),
        }
    };
    COLUMNS[..count].iter().zip(names).map(field).collect()
}

/// Reads one line without its line end, into members of these names; without names, of the
/// columns' own.
///
/// The flaw is `invalid_log_line`, with the field that is missing or malformed.
pub(super) fn parse<'a>(
    line: &'a str,
    is_combined: bool,
    names: &'a [String],
) -> Result<Value<'a>, Flaw> {
    let mut scan = Scan {
        rest: line.trim_end_matches('\r'),
        column: COLUMNS[1],
    };
    let client_ip = scan.word()?;
    let ident = scan.begin("ident")?.word()?;
    let auth_user = scan.begin("auth_user")?.word()?;
    let ts = scan.begin("ts")?.time()?;
    let request = scan.begin("request")?.quoted()?;
    let status = scan.begin("status")?.status()?;
    let bytes = scan.begin("bytes")?.bytes()?;
    let (method, path, protocol) = match split_request(request) {
        Some((method, path, protocol)) => (text(method), text(path), text(protocol)),
        None => (Value::Null, Value::Null, Value::Null),
    };
    let mut values = vec![
        Value::Micros(ts),
        text(client_ip),
        present(ident),
        present(auth_user),
        text(request),
        method,
        path,
        protocol,
        Value::Int(status),
        bytes.map_or(Value::Null, Value::Int),
    ];
    if is_combined {
        values.push(present(scan.begin("referer")?.quoted()?));
        values.push(present(scan.begin("user_agent")?.quoted()?));
    }
    if !scan.rest.is_empty() {
        return Err(scan.flaw("something follows it"));
    }
    let named = values.into_iter().enumerate().map(|(index, value)| {
        let name = names.get(index).map_or(COLUMNS[index], String::as_str);
        (Cow::Borrowed(name), value)
    });
    Ok(Value::Object(named.collect::<Vec<Member<'_>>>()))
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text))
}

fn present(word: &str) -> Value<'_> {
    if word == "-" { Value::Null } else { text(word) }
}

/// `METHOD path HTTP/d.d` into its parts.
fn split_request(request: &str) -> Option<(&str, &str, &str)> {
    let (method, rest) = request.split_once(' ')?;
    let (path, protocol) = rest.rsplit_once(' ')?;
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_protocol = match protocol.as_bytes() {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    };
    (is_method && is_protocol).then_some((method, path, protocol))
}

struct Scan<'a> {
    rest: &'a str,
    /// The column being read.
    column: &'static str,
}

impl<'a> Scan<'a> {
    /// Passes the space before a column.
    fn begin(&mut self, column: &'static str) -> Result<&mut Self, Flaw> {
        if self.rest.is_empty() {
            self.column = column;
            return Err(self.flaw("missing, the line ends before it"));
        }
        let Some(rest) = self.rest.strip_prefix(' ') else {
            return Err(self.flaw("a space must follow it"));
        };
        self.rest = rest;
        self.column = column;
        Ok(self)
    }

    fn word(&mut self) -> Result<&'a str, Flaw> {
        let is_end = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
        let end = self.rest.find(is_end).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.flaw("missing"));
        }
        Ok(self.pass(end))
    }

    fn time(&mut self) -> Result<i64, Flaw> {
        if !self.rest.starts_with('[') {
            return Err(self.flaw("opening bracket missing"));
        }
        let Some(end) = self.rest.find(']') else {
            return Err(self.flaw("closing bracket missing"));
        };
        let text = &self.rest[1..end];
        let Some(micros) = time::from_log(text) else {
            let form = "a time such as 17/May/2015:10:05:03 +0000";
            return Err(self.flaw(&format!("expected {form}, found {}", shown(text))));
        };
        self.pass(end + 1);
        Ok(micros)
    }

    /// Text in quotes, in which a backslash takes the character after it along.
    fn quoted(&mut self) -> Result<&'a str, Flaw> {
        let bytes = self.rest.as_bytes();
        if bytes.first() != Some(&b'"') {
            return Err(self.flaw("opening quote missing"));
        }
        let mut end = 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return Err(self.flaw("closing quote missing")),
            }
        }
        Ok(&self.pass(end + 1)[1..end])
    }

    fn status(&mut self) -> Result<i64, Flaw> {
        let word = self.word()?;
        let is_status = word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        match word.parse() {
            Ok(status) if is_status => Ok(status),
            _ => Err(self.flaw(&format!("expected three digits, found {}", shown(word)))),
        }
    }

    fn bytes(&mut self) -> Result<Option<i64>, Flaw> {
        let word = self.word()?;
        let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
        match word.parse() {
            Ok(bytes) if is_number => Ok(Some(bytes)),
            _ if word == "-" => Ok(None),
            _ => Err(self.flaw(&format!(
                "expected a number of 64 bits or -, found {}",
                shown(word)
            ))),
        }
    }

    fn pass(&mut self, end: usize) -> &'a str {
        let (passed, rest) = self.rest.split_at(end);
        self.rest = rest;
        passed
    }

    fn flaw(&self, message: &str) -> Flaw {
        Flaw::new("invalid_log_line", message).in_member(self.column)
    }
}

/// Cut and quoted, for a message.
fn shown(text: &str) -> String {
    Value::Text(Cow::Borrowed(text))
        .to_string()
        .trim_start_matches("string ")
        .to_owned()
}
