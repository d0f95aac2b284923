//! One row of converted columns as a tree.

use std::borrow::Cow;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};

use super::super::value::Value;

/// A row of a batch whose columns have the engine's types.
pub(super) fn row(batch: &RecordBatch, row: usize) -> Value<'_> {
    let schema = batch.schema_ref();
    let named = schema.fields().iter().zip(batch.columns());
    let members =
        named.map(|(field, array)| (Cow::Borrowed(field.name().as_str()), value(array, row)));
    Value::Object(members.collect())
}

fn value(array: &dyn Array, row: usize) -> Value<'_> {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::Text(Cow::Borrowed(array.as_string::<i32>().value(row))),
        DataType::Timestamp(..) => {
            Value::Micros(array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let named = fields.iter().zip(columns);
            let members = named
                .map(|(field, array)| (Cow::Borrowed(field.name().as_str()), value(array, row)));
            Value::Object(members.collect())
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            let range = offsets[row] as usize..offsets[row + 1] as usize;
            let values = list.values();
            Value::List(range.map(|index| value(values, index)).collect())
        }
        // Conversion makes no other types.
        _ => Value::Null,
    }
}
