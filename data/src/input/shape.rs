//! The columns of a stream as they grow while the rows of a request pass by.
//!
//! A row is merged member by member, and may turn out not to fit only after it has added
//! columns or widened a type. So every such change is stamped with the row's number, and
//! [`Shape::merge`] takes back the changes of a row that does not fit. That makes "the first
//! row's type wins" mean the first *good* row's.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::value::{EXACT_IN_FLOAT, Flaw, Member, Value};
use super::{InputError, time};

/// The engine keeps columns of these names beside the user's.
const RESERVED: [&str; 4] = ["_shard", "_offset", "_ingested_at", "_producer"];

/// Stamp of what was there before the first row.
const BEFORE_ROWS: u64 = 0;

pub(super) struct Shape {
    pub members: Members,
    pub progress: Progress,
}

/// What merging keeps beside the columns themselves.
pub(super) struct Progress {
    row: u64,
    columns: usize,
    max_columns: usize,
    /// A new integer field that held an integer beyond 2^53 became a float one, so rows
    /// merged before may not fit any more.
    pub recheck: bool,
}

pub(super) struct Members {
    pub columns: Vec<Column>,
    index: HashMap<String, usize>,
    /// Indexes of columns that are not nullable.
    required: Vec<usize>,
}

pub(super) struct Column {
    pub name: String,
    /// The field as the stream, or the format, defines it; `None` for a new one.
    pub known: Option<FieldRef>,
    pub kind: Kind,
    nullable: bool,
    /// The row that added it.
    born: u64,
    /// The last row that changed its kind to another, and from what.
    changed: u64,
    before: Simple,
    /// It has held an integer beyond 2^53.
    wide: bool,
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

impl Shape {
    /// The columns a stream has.
    ///
    /// # Errors
    ///
    /// [`InputError::UnsupportedColumn`] for a type other than the seven there are.
    pub fn new(fields: &Fields, max_columns: usize) -> Result<Self, InputError> {
        let members = Members::known(fields)?;
        let columns = members.count();
        let progress = Progress {
            row: BEFORE_ROWS,
            columns,
            max_columns,
            recheck: false,
        };
        Ok(Shape { members, progress })
    }

    /// Adds the columns of a format that come even when no row has a value for them.
    pub fn pin(&mut self, fields: &Fields) -> Result<(), InputError> {
        for field in fields {
            if self.members.find(field.name(), 0).is_none() {
                self.members.add(Column::known(field)?);
                self.progress.columns += 1;
            }
        }
        Ok(())
    }

    /// Checks a row against the columns and lets them grow by it; by nothing on error.
    pub fn merge(&mut self, row: &Value<'_>) -> Result<(), Flaw> {
        let Value::Object(members) = row else {
            return Err(Flaw::new(
                "not_an_object",
                format!("expected an object, found {row}"),
            ));
        };
        if let Some((name, _)) = members.iter().find(|(name, _)| is_reserved(name)) {
            let message = "the name is reserved for the engine";
            return Err(Flaw::new("reserved_field", message).in_member(name));
        }
        self.progress.row += 1;
        let columns = self.progress.columns;
        self.members
            .merge(members, &mut self.progress)
            .inspect_err(|_| {
                self.members.take_back(self.progress.row);
                self.progress.columns = columns;
            })
    }
}

fn is_reserved(name: &str) -> bool {
    name.starts_with('_') && RESERVED.iter().any(|reserved| name.starts_with(reserved))
}

impl Members {
    fn new() -> Self {
        Members {
            columns: Vec::new(),
            index: HashMap::new(),
            required: Vec::new(),
        }
    }

    fn known(fields: &Fields) -> Result<Self, InputError> {
        let mut members = Members::new();
        for field in fields {
            members.add(Column::known(field)?);
        }
        Ok(members)
    }

    fn add(&mut self, column: Column) -> usize {
        let index = self.columns.len();
        if !column.nullable {
            self.required.push(index);
        }
        self.index.insert(column.name.clone(), index);
        self.columns.push(column);
        index
    }

    /// The column of a name; `hint` is where it would be if rows had all columns in order.
    pub fn find(&self, name: &str, hint: usize) -> Option<usize> {
        match self.columns.get(hint) {
            Some(column) if column.name == name => Some(hint),
            _ => self.index.get(name).copied(),
        }
    }

    /// All columns, nested ones and list elements included.
    pub fn count(&self) -> usize {
        self.columns.iter().map(Column::count).sum()
    }

    fn merge(&mut self, row: &[Member<'_>], progress: &mut Progress) -> Result<(), Flaw> {
        for (hint, (name, value)) in row.iter().enumerate() {
            let index = match self.find(name, hint) {
                Some(index) => index,
                None => self.add(Column::new(name, progress.row)),
            };
            let merged = self.columns[index].merge(value, progress);
            merged.map_err(|flaw| flaw.in_member(name))?;
        }
        for &index in &self.required {
            let name = &self.columns[index].name;
            if !row.iter().any(|(present, _)| present == name) {
                let flaw = Flaw::new("missing_value", "a value is required, found none");
                return Err(flaw.in_member(name));
            }
        }
        Ok(())
    }

    fn take_back(&mut self, row: u64) {
        while self.columns.last().is_some_and(|column| column.born == row) {
            if let Some(column) = self.columns.pop() {
                self.index.remove(&column.name);
            }
        }
        for column in &mut self.columns {
            column.take_back(row);
        }
    }
}

impl Column {
    fn new(name: &str, row: u64) -> Self {
        Column {
            name: name.to_owned(),
            known: None,
            kind: Kind::Simple(Simple::Unknown),
            nullable: true,
            born: row,
            changed: BEFORE_ROWS,
            before: Simple::Unknown,
            wide: false,
        }
    }

    fn known(field: &FieldRef) -> Result<Self, InputError> {
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
            ..Column::new(field.name(), BEFORE_ROWS)
        })
    }

    fn count(&self) -> usize {
        1 + match &self.kind {
            Kind::Simple(_) => 0,
            Kind::Struct(members) => members.count(),
            Kind::List(element) => element.count(),
        }
    }

    fn merge(&mut self, value: &Value<'_>, progress: &mut Progress) -> Result<(), Flaw> {
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
                progress.recheck |= self.wide;
                self.change(Simple::Float, progress.row);
            }
            (Simple::Int, Value::Int(number)) => self.wide |= !is_exact_in_float(*number),
            (Simple::TimeText, Value::Text(text)) if time::from_rfc3339(text).is_none() => {
                self.change(Simple::Text, progress.row);
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
        self.change(simple, row);
        match value {
            Value::List(_) => self.kind = Kind::List(Box::new(Column::new("element", row))),
            Value::Object(_) => self.kind = Kind::Struct(Members::new()),
            _ => {}
        }
        Ok(())
    }

    fn change(&mut self, to: Simple, row: u64) {
        if let Kind::Simple(from) = self.kind {
            if self.changed != row {
                self.changed = row;
                self.before = from;
            }
            self.kind = Kind::Simple(to);
        }
    }

    fn take_back(&mut self, row: u64) {
        if self.changed == row {
            self.kind = Kind::Simple(self.before);
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

impl Members {
    pub fn fits(&self, row: &[Member<'_>]) -> Result<(), Flaw> {
        for (hint, (name, value)) in row.iter().enumerate() {
            if let Some(index) = self.find(name, hint) {
                self.columns[index]
                    .fits(value)
                    .map_err(|flaw| flaw.in_member(name))?;
            }
        }
        Ok(())
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

fn is_exact_in_float(number: i64) -> bool {
    (-EXACT_IN_FLOAT..=EXACT_IN_FLOAT).contains(&number)
}

fn is_fraction(value: &Value<'_>) -> bool {
    matches!(value, Value::Float(number) if number.fract() != 0.0)
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

/// The type of the columns this module makes.
pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A new column.
pub(super) fn nullable(name: &str, data_type: DataType) -> FieldRef {
    Field::new(name, data_type, true).into()
}
