//! Least and greatest values of a file's time columns, so that a query for a range of time
//! skips whole files without opening them.
//!
//! ```text
//!   flush    Parquet file + bounds of its time columns -> publication
//!   query    predicate x bounds of every file -> the files that may hold a match
//! ```
//!
//! The publication is rewritten at every flush and names every file, so only few columns of
//! eight bytes are kept: the event time, the time of ingest and the first other timestamps.
//! Everything else is in the file's own footer. The bounds of offsets follow from the file's
//! range and are not stored. A file without bounds (an older one) may always match.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ScalarValue, Statistics};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use serde::{Deserialize, Serialize};

use crate::cut::CutRange;
use crate::scan::ScanFile;
use crate::schema::{INGESTED_AT, OFFSET};

/// Columns of one file with stored bounds: each costs some sixty bytes in every publication.
const MAX_BOUNDED_COLUMNS: usize = 4;

/// What the values of one column of one file lie between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnBounds {
    pub column: String,
    /// Timestamps in microseconds since 1970, in UTC; offsets as they are. `None` if all are
    /// null.
    pub least: Option<i64>,
    pub greatest: Option<i64>,
    pub nulls: u64,
}

/// The bounds of a file's time columns: the event time, the time of ingest, then the others
/// in their order, at most [`MAX_BOUNDED_COLUMNS`].
pub fn bounds_of(events: &RecordBatch, event_time: Option<&str>) -> Vec<ColumnBounds> {
    let schema = events.schema();
    let first = event_time.into_iter().chain([INGESTED_AT]);
    let others = schema.fields().iter().map(|field| field.name().as_str());
    let mut bounds: Vec<ColumnBounds> = Vec::new();
    for name in first.chain(others) {
        if bounds.len() == MAX_BOUNDED_COLUMNS {
            break;
        }
        if bounds.iter().any(|known| known.column == name) {
            continue;
        }
        let values = events
            .column_by_name(name)
            .and_then(|values| values.as_primitive_opt::<TimestampMicrosecondType>());
        if let Some(values) = values {
            bounds.push(ColumnBounds {
                column: name.to_owned(),
                least: arrow::compute::min(values),
                greatest: arrow::compute::max(values),
                nulls: values.null_count() as u64,
            });
        }
    }
    bounds
}

/// Widens the bounds of a file by those of a batch that is added to it.
pub fn widen(bounds: &mut Vec<ColumnBounds>, more: Vec<ColumnBounds>) {
    if bounds.is_empty() {
        *bounds = more;
        return;
    }
    for (known, more) in bounds.iter_mut().zip(more) {
        debug_assert_eq!(
            known.column, more.column,
            "batches of one file have one schema"
        );
        let both = |f: fn(i64, i64) -> i64, a: Option<i64>, b: Option<i64>| {
            a.zip(b).map(|(a, b)| f(a, b)).or(a).or(b)
        };
        known.least = both(i64::min, known.least, more.least);
        known.greatest = both(i64::max, known.greatest, more.greatest);
        known.nulls += more.nulls;
    }
}

/// The bounds of the hidden offset column of a file that holds `range`.
pub fn offset_bounds(range: &CutRange) -> Option<ColumnBounds> {
    let held = (0..range.to.shards())
        .map(|shard| (range.from.offset(shard), range.to.offset(shard)))
        .filter(|(from, to)| from < to);
    let (least, end) = held.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    Some(ColumnBounds {
        column: OFFSET.to_owned(),
        least: i64::try_from(least).ok(),
        greatest: i64::try_from(end - 1).ok(),
        nulls: 0,
    })
}

/// The files in which `predicate` (over the whole `schema`) may be true for some row. In
/// doubt a file is kept.
pub fn may_match(
    files: &[ScanFile],
    schema: &SchemaRef,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
) -> Vec<ScanFile> {
    let pruning = predicate
        .and_then(|predicate| {
            let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema));
            builder.try_build(Arc::clone(predicate)).ok()
        })
        .filter(|pruning| !pruning.always_true());
    let statistics = FileBounds { files, schema };
    let kept = match pruning.map(|pruning| pruning.prune(&statistics)) {
        Some(Ok(kept)) => kept,
        Some(Err(error)) => {
            tracing::debug!(%error, "files are not told apart by this predicate");
            return files.to_vec();
        }
        None => return files.to_vec(),
    };
    let kept = files.iter().zip(kept).filter(|(_, kept)| *kept);
    kept.map(|(file, _)| file.clone()).collect()
}

/// The same bounds for DataFusion, which skips files while it runs once a join or a LIMIT has
/// told it more.
pub(crate) fn statistics(file: &ScanFile, schema: &SchemaRef) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    for bounds in &file.bounds {
        let Ok(index) = schema.index_of(&bounds.column) else {
            continue;
        };
        let data_type = schema.field(index).data_type();
        let known = |value: Option<i64>| match value.and_then(|value| scalar(value, data_type)) {
            Some(value) => Precision::Exact(value),
            None => Precision::Absent,
        };
        let column = &mut statistics.column_statistics[index];
        column.min_value = known(bounds.least);
        column.max_value = known(bounds.greatest);
        column.null_count = Precision::Exact(bounds.nulls as usize);
    }
    statistics
}

fn scalar(value: i64, data_type: &DataType) -> Option<ScalarValue> {
    match data_type {
        DataType::Int64 => Some(ScalarValue::Int64(Some(value))),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            Some(ScalarValue::TimestampMicrosecond(Some(value), zone.clone()))
        }
        _ => None,
    }
}

struct FileBounds<'a> {
    files: &'a [ScanFile],
    schema: &'a SchemaRef,
}

impl FileBounds<'_> {
    /// One value per file, in the column's own type; `None` if no file knows any.
    fn values(&self, column: &Column, of: fn(&ColumnBounds) -> Option<i64>) -> Option<ArrayRef> {
        let data_type = self.schema.field_with_name(column.name()).ok()?.data_type();
        if !matches!(
            data_type,
            DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _)
        ) {
            return None;
        }
        let values: Int64Array = self
            .files
            .iter()
            .map(|file| file.bounds_of(column.name()).and_then(of))
            .collect();
        if values.null_count() == values.len() {
            return None;
        }
        arrow::compute::cast(&values, data_type).ok()
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bounds| bounds.least)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bounds| bounds.greatest)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let nulls: UInt64Array = self
            .files
            .iter()
            .map(|file| Some(file.bounds_of(column.name())?.nulls))
            .collect();
        (nulls.null_count() < nulls.len()).then(|| Arc::new(nulls) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows: UInt64Array = self.files.iter().map(|file| Some(file.rows)).collect();
        Some(Arc::new(rows))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::{Field, Schema};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, IsNullExpr, Literal};

    use super::*;
    use crate::cut::Cut;
    use crate::schema::timestamp;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("ts", timestamp(), true),
            Field::new(OFFSET, DataType::Int64, false),
        ]))
    }

    fn file(path: &str, times: Option<(i64, i64)>, nulls: u64) -> ScanFile {
        let bounds = ColumnBounds {
            column: "ts".to_owned(),
            least: times.map(|times| times.0),
            greatest: times.map(|times| times.1),
            nulls,
        };
        ScanFile {
            path: path.to_owned(),
            bytes: 1,
            rows: 10,
            bounds: vec![bounds],
        }
    }

    fn kept(files: &[ScanFile], predicate: Arc<dyn PhysicalExpr>) -> Vec<String> {
        let kept = may_match(files, &schema(), Some(&predicate));
        kept.into_iter().map(|file| file.path).collect()
    }

    fn ts(operator: Operator, value: i64) -> Arc<dyn PhysicalExpr> {
        let value = ScalarValue::TimestampMicrosecond(Some(value), Some("UTC".into()));
        Arc::new(BinaryExpr::new(
            Arc::new(Column::new("ts", 0)),
            operator,
            Arc::new(Literal::new(value)),
        ))
    }

    #[test]
    fn a_range_of_time_keeps_the_files_that_overlap_it_and_those_of_unknown_bounds() {
        let mut old = file("old", None, 0);
        old.bounds.clear();
        let files = [
            file("a", Some((0, 9)), 0),
            file("b", Some((10, 19)), 3),
            file("nulls", None, 10),
            old,
        ];
        assert_eq!(kept(&files, ts(Operator::GtEq, 10)), ["b", "old"]);
        assert_eq!(kept(&files, ts(Operator::Lt, 10)), ["a", "old"]);
        assert_eq!(kept(&files, ts(Operator::Eq, 19)), ["b", "old"]);
        assert_eq!(kept(&files, ts(Operator::Gt, 19)), ["old"]);
        let is_null: Arc<dyn PhysicalExpr> =
            Arc::new(IsNullExpr::new(Arc::new(Column::new("ts", 0))));
        assert_eq!(kept(&files, is_null), ["b", "nulls", "old"]);
        assert_eq!(may_match(&files, &schema(), None).len(), 4);
    }

    #[test]
    fn offsets_are_bounded_by_the_range_of_the_file() {
        let cut = |offsets: &[u64]| -> Cut {
            let mut cut = Cut::start(offsets.len() as u32);
            for (shard, offset) in offsets.iter().enumerate() {
                cut.set_offset(shard, *offset);
            }
            cut
        };
        let range = CutRange::new(cut(&[5, 100, 7]), cut(&[9, 100, 30]));
        let bounds = offset_bounds(&range).expect("events");
        assert_eq!((bounds.least, bounds.greatest), (Some(5), Some(29)));
        assert_eq!(offset_bounds(&CutRange::new(cut(&[5]), cut(&[5]))), None);
    }

    #[test]
    fn the_event_time_comes_first_and_nulls_are_counted() {
        let times = TimestampMicrosecondArray::from(vec![Some(7), None, Some(-3)]);
        let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
        let names = ["a", "b", "c", "d", "ts"];
        let columns = names.map(|name| (name, Arc::clone(&times)));
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let bounds = bounds_of(&batch, Some("ts"));
        let bounded: Vec<&str> = bounds.iter().map(|bounds| bounds.column.as_str()).collect();
        assert_eq!(bounded, ["ts", "a", "b", "c"]);
        assert_eq!(
            (bounds[0].least, bounds[0].greatest, bounds[0].nulls),
            (Some(-3), Some(7), 1)
        );
        let mut wider = bounds.clone();
        widen(&mut wider, bounds_of(&batch.slice(1, 1), Some("ts")));
        assert_eq!(
            (wider[0].least, wider[0].greatest, wider[0].nulls),
            (Some(-3), Some(7), 2)
        );
        let mut from_null = bounds_of(&batch.slice(1, 1), Some("ts"));
        widen(&mut from_null, bounds_of(&batch.slice(2, 1), Some("ts")));
        assert_eq!(
            (from_null[0].least, from_null[0].greatest),
            (Some(-3), Some(-3))
        );
    }
}
