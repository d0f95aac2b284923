//! Rows that fit a [`Shape`](super::shape::Shape), as Arrow columns.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, StringBuilder, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::column::{Column, Kind, Simple, nullable};
use super::shape::Members;
use super::value::{Value, as_float, as_int};
use super::{InputError, MAX_CELLS, time};

/// One column's values by row; a row without the field, or with null, has `None`.
type Values<'v> = [Option<&'v Value<'v>>];

/// The batch of rows that were all merged into `members`, which grew from `known`.
///
/// # Errors
///
/// [`InputError::TooLarge`] over [`MAX_CELLS`]; [`InputError::Build`] if a row does not fit.
pub(super) fn batch<'v>(
    members: &Members,
    known: &SchemaRef,
    rows: impl ExactSizeIterator<Item = &'v Value<'v>>,
) -> Result<RecordBatch, InputError> {
    let count = rows.len();
    if count == 0 {
        return Ok(RecordBatch::new_empty(known.clone()));
    }
    let rows: Vec<_> = rows.map(Some).collect();
    let mut cells = Cells { left: MAX_CELLS };
    let (fields, arrays): (Vec<_>, Vec<_>) = cells.members(members, &rows)?.into_iter().unzip();
    let fields = Fields::from(fields);
    let schema = if fields == known.fields {
        known.clone()
    } else {
        Schema::new_with_metadata(fields, known.metadata.clone()).into()
    };
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}

/// How many cells may still be made.
struct Cells {
    left: usize,
}

impl Cells {
    /// The columns of objects, in order, without new ones that are null throughout.
    fn members(
        &mut self,
        members: &Members,
        objects: &Values<'_>,
    ) -> Result<Vec<(FieldRef, ArrayRef)>, InputError> {
        let needed = objects.len().saturating_mul(members.columns.len());
        let too_large = InputError::TooLarge {
            what: "rows times columns",
            limit: MAX_CELLS,
        };
        self.left = self.left.checked_sub(needed).ok_or(too_large)?;
        let mut columns = vec![vec![None; objects.len()]; members.columns.len()];
        for (row, object) in objects.iter().enumerate() {
            let Some(Value::Object(values)) = object else {
                continue;
            };
            for (hint, (name, value)) in values.iter().enumerate() {
                if let (Some(index), false) = (members.find(name, hint), *value == Value::Null) {
                    columns[index][row] = Some(value);
                }
            }
        }
        let mut built = Vec::with_capacity(columns.len());
        for (column, values) in members.columns.iter().zip(columns) {
            built.extend(self.column(column, &values)?);
        }
        Ok(built)
    }

    /// One column; `None` for a new one that is null throughout.
    fn column(
        &mut self,
        column: &Column,
        values: &Values<'_>,
    ) -> Result<Option<(FieldRef, ArrayRef)>, InputError> {
        if column.known.is_none() && values.iter().all(Option::is_none) {
            return Ok(None);
        }
        let array: ArrayRef = match &column.kind {
            Kind::Simple(simple) => match simple_array(*simple, values)? {
                Some(array) => array,
                None => return Ok(None),
            },
            Kind::Struct(members) => {
                let (fields, arrays): (Vec<_>, Vec<_>) =
                    self.members(members, values)?.into_iter().unzip();
                if fields.is_empty() && column.known.is_none() {
                    return Ok(None);
                }
                let fields = Fields::from(fields);
                let nulls = nulls(values);
                Arc::new(StructArray::try_new_with_length(
                    fields,
                    arrays,
                    nulls,
                    values.len(),
                )?)
            }
            Kind::List(element) => match self.list(element, values)? {
                Some(array) => array,
                None => return Ok(None),
            },
        };
        Ok(Some((field(column, array.data_type()), array)))
    }

    fn list(
        &mut self,
        element: &Column,
        lists: &Values<'_>,
    ) -> Result<Option<ArrayRef>, InputError> {
        let mut elements = Vec::new();
        let mut lengths = Vec::with_capacity(lists.len());
        for list in lists {
            let before = elements.len();
            if let Some(Value::List(values)) = list {
                elements.extend(values.iter().map(|v| (*v != Value::Null).then_some(v)));
            }
            lengths.push(elements.len() - before);
        }
        let Some((field, array)) = self.column(element, &elements)? else {
            return Ok(None);
        };
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Some(Arc::new(ListArray::try_new(
            field,
            offsets,
            array,
            nulls(lists),
        )?)))
    }
}

/// `None` for a column of unknown type.
fn simple_array(simple: Simple, values: &Values<'_>) -> Result<Option<ArrayRef>, InputError> {
    Ok(Some(match simple {
        Simple::Unknown => return Ok(None),
        Simple::Boolean => {
            let flags = each(values, |value| match value {
                Value::Bool(flag) => Some(*flag),
                _ => None,
            });
            Arc::new(flags.collect::<Result<BooleanArray, _>>()?)
        }
        Simple::Int => Arc::new(each(values, as_int).collect::<Result<Int64Array, _>>()?),
        Simple::Float => Arc::new(each(values, as_float).collect::<Result<Float64Array, _>>()?),
        Simple::Text => text_array(values)?,
        Simple::TimeText | Simple::Time => {
            let times = each(values, time::from_value);
            let array = times.collect::<Result<TimestampMicrosecondArray, _>>()?;
            Arc::new(array.with_timezone("UTC"))
        }
    }))
}

fn text_array(values: &Values<'_>) -> Result<ArrayRef, InputError> {
    let mut builder = StringBuilder::with_capacity(values.len(), 0);
    for value in values {
        match value {
            Some(Value::Text(text)) => builder.append_value(text),
            None => builder.append_null(),
            Some(other) => return Err(misfit(other).into()),
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn each<'v, T>(
    values: &'v Values<'v>,
    read: impl Fn(&Value<'_>) -> Option<T> + 'v,
) -> impl Iterator<Item = Result<Option<T>, ArrowError>> + 'v {
    values.iter().map(move |value| match value {
        Some(value) => read(value).map(Some).ok_or_else(|| misfit(value)),
        None => Ok(None),
    })
}

fn misfit(value: &Value<'_>) -> ArrowError {
    ArrowError::CastError(format!("a checked row holds a {value} that does not fit"))
}

fn nulls(values: &Values<'_>) -> Option<NullBuffer> {
    let nulls: NullBuffer = values.iter().map(Option::is_some).collect();
    (nulls.null_count() > 0).then_some(nulls)
}

/// A known field keeps all but a type that grew.
fn field(column: &Column, data_type: &DataType) -> FieldRef {
    match &column.known {
        Some(known) if known.data_type() == data_type => known.clone(),
        Some(known) => Arc::new(known.as_ref().clone().with_data_type(data_type.clone())),
        None => nullable(&column.name, data_type.clone()),
    }
}
