//! JSON (RFC 8259) of one row into a [`Value`].
//!
//! This is not serde_json because that one, without features which change it for the whole
//! program, cannot tell `1e30` from an integer of 31 digits, may read a float one unit off
//! its nearest, and takes the last of duplicate keys. What both accept is compared in the
//! tests.

use std::borrow::Cow;
use std::collections::HashSet;

use super::value::{Flaw, Member, Value};
use super::{Limits, MAX_DEPTH};

/// Objects with more members than this look for duplicates in a hash set.
const FEW_MEMBERS: usize = 16;

/// Reads one value that fills `text` but for white space around it.
///
/// Flaws are `invalid_json`, `duplicate_key`, `out_of_range`, `too_deep` and
/// `too_many_fields`; those of the text itself carry an offset into it.
pub(super) fn parse<'a>(text: &'a str, limits: &Limits) -> Result<Value<'a>, Flaw> {
    let mut reader = Reader {
        text,
        at: 0,
        depth_left: limits.max_depth.min(MAX_DEPTH),
        max_depth: limits.max_depth.min(MAX_DEPTH),
        max_members: limits.max_fields,
    };
    let value = reader.value()?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.unexpected("the end")),
    }
}

/// Reads the string that starts with the quote at `start`; returns where it ends, too.
pub(super) fn string_at(text: &str, start: usize) -> Option<(Cow<'_, str>, usize)> {
    let mut reader = Reader {
        text,
        at: start,
        depth_left: 0,
        max_depth: 0,
        max_members: 0,
    };
    let is_string = reader.peek() == Some(b'"');
    let string = is_string.then(|| reader.string().ok())??;
    Some((string, reader.at))
}

/// The place of the first quote, backslash or control character; the end if there is none.
///
/// Eight bytes at a time: a byte of `hits` has its highest bit set if it is one of these. The
/// lowest such bit is always right; those above it may come from a borrow.
pub(super) fn plain_end(bytes: &[u8], start: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let mut at = start;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let is_control = word.wrapping_sub(ONES * u64::from(b' ')) & !word & HIGH;
        let hits = is_zero(word ^ (ONES * u64::from(b'"')))
            | is_zero(word ^ (ONES * u64::from(b'\\')))
            | is_control;
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_hit = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ');
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(is_hit).unwrap_or(rest.len())
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth_left: usize,
    max_depth: usize,
    max_members: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self) -> Result<Value<'a>, Flaw> {
        self.skip_space();
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Guards the recursion; the opening bracket is consumed here.
    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value<'a>, Flaw>,
    ) -> Result<Value<'a>, Flaw> {
        if self.depth_left == 0 {
            let message = format!("nested deeper than {} levels", self.max_depth);
            return Err(Flaw::new("too_deep", message).at(self.at));
        }
        self.depth_left -= 1;
        self.at += 1;
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn list(&mut self) -> Result<Value<'a>, Flaw> {
        let mut elements = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::List(elements));
        }
        loop {
            let element = self
                .value()
                .map_err(|flaw| flaw.in_element(elements.len()))?;
            elements.push(element);
            self.skip_space();
            if self.take(b']') {
                return Ok(Value::List(elements));
            }
            if !self.take(b',') {
                return Err(self.unexpected("`,` or `]`"));
            }
        }
    }

    fn object(&mut self) -> Result<Value<'a>, Flaw> {
        let mut members: Vec<Member<'a>> = Vec::new();
        self.skip_space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a field name in quotes"));
            }
            let name = self.string()?;
            self.skip_space();
            if !self.take(b':') {
                return Err(self.unexpected("`:`"));
            }
            let value = self.value().map_err(|flaw| flaw.in_member(&name))?;
            members.push((name, value));
            self.skip_space();
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return Err(self.unexpected("`,` or `}`"));
            }
        }
        if members.len() > self.max_members {
            let message = format!("object with more than {} fields", self.max_members);
            return Err(Flaw::new("too_many_fields", message));
        }
        match duplicate(&members) {
            Some(name) => {
                Err(Flaw::new("duplicate_key", "the field is there more than once").in_member(name))
            }
            None => Ok(Value::Object(members)),
        }
    }

    fn number(&mut self) -> Result<Value<'a>, Flaw> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err(self.unexpected("a digit"));
        }
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            if self.digits() == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.unexpected("a digit"));
            }
        }
        let literal = &self.text[start..self.at];
        if whole {
            return Ok(literal.parse().map_or(Value::Wide(literal), Value::Int));
        }
        match literal.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err(Flaw::new("out_of_range", "the number is beyond 64-bit floats").at(start)),
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Flaw> {
        self.at += 1;
        let plain = self.plain()?;
        if self.take(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        loop {
            if self.take(b'"') {
                return Ok(Cow::Owned(text));
            }
            // `plain` stops only before a quote or a backslash.
            self.at += 1;
            text.push(self.escape()?);
            text.push_str(self.plain()?);
        }
    }

    /// The text up to the next quote or backslash.
    fn plain(&mut self) -> Result<&'a str, Flaw> {
        let start = self.at;
        self.at = plain_end(self.text.as_bytes(), start);
        match self.peek() {
            Some(b'"' | b'\\') => Ok(&self.text[start..self.at]),
            Some(_) => Err(self.flaw("control character within a string")),
            None => Err(self.flaw("the string does not end")),
        }
    }

    fn escape(&mut self) -> Result<char, Flaw> {
        let Some(kind) = self.peek() else {
            return Err(self.flaw("the string does not end"));
        };
        self.at += 1;
        Ok(match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.escaped_unit(),
            _ => {
                self.at -= 1;
                return Err(self.flaw("unknown escape in a string"));
            }
        })
    }

    /// What follows `\u`: four hex digits, for a high surrogate the low one too.
    fn escaped_unit(&mut self) -> Result<char, Flaw> {
        let start = self.at - 2;
        let first = self.hex4()?;
        let mut units = vec![first];
        if (0xD800..0xDC00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            units.push(self.hex4()?);
        }
        match char::decode_utf16(units).next() {
            Some(Ok(character)) => Ok(character),
            _ => Err(Flaw::new("invalid_json", "unpaired surrogate escape").at(start)),
        }
    }

    fn hex4(&mut self) -> Result<u16, Flaw> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.unexpected("four hex digits"));
            };
            unit = unit * 16 + digit as u16;
            self.at += 1;
        }
        Ok(unit)
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Flaw> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn flaw(&self, message: impl Into<String>) -> Flaw {
        Flaw::new("invalid_json", message)
            .at(self.at)
            .breaking_syntax()
    }

    fn unexpected(&self, expected: &str) -> Flaw {
        // `at` is always between characters: bytes passed over one at a time are ASCII.
        match self.text[self.at..].chars().next() {
            Some(found) => self.flaw(format!("expected {expected}, found {found:?}")),
            None => self.flaw(format!("expected {expected}, but the input ends")),
        }
    }
}

fn duplicate<'m>(members: &'m [Member<'_>]) -> Option<&'m str> {
    if members.len() <= FEW_MEMBERS {
        let repeats = |index: usize| members[..index].iter().any(|m| m.0 == members[index].0);
        return (1..members.len())
            .find(|&index| repeats(index))
            .map(|index| &*members[index].0);
    }
    let mut seen = HashSet::with_capacity(members.len());
    members
        .iter()
        .map(|(name, _)| &**name)
        .find(|&name| !seen.insert(name))
}

#[cfg(test)]
mod tests;
