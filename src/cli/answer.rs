//! An answer in the format json, read row by row: its size does not matter to memory.
//!
//! Each value keeps the text the server sent for it, so that integers and decimals are shown
//! with all their digits.

use std::fmt;
use std::io::{self, BufReader, Read};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::output::CopyError;

/// Bytes of an answer read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type", default)]
    pub data_type: String,
}

impl Column {
    /// Numbers stand to the right.
    pub fn is_number(&self) -> bool {
        ["Int", "UInt", "Float", "Decimal"]
            .iter()
            .any(|start| self.data_type.starts_with(start))
    }
}

/// Whether more rows are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    Wanted,
    Enough,
}

/// Something that shows rows.
pub trait Rows {
    /// Comes once, before the rows.
    fn columns(&mut self, columns: Vec<Column>) -> io::Result<()>;
    /// Values for reading, in the order of the columns; null is empty.
    fn row(&mut self, cells: Vec<String>) -> io::Result<More>;
}

/// Reads an answer to its end; its `stats`, or null if `rows` had enough before that.
pub fn read(from: impl Read, rows: &mut dyn Rows) -> Result<Value, CopyError> {
    let mut seen = Seen {
        rows,
        stats: Value::Null,
        is_enough: false,
        write_error: None,
    };
    let reader = BufReader::with_capacity(BUFFER_BYTES, from);
    let mut json = serde_json::Deserializer::from_reader(reader);
    let read = json.deserialize_map(Document(&mut seen));
    if let Some(error) = seen.write_error {
        return Err(CopyError::Write(error));
    }
    if seen.is_enough {
        return Ok(Value::Null);
    }
    // What comes after the last brace is the proper end of the transfer.
    read.and_then(|()| json.end())
        .map_err(|error| CopyError::Read(error.into()))?;
    Ok(seen.stats)
}

struct Seen<'a> {
    rows: &'a mut dyn Rows,
    stats: Value,
    is_enough: bool,
    write_error: Option<io::Error>,
}

impl Seen<'_> {
    /// Ends reading with an error that [`read`] knows the meaning of.
    fn stop<E: Error>(&mut self, outcome: io::Result<More>) -> Result<(), E> {
        match outcome {
            Ok(More::Wanted) => return Ok(()),
            Ok(More::Enough) => self.is_enough = true,
            Err(error) => self.write_error = Some(error),
        }
        Err(E::custom("stopped"))
    }
}

/// `{"meta": [...], "data": [...], "rows": n, "stats": {...}}`, in this order.
struct Document<'a, 'b>(&'a mut Seen<'b>);

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "meta" => {
                    let columns = self.0.rows.columns(map.next_value()?);
                    self.0.stop(columns.map(|()| More::Wanted))?;
                }
                "data" => map.next_value_seed(Data(self.0))?,
                "stats" => self.0.stats = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Data<'a, 'b>(&'a mut Seen<'b>);

impl<'de> DeserializeSeed<'de> for Data<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Data<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        while let Some(Cells(cells)) = rows.next_element()? {
            let outcome = self.0.rows.row(cells);
            self.0.stop(outcome)?;
        }
        Ok(())
    }
}

/// The values of one row, without their names.
struct Cells(Vec<String>);

impl<'de> Deserialize<'de> for Cells {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Cells;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cells, A::Error> {
        let mut cells = Vec::new();
        while let Some((_, value)) = map.next_entry::<IgnoredAny, Box<RawValue>>()? {
            cells.push(shown(&value).map_err(A::Error::custom)?);
        }
        Ok(Cells(cells))
    }
}

/// A value for reading. Control characters are spelled out: a terminal obeys them.
fn shown(value: &RawValue) -> Result<String, serde_json::Error> {
    let text = value.get();
    if text == "null" {
        return Ok(String::new());
    }
    if !text.starts_with('"') {
        return Ok(text.to_owned());
    }
    let text: String = serde_json::from_str(text)?;
    if !text.contains(|c: char| c.is_control() && c != '\n') {
        return Ok(text);
    }
    let spelled = text.chars().map(|c| match c {
        '\n' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    Ok(spelled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept {
        columns: Vec<Column>,
        rows: Vec<Vec<String>>,
        wanted: usize,
    }

    impl Rows for Kept {
        fn columns(&mut self, columns: Vec<Column>) -> io::Result<()> {
            self.columns = columns;
            Ok(())
        }

        fn row(&mut self, cells: Vec<String>) -> io::Result<More> {
            if self.rows.len() == self.wanted {
                return Ok(More::Enough);
            }
            self.rows.push(cells);
            Ok(More::Wanted)
        }
    }

    const ANSWER: &str = r#"{"meta":[{"name":"n","type":"UInt64"},{"name":"t","type":"Utf8"}],
        "data":[ {"n":18446744073709551615,"t":"a\u001b[31m\nb"}, {"n":null,"t":""},
        {"n":1.230,"t":{"x":[1,2]}} ],"rows":3,"stats":{"rows_read":7}}
        "#;

    fn kept(wanted: usize) -> Kept {
        Kept {
            wanted,
            ..Kept::default()
        }
    }

    #[test]
    fn rows_come_with_all_their_digits() {
        let mut rows = kept(9);
        let stats = read(ANSWER.as_bytes(), &mut rows).unwrap();
        assert_eq!(stats["rows_read"], 7);
        assert!(rows.columns[0].is_number() && !rows.columns[1].is_number());
        assert_eq!(
            rows.rows,
            [
                ["18446744073709551615", "a\\u{1b}[31m\nb"],
                ["", ""],
                ["1.230", "{\"x\":[1,2]}"]
            ]
        );
    }

    #[test]
    fn reading_ends_when_enough_is_shown() {
        let mut rows = kept(1);
        assert_eq!(read(ANSWER.as_bytes(), &mut rows).unwrap(), Value::Null);
        assert_eq!(rows.rows.len(), 1);
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error_everywhere() {
        for end in 0..ANSWER.trim_end().len() {
            let outcome = read(&ANSWER.as_bytes()[..end], &mut kept(9));
            assert!(matches!(outcome, Err(CopyError::Read(_))), "{end}");
        }
    }
}
