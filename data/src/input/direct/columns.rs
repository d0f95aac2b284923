//! Columns that take values as they are read, and give back those of a row that was left.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::super::shape;
use super::super::value::is_exact_in_float;
use super::super::{EpochUnit, InputError, time};
use super::reader::{Number, Reader};
use crate::schema::REST;

/// The columns of an object.
pub struct Members {
    columns: Vec<Column>,
    index: HashMap<String, usize>,
    /// Where the members of the last rows were, in their order: the next row's are there, too.
    order: Vec<usize>,
    max_members: usize,
}

struct Column {
    /// The name in quotes, as rows have it.
    quoted: Vec<u8>,
    is_nullable: bool,
    values: Values,
    validity: Validity,
}

enum Values {
    Boolean(Vec<bool>),
    Int {
        values: Vec<i64>,
        /// Also those beyond 2^53, which a column that may become a float one must know of.
        takes_wide: bool,
    },
    Float(Vec<f64>),
    Text {
        offsets: Vec<i32>,
        bytes: Vec<u8>,
    },
    Time {
        values: Vec<i64>,
        unit: EpochUnit,
    },
    Struct(Members),
    List {
        offsets: Vec<i32>,
        element: Box<Column>,
    },
    /// Values of this column are not read here.
    Null(DataType),
}

/// Which values are not null; nothing is kept while all are not.
#[derive(Default)]
struct Validity {
    length: usize,
    flags: Option<Vec<bool>>,
}

impl Validity {
    #[inline]
    fn push(&mut self, is_valid: bool) {
        if let Some(flags) = &mut self.flags {
            flags.push(is_valid);
        } else if !is_valid {
            let mut flags = vec![true; self.length];
            flags.push(false);
            self.flags = Some(flags);
        }
        self.length += 1;
    }

    fn truncate(&mut self, length: usize) {
        self.length = length;
        if let Some(flags) = &mut self.flags {
            flags.truncate(length);
        }
    }

    fn finish(self) -> Option<NullBuffer> {
        let nulls = NullBuffer::from(self.flags?);
        (nulls.null_count() > 0).then_some(nulls)
    }
}

impl Members {
    /// `depth`: how deep rows may nest, this object being the first level.
    pub fn new(fields: &Fields, depth: usize, max_members: usize) -> Self {
        let column = |field: &FieldRef| Column::new(field, depth.saturating_sub(1), max_members);
        // A name with such characters is written with escapes, which are not read here.
        let is_plain = |name: &str| !name.contains(|c: char| c == '"' || c == '\\' || c < ' ');
        let named = fields.iter().enumerate().filter(|(_, field)| {
            let name = field.name();
            name != REST && is_plain(name)
        });
        Members {
            columns: fields.iter().map(column).collect(),
            index: named
                .map(|(at, field)| (field.name().clone(), at))
                .collect(),
            order: Vec::new(),
            max_members,
        }
    }

    pub fn set_unit(&mut self, column: &str, to: EpochUnit) {
        if let Some(&at) = self.index.get(column)
            && let Values::Time { unit, .. } = &mut self.columns[at].values
        {
            *unit = to;
        }
    }

    pub fn reserve(&mut self, rows: usize) {
        for column in &mut self.columns {
            match &mut column.values {
                Values::Boolean(values) => values.reserve(rows),
                Values::Int { values, .. } | Values::Time { values, .. } => values.reserve(rows),
                Values::Float(values) => values.reserve(rows),
                Values::Text { offsets, .. } => offsets.reserve(rows),
                Values::Struct(_) | Values::List { .. } | Values::Null(_) => {}
            }
        }
    }

    /// Makes room for the texts of `rows` rows, if they are as long as those of the first `read`.
    pub fn reserve_texts(&mut self, rows: usize, read: usize) {
        for column in &mut self.columns {
            match &mut column.values {
                Values::Text { bytes, .. } => {
                    let expected = bytes.len() / read * rows;
                    let spare = expected / 16;
                    bytes.reserve((expected + spare).saturating_sub(bytes.len()));
                }
                Values::Struct(members) => members.reserve_texts(rows, read),
                _ => {}
            }
        }
    }

    /// Takes note of what the columns have become; new ones are none of ours.
    pub fn learn(&mut self, shape: &shape::Members) {
        for (column, learned) in self.columns.iter_mut().zip(&shape.columns) {
            column.learn(learned);
        }
    }

    /// Reads an object as the values of row `row`.
    pub fn read(&mut self, reader: &mut Reader<'_>, row: usize) -> Option<()> {
        reader.expect(b'{')?;
        let mut members = 0;
        if !reader.take(b'}') {
            loop {
                let at = self.find(reader, members)?;
                reader.expect(b':')?;
                let column = &mut self.columns[at];
                // A second value of one name.
                if column.validity.length != row {
                    return None;
                }
                column.read(reader)?;
                members += 1;
                if !reader.take(b',') {
                    reader.expect(b'}')?;
                    break;
                }
            }
        }
        if members > self.max_members {
            return None;
        }
        if members < self.columns.len() {
            for column in &mut self.columns {
                if column.validity.length == row {
                    column.is_nullable.then(|| column.push_null())?;
                }
            }
        }
        Some(())
    }

    /// Reads a member's name and finds its column.
    #[inline]
    fn find(&mut self, reader: &mut Reader<'_>, member: usize) -> Option<usize> {
        reader.peek()?;
        if let Some(&at) = self.order.get(member)
            && reader.take_all(&self.columns[at].quoted)
        {
            return Some(at);
        }
        let at = *self.index.get(reader.plain_string()?)?;
        match self.order.get_mut(member) {
            Some(expected) => *expected = at,
            None => self.order.push(at),
        }
        Some(at)
    }

    fn push_null(&mut self) {
        self.columns.iter_mut().for_each(Column::push_null);
    }

    pub fn truncate(&mut self, length: usize) {
        for column in &mut self.columns {
            column.truncate(length);
        }
    }

    pub fn finish(self, fields: &Fields) -> Result<Vec<ArrayRef>, InputError> {
        let columns = self.columns.into_iter().zip(fields);
        columns
            .map(|(column, field)| column.finish(field))
            .collect()
    }
}

impl Column {
    fn new(field: &Field, depth: usize, max_members: usize) -> Self {
        let values = match field.data_type() {
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int64 => Values::Int {
                values: Vec::new(),
                takes_wide: false,
            },
            DataType::Float64 => Values::Float(Vec::new()),
            DataType::Utf8 => Values::Text {
                offsets: vec![0],
                bytes: Vec::new(),
            },
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => Values::Time {
                values: Vec::new(),
                unit: EpochUnit::Auto,
            },
            DataType::Struct(fields) if depth > 0 => {
                Values::Struct(Members::new(fields, depth, max_members))
            }
            DataType::List(element) if depth > 0 => Values::List {
                offsets: vec![0],
                element: Box::new(Column::new(element, depth - 1, max_members)),
            },
            other => Values::Null(other.clone()),
        };
        Column {
            quoted: format!("\"{}\"", field.name()).into_bytes(),
            is_nullable: field.is_nullable(),
            values,
            validity: Validity::default(),
        }
    }

    fn learn(&mut self, learned: &super::super::column::Column) {
        use super::super::column::Kind;
        match (&mut self.values, &learned.kind) {
            (Values::Int { takes_wide, .. }, _) => *takes_wide = learned.stays_integer(),
            (Values::Struct(members), Kind::Struct(learned)) => members.learn(learned),
            (Values::List { element, .. }, Kind::List(learned)) => element.learn(learned),
            _ => {}
        }
    }

    #[inline]
    fn read(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        if reader.peek()? == b'n' {
            if !self.is_nullable || !reader.take_all(b"null") {
                return None;
            }
            self.push_null();
            return Some(());
        }
        match &mut self.values {
            Values::Text { offsets, bytes } => {
                let text = reader.string()?;
                bytes.extend_from_slice(text.as_bytes());
                offsets.push(i32::try_from(bytes.len()).ok()?);
            }
            Values::Int { values, takes_wide } => match reader.number()? {
                Number::Int(number) if *takes_wide || is_exact_in_float(number) => {
                    values.push(number);
                }
                _ => return None,
            },
            Values::Float(values) => values.push(match reader.number()? {
                Number::Float(number) => number,
                Number::Int(number) if is_exact_in_float(number) => number as f64,
                Number::Int(_) => return None,
            }),
            Values::Time { values, unit } => values.push(read_time(reader, *unit)?),
            Values::Boolean(values) => {
                let is_true = reader.take_all(b"true");
                if !is_true && !reader.take_all(b"false") {
                    return None;
                }
                values.push(is_true);
            }
            Values::Struct(members) => members.read(reader, self.validity.length)?,
            Values::List { offsets, element } => {
                reader.expect(b'[')?;
                if !reader.take(b']') {
                    loop {
                        element.read(reader)?;
                        if !reader.take(b',') {
                            reader.expect(b']')?;
                            break;
                        }
                    }
                }
                offsets.push(i32::try_from(element.validity.length).ok()?);
            }
            Values::Null(_) => return None,
        }
        self.validity.push(true);
        Some(())
    }

    fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.push(false),
            Values::Int { values, .. } | Values::Time { values, .. } => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Text { offsets, .. } | Values::List { offsets, .. } => {
                offsets.extend_from_within(offsets.len() - 1..);
            }
            Values::Struct(members) => members.push_null(),
            Values::Null(_) => {}
        }
        self.validity.push(false);
    }

    fn truncate(&mut self, length: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.truncate(length),
            Values::Int { values, .. } | Values::Time { values, .. } => values.truncate(length),
            Values::Float(values) => values.truncate(length),
            Values::Text { offsets, bytes } => {
                bytes.truncate(truncate_offsets(offsets, length));
            }
            Values::Struct(members) => members.truncate(length),
            Values::List { offsets, element } => {
                element.truncate(truncate_offsets(offsets, length));
            }
            Values::Null(_) => {}
        }
        self.validity.truncate(length);
    }

    fn finish(self, field: &Field) -> Result<ArrayRef, InputError> {
        let length = self.validity.length;
        let nulls = self.validity.finish();
        Ok(match self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.into(), nulls)),
            Values::Int { values, .. } => Arc::new(Int64Array::new(fitted(values).into(), nulls)),
            Values::Float(values) => Arc::new(Float64Array::new(fitted(values).into(), nulls)),
            Values::Time { values, .. } => {
                let times = TimestampMicrosecondArray::new(fitted(values).into(), nulls);
                Arc::new(times.with_data_type(field.data_type().clone()))
            }
            Values::Text { offsets, bytes } => Arc::new(StringArray::try_new(
                OffsetBuffer::new(fitted(offsets).into()),
                Buffer::from_vec(fitted(bytes)),
                nulls,
            )?),
            Values::Struct(members) => match field.data_type() {
                DataType::Struct(fields) => Arc::new(StructArray::try_new_with_length(
                    fields.clone(),
                    members.finish(fields)?,
                    nulls,
                    length,
                )?),
                other => new_null_array(other, length),
            },
            Values::List { offsets, element } => match field.data_type() {
                DataType::List(item) => Arc::new(ListArray::try_new(
                    item.clone(),
                    OffsetBuffer::new(offsets.into()),
                    element.finish(item)?,
                    nulls,
                )?),
                other => new_null_array(other, length),
            },
            Values::Null(data_type) => new_null_array(&data_type, length),
        })
    }
}

fn read_time(reader: &mut Reader<'_>, unit: EpochUnit) -> Option<i64> {
    if reader.peek()? == b'"' {
        return time::from_string(&reader.string()?);
    }
    match (reader.number()?, unit) {
        (Number::Int(number), EpochUnit::Auto) => time::from_epoch(number),
        (Number::Int(number), unit) => unit.micros(number),
        (Number::Float(number), EpochUnit::Auto) => time::from_epoch_float(number),
        (Number::Float(number), unit) => unit.micros_of_float(number),
    }
}

/// Forgets the places behind `length`; returns where the last one ends.
fn truncate_offsets(offsets: &mut Vec<i32>, length: usize) -> usize {
    offsets.truncate(length + 1);
    offsets.last().map_or(0, |&end| end as usize)
}

/// What is kept in memory until the flush should not have much room that is unused.
fn fitted<T>(mut values: Vec<T>) -> Vec<T> {
    if values.capacity() - values.len() > values.len() / 8 {
        values.shrink_to_fit();
    }
    values
}
