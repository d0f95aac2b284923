//! One column: what it takes, and how a new one comes by its type.

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};

use crate::widen::is_never_widened;

use super::shape::{BEFORE_ROWS, Members, Progress};
use super::value::{Flaw, Value, as_float, as_int, is_exact_in_float};
use super::{InputError, time};

pub(super) struct Column {
    pub name: String,
    /// The field as the stream, or the format, defines it; `None` for a new one.
    pub known: Option<FieldRef>,
    pub kind: Kind,
    pub nullable: bool,
    /// The row that added it.
    pub born: u64,
    /// The last row that changed its kind to another, and from what.
    changed: u64,
    before: Simple,
    /// The first row whose integer is beyond 2^53.
    wide: Option<u64>,
    /// An integer column of the stream may become a float one.
    widens: bool,
}

pub(super) enum Kind {
    Simple(Simple),
    Struct(Members),
    List(Box<Column>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Simple {
    /// Only null so far.
    Unknown,
    Boolean,
    Int,
    Float,
    Text,
    /// Strings, all of them date-times so far.
    TimeText,
    Time,
}

impl Column {
    pub fn new(name: &str, row: u64) -> Self {
        Column {
            name: name.to_owned(),
            known: None,
            kind: Kind::Simple(Simple::Unknown),
            nullable: true,
            born: row,
            changed: BEFORE_ROWS,
            before: Simple::Unknown,
            wide: None,
            widens: true,
        }
    }

    pub fn known(field: &FieldRef) -> Result<Self, InputError> {
        let kind = match field.data_type() {
            DataType::Boolean => Kind::Simple(Simple::Boolean),
            DataType::Int64 => Kind::Simple(Simple::Int),
            DataType::Float64 => Kind::Simple(Simple::Float),
            DataType::Utf8 => Kind::Simple(Simple::Text),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
                Kind::Simple(Simple::Time)
            }
            DataType::Struct(fields) => Kind::Struct(Members::known(fields)?),
            DataType::List(element) => Kind::List(Box::new(Column::known(element)?)),
            other => {
                return Err(InputError::UnsupportedColumn {
                    column: field.name().clone(),
                    data_type: other.clone(),
                });
            }
        };
        Ok(Column {
            kind,
            known: Some(field.clone()),
            nullable: field.is_nullable(),
            widens: !is_never_widened(field),
            ..Column::new(field.name(), BEFORE_ROWS)
        })
    }

    /// It is an integer column and cannot become a float one in this block any more.
    pub fn stays_integer(&self) -> bool {
        let is_integer = matches!(self.kind, Kind::Simple(Simple::Int));
        is_integer && (self.wide.is_some() || !self.widens)
    }

    pub fn count(&self) -> usize {
        1 + match &self.kind {
            Kind::Simple(_) => 0,
            Kind::Struct(members) => members.count(),
            Kind::List(element) => element.count(),
        }
    }

    pub fn merge(&mut self, value: &Value<'_>, progress: &mut Progress) -> Result<(), Flaw> {
        if *value == Value::Null {
            return self.fits_null();
        }
        if let Kind::Simple(Simple::Unknown) = self.kind {
            self.begin(value, progress)?;
        }
        match (&mut self.kind, value) {
            (Kind::Struct(members), Value::Object(row)) => members.merge(row, progress),
            (Kind::List(element), Value::List(values)) => {
                for (index, value) in values.iter().enumerate() {
                    let merged = element.merge(value, progress);
                    merged.map_err(|flaw| flaw.in_element(index))?;
                }
                Ok(())
            }
            (Kind::Simple(simple), value) => {
                let simple = *simple;
                self.merge_simple(simple, value, progress)
            }
            _ => Err(self.conflict(value)),
        }
    }

    fn merge_simple(
        &mut self,
        simple: Simple,
        value: &Value<'_>,
        progress: &mut Progress,
    ) -> Result<(), Flaw> {
        let is_new = self.known.is_none();
        match (simple, value) {
            (Simple::Int, Value::Float(_)) if is_new => {
                progress.recheck |= self.wide.is_some();
                self.change(Simple::Float, progress);
            }
            // The stream's own integer column: its history decides, too (`crate::widen`).
            (Simple::Int, Value::Float(_))
                if self.widens && self.wide.is_none() && as_int(value).is_none() =>
            {
                self.change(Simple::Float, progress);
            }
            (Simple::Int, Value::Int(number))
                if self.wide.is_none() && !is_exact_in_float(*number) =>
            {
                self.wide = Some(progress.row);
                progress.touched = true;
            }
            (Simple::TimeText, Value::Text(text)) if time::from_rfc3339(text).is_none() => {
                self.change(Simple::Text, progress);
            }
            _ => {}
        }
        self.fits(value)
    }

    /// Whether a value fits the column as it is now, without letting it grow.
    pub fn fits(&self, value: &Value<'_>) -> Result<(), Flaw> {
        if *value == Value::Null {
            return self.fits_null();
        }
        match (&self.kind, value) {
            (Kind::Struct(members), Value::Object(row)) => members.fits(row),
            (Kind::List(element), Value::List(values)) => {
                let fit = |(index, value)| {
                    element
                        .fits(value)
                        .map_err(|flaw: Flaw| flaw.in_element(index))
                };
                values.iter().enumerate().try_for_each(fit)
            }
            (Kind::Simple(simple), value) => {
                let fit = match simple {
                    Simple::Unknown => false,
                    Simple::Boolean => matches!(value, Value::Bool(_)),
                    Simple::Int => as_int(value).is_some(),
                    Simple::Float => as_float(value).is_some(),
                    Simple::Text | Simple::TimeText => matches!(value, Value::Text(_)),
                    Simple::Time => time::from_value(value).is_some(),
                };
                if fit {
                    Ok(())
                } else {
                    Err(self.conflict(value))
                }
            }
            _ => Err(self.conflict(value)),
        }
    }

    fn fits_null(&self) -> Result<(), Flaw> {
        if self.nullable {
            return Ok(());
        }
        Err(Flaw::new(
            "missing_value",
            "a value is required, found null",
        ))
    }

    /// Takes a new column's kind from its first value.
    fn begin(&mut self, value: &Value<'_>, progress: &mut Progress) -> Result<(), Flaw> {
        let row = progress.row;
        if progress.columns >= progress.max_columns {
            let message = format!("a stream has at most {} columns", progress.max_columns);
            return Err(Flaw::new("too_many_fields", message));
        }
        let simple = match value {
            Value::Null => return Ok(()),
            Value::Wide(_) => return Err(self.conflict(value)),
            Value::Bool(_) => Simple::Boolean,
            Value::Int(_) => Simple::Int,
            Value::Float(_) => Simple::Float,
            Value::Text(text) if time::from_rfc3339(text).is_some() => Simple::TimeText,
            Value::Text(_) => Simple::Text,
            Value::Micros(_) => Simple::Time,
            Value::List(_) | Value::Object(_) => Simple::Unknown,
        };
        progress.columns += 1;
        self.change(simple, progress);
        match value {
            Value::List(_) => self.kind = Kind::List(Box::new(Column::new("element", row))),
            Value::Object(_) => self.kind = Kind::Struct(Members::new()),
            _ => {}
        }
        Ok(())
    }

    fn change(&mut self, to: Simple, progress: &mut Progress) {
        progress.touched = true;
        if let Kind::Simple(from) = self.kind {
            if self.changed != progress.row {
                self.changed = progress.row;
                self.before = from;
            }
            self.kind = Kind::Simple(to);
        }
    }

    pub fn take_back(&mut self, row: u64) {
        if self.changed == row {
            self.kind = Kind::Simple(self.before);
        }
        if self.wide == Some(row) {
            self.wide = None;
        }
        match &mut self.kind {
            Kind::Simple(_) => {}
            Kind::Struct(members) => members.take_back(row),
            Kind::List(element) => element.take_back(row),
        }
    }

    fn conflict(&self, value: &Value<'_>) -> Flaw {
        let expected = match &self.kind {
            Kind::Simple(simple) => simple.expected(),
            Kind::Struct(_) => "object",
            Kind::List(_) => "list",
        };
        let is_number = matches!(value, Value::Int(_) | Value::Wide(_) | Value::Float(_));
        let code = match &self.kind {
            Kind::Simple(Simple::Int | Simple::Float | Simple::Time | Simple::Unknown)
                if is_number && !is_fraction(value) =>
            {
                "out_of_range"
            }
            _ => "type_conflict",
        };
        let hint = match (&self.kind, value) {
            (Kind::Simple(Simple::Float), Value::Int(_) | Value::Wide(_)) => {
                ", which it may not hold exactly"
            }
            _ => "",
        };
        Flaw::new(code, format!("expected {expected}, found {value}{hint}"))
    }
}

impl Simple {
    fn expected(self) -> &'static str {
        match self {
            Simple::Boolean => "boolean",
            Simple::Int => "int64",
            Simple::Float => "float64",
            Simple::Text | Simple::TimeText => "string",
            Simple::Time => "timestamp",
            Simple::Unknown => "a number of 64 bits",
        }
    }
}

fn is_fraction(value: &Value<'_>) -> bool {
    matches!(value, Value::Float(number) if number.fract() != 0.0)
}

/// The type of the columns this module makes.
pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A new column.
pub(super) fn nullable(name: &str, data_type: DataType) -> FieldRef {
    Field::new(name, data_type, true).into()
}
