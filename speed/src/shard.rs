//! Which shard an event belongs to, and its offset there.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use lambdalake_data::Cut;
use lambdalake_data::schema::{StreamDefinition, stored_schema};

use crate::error::SpeedError;

/// The shard of every row. The hash is CRC-32C of the key's text: stable for ever, because
/// an event's shard is part of its identity. A null key goes to shard 0.
fn shards_of(
    definition: &StreamDefinition,
    events: &RecordBatch,
) -> Result<Option<Vec<u32>>, SpeedError> {
    if definition.shards <= 1 {
        return Ok(None);
    }
    let key = definition
        .shard_key
        .as_deref()
        .and_then(|name| events.column_by_name(name));
    let Some(key) = key else { return Ok(None) };
    let shard = |text: &[u8]| crc32c::crc32c(text) % definition.shards;
    if key.data_type() == &DataType::Utf8 {
        let texts = key.as_string::<i32>();
        return Ok(Some(
            texts
                .iter()
                .map(|text| text.map_or(0, |text| shard(text.as_bytes())))
                .collect(),
        ));
    }
    let formatter = ArrayFormatter::try_new(key, &FormatOptions::default())?;
    let rows = 0..key.len();
    Ok(Some(
        rows.map(|row| {
            if key.is_null(row) {
                0
            } else {
                shard(formatter.value(row).to_string().as_bytes())
            }
        })
        .collect(),
    ))
}

/// Adds the hidden columns to a request's events, numbering them from `end`, which moves on.
pub fn number_events(
    definition: &StreamDefinition,
    events: &RecordBatch,
    end: &mut Cut,
    ingested_at_micros: i64,
    producer: Option<&str>,
) -> Result<RecordBatch, SpeedError> {
    let rows = events.num_rows();
    let shards = shards_of(definition, events)?;
    let mut offsets = Vec::with_capacity(rows);
    for row in 0..rows {
        let shard = shards.as_ref().map_or(0, |shards| shards[row] as usize);
        offsets.push(end.offset(shard) as i64);
        end.advance(shard, 1);
    }
    let shard_column: Int32Array = match &shards {
        Some(shards) => shards.iter().map(|&shard| shard as i32).collect(),
        None => Int32Array::from(vec![0; rows]),
    };
    let ingested = TimestampMicrosecondArray::from(vec![ingested_at_micros; rows]);
    let producers: StringArray = std::iter::repeat_n(producer, rows).collect();
    let mut columns: Vec<ArrayRef> = events.columns().to_vec();
    columns.push(Arc::new(shard_column));
    columns.push(Arc::new(Int64Array::from(offsets)));
    columns.push(Arc::new(ingested.with_timezone("UTC")));
    columns.push(Arc::new(producers));
    Ok(RecordBatch::try_new(
        stored_schema(&events.schema()),
        columns,
    )?)
}
