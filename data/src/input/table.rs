//! Rows that come as columns, from Arrow and Parquet, into the stream's columns.
//!
//! Every column is first brought to one of the engine's types ([`convert`]). If all of them
//! then fit the stream's columns, or are new, they are taken over as they are. Otherwise the
//! rows are read one by one, as those of other formats, so that only the rows that do not
//! fit are rejected.

mod convert;
mod rows;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, MutableArrayData, RecordBatch, RecordBatchOptions, make_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};

use self::convert::{Bad, convert};
use super::block::{Table, Target};
use super::csv::reserved;
use super::options::EpochUnit;
use super::parse::{Rows, rejections};
use super::shape::{Shape, is_reserved};
use super::value::Flaw;
use super::{InputError, Limits, Parsed};
use crate::schema::adapt;

pub(super) fn parse(
    table: &Table,
    target: &Target<'_>,
    limits: &Limits,
) -> Result<Parsed, InputError> {
    let (batch, bad) = converted(table)?;
    let mut rows = Rows::new(limits.max_rejections);
    let mut is_good = vec![true; batch.num_rows()];
    for (row, good) in is_good.iter_mut().enumerate() {
        if let Some(bad) = bad.iter().find(|bad| bad.rows.value(row)) {
            *good = false;
            let flaw = Flaw::new("out_of_range", bad.reason).in_member(&bad.field);
            rows.reject(table.first + row as u64, flaw);
        }
    }
    if let Some(fields) = merged_fields(&batch, target, limits) {
        let batch = if rows.rejected() > 0 {
            filter_record_batch(&batch, &BooleanArray::from(is_good))?
        } else {
            batch
        };
        return taken_over(&batch, fields, target, rows, table);
    }
    let mut shape = Shape::new(&target.schema.fields, limits.max_fields)?;
    for row in (0..batch.num_rows()).filter(|row| is_good[*row]) {
        let value = rows::row(&batch, row);
        rows.add(
            table.first + row as u64,
            Ok(value),
            None,
            target,
            &mut shape,
        );
    }
    rows.finish(&shape, target.schema, table.format)
}

/// All rows in columns of the engine's types, and which of them have values that fit none.
fn converted(table: &Table) -> Result<(RecordBatch, Vec<Bad>), InputError> {
    let mut batches = Vec::with_capacity(table.batches.len());
    let mut all_bad: Vec<(usize, Bad)> = Vec::new();
    let mut start = 0;
    for batch in &table.batches {
        let (mut fields, mut arrays): (Vec<FieldRef>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let name = field.name();
            if is_reserved(name) {
                return Err(reserved(name));
            }
            if fields.iter().any(|other| other.name() == name) {
                let message = format!("the body has more than one column {name:?}");
                return Err(InputError::invalid("invalid_schema", message));
            }
            let mut bad = Vec::new();
            let Some(array) = convert(array, name, &mut bad)? else {
                continue;
            };
            all_bad.extend(bad.into_iter().map(|bad| (start, bad)));
            fields.push(Arc::new(Field::new(name, array.data_type().clone(), true)));
            arrays.push(array);
        }
        start += batch.num_rows();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::new(Schema::new(fields));
        batches.push(RecordBatch::try_new_with_options(schema, arrays, &options)?);
    }
    let batch = match &batches[..] {
        [] => RecordBatch::new_empty(Arc::new(Schema::empty())),
        // The columns may be parts of a message that is much larger, and would keep it.
        [batch] => compact(batch)?,
        [first, ..] => concat_batches(first.schema_ref(), &batches)?,
    };
    let bad = all_bad.into_iter().map(|(start, bad)| {
        let flags = (0..batch.num_rows())
            .map(|row| row >= start && row - start < bad.rows.len() && bad.rows.value(row - start));
        Bad {
            rows: flags.collect::<BooleanBuffer>(),
            ..bad
        }
    });
    let bad = bad.collect();
    Ok((batch, bad))
}

fn compact(batch: &RecordBatch) -> Result<RecordBatch, InputError> {
    let copy = |array: &ArrayRef| {
        let data = array.to_data();
        let mut copied = MutableArrayData::new(vec![&data], false, data.len());
        copied.try_extend(0, 0, data.len())?;
        Ok(make_array(copied.freeze()))
    };
    let columns = batch.columns().iter().map(copy);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = columns.collect::<Result<Vec<_>, arrow::error::ArrowError>>()?;
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}

/// The stream's columns with those of the batch, if the batch's fit as they are.
fn merged_fields(batch: &RecordBatch, target: &Target<'_>, limits: &Limits) -> Option<Fields> {
    let known = &target.schema.fields;
    let unit_matters = target.options.event_time_unit != EpochUnit::Auto;
    let is_number = |field: &FieldRef| {
        matches!(field.data_type(), DataType::Int64 | DataType::Float64)
            && Some(field.name().as_str()) == target.event_time
    };
    let schema = batch.schema();
    if unit_matters && schema.fields().iter().any(is_number) {
        return None;
    }
    let new: Vec<FieldRef> = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .filter(|(field, array)| {
            known.find(field.name()).is_some() || array.null_count() < array.len()
        })
        .map(|(field, _)| Arc::clone(field))
        .collect();
    let merged = merge(known, &new.into())?;
    let is_new = merged != *known;
    (!is_new || count(&merged) <= limits.max_fields).then_some(merged)
}

fn merge(known: &Fields, new: &Fields) -> Option<Fields> {
    let mut merged = Vec::with_capacity(known.len());
    for field in known {
        if !field.is_nullable() {
            return None;
        }
        merged.push(match new.find(field.name()) {
            Some((_, new)) => {
                let data_type = merge_type(field.data_type(), new.data_type())?;
                Arc::new(field.as_ref().clone().with_data_type(data_type))
            }
            None => Arc::clone(field),
        });
    }
    let added = new.iter().filter(|new| known.find(new.name()).is_none());
    merged.extend(added.cloned());
    Some(merged.into())
}

fn merge_type(known: &DataType, new: &DataType) -> Option<DataType> {
    match (known, new) {
        (DataType::Struct(known), DataType::Struct(new)) => {
            Some(DataType::Struct(merge(known, new)?))
        }
        (DataType::List(known), DataType::List(new)) => {
            let item = merge_type(known.data_type(), new.data_type())?;
            let is_nullable = known.is_nullable();
            let item = known.as_ref().clone().with_data_type(item);
            is_nullable.then(|| DataType::List(Arc::new(item)))
        }
        _ => (known == new).then(|| known.clone()),
    }
}

/// All columns, nested ones and list elements included.
fn count(fields: &Fields) -> usize {
    let of_type = |field: &FieldRef| match field.data_type() {
        DataType::Struct(fields) => 1 + count(fields),
        DataType::List(item) => 1 + count(&Fields::from(vec![Arc::clone(item)])),
        _ => 1,
    };
    fields.iter().map(of_type).sum()
}

fn taken_over(
    batch: &RecordBatch,
    fields: Fields,
    target: &Target<'_>,
    rows: Rows<'_>,
    table: &Table,
) -> Result<Parsed, InputError> {
    let (rejected, bad) = rows.into_rejected();
    let new_fields = batch.num_rows() > 0 && fields != target.schema.fields;
    let schema = if new_fields {
        Arc::new(Schema::new_with_metadata(
            fields,
            target.schema.metadata.clone(),
        ))
    } else {
        Arc::clone(target.schema)
    };
    let batch = if batch.num_rows() == 0 {
        RecordBatch::new_empty(schema)
    } else {
        adapt(batch, &schema).map_err(|error| {
            InputError::invalid("invalid_schema", format!("the columns do not fit: {error}"))
        })?
    };
    Ok(Parsed {
        batch,
        new_fields,
        rejected,
        rejections: rejections(bad, table.format),
    })
}
