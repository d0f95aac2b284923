//! Reading a world: queries, and their answers in the form of the model.

use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{
    DataType, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use futures::TryStreamExt;
use lambdalake_serving::engine::{Engine as _, EngineError, Layer, Params, QueryRequest};
use serde_json::Value;

use super::super::model::{Places, Row, known_key};
use super::World;

impl World {
    pub(super) fn query(&self, sql: &str) -> Result<Vec<RecordBatch>, String> {
        Ok(self.query_and_stats(sql)?.0)
    }

    /// The rows, and what the answer tells of itself.
    pub(super) fn query_and_stats(&self, sql: &str) -> Result<(Vec<RecordBatch>, Value), String> {
        let port = self.port().map_err(|error| error.to_string())?;
        let request = QueryRequest {
            sql: sql.to_owned(),
            params: Params::default(),
            layer: Layer::Merged,
            timeout: Duration::from_secs(600),
            max_rows: u64::MAX,
            query_id: "selftest".to_owned(),
        };
        let answer = self.driver.block_on(async {
            let answer = port.query(request).await?;
            let rows = answer.batches.try_collect().await;
            let stats = answer.stats.to_json(Duration::ZERO);
            rows.map(|rows| (rows, stats))
                .map_err(EngineError::from_datafusion)
        });
        answer.map_err(|error: EngineError| format!("{sql}: {error:?}"))
    }

    pub(super) fn places(&self, stream: usize) -> Result<Places, String> {
        Ok(self.places_and_newest(stream)?.0)
    }

    /// Also when the newest event was ingested.
    pub(super) fn places_and_newest(&self, stream: usize) -> Result<(Places, Option<i64>), String> {
        let columns = "_shard, _offset, ts, r, i, k, n, x, _ingested_at";
        let sql = format!("SELECT {columns} FROM s{stream}");
        let (mut places, mut newest) = (Places::new(), None);
        for batch in self.query(&sql)? {
            let shards = batch.column(0).as_primitive::<Int32Type>();
            let ints = |column: usize| batch.column(column).as_primitive::<Int64Type>();
            let times = batch.column(2).as_primitive::<TimestampMicrosecondType>();
            let keys = batch.column(5).as_string::<i32>();
            let xs = batch.column(7).as_primitive::<Float64Type>();
            let ingested = batch.column(8).as_primitive::<TimestampMicrosecondType>();
            newest = newest.max(max(ingested));
            for row in 0..batch.num_rows() {
                let place = (shards.value(row) as u32, ints(1).value(row) as u64);
                let key = keys.iter().nth(row).flatten();
                let numbers = ints(6);
                let found = Row {
                    ts: times.value(row),
                    request: ints(3).value(row),
                    index: ints(4).value(row),
                    k: key.and_then(known_key),
                    n: numbers.iter().nth(row).flatten(),
                    x: xs.value(row),
                };
                if places.insert(place, found).is_some() {
                    return Err(format!("s{stream} has two events at {place:?}"));
                }
            }
        }
        Ok((places, newest))
    }
}

/// Rows as text, in the form of the model's.
pub(super) fn lines(batches: &[RecordBatch]) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells: Result<Vec<String>, String> = batch
                .columns()
                .iter()
                .map(|column| cell(column, row))
                .collect();
            lines.push(cells?.join("|"));
        }
    }
    Ok(lines)
}

fn cell(column: &ArrayRef, row: usize) -> Result<String, String> {
    if column.is_null(row) {
        return Ok("null".to_owned());
    }
    Ok(match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let time = chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default();
            time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
        }
        other => return Err(format!("no text for {other}")),
    })
}
