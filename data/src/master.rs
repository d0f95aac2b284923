//! The master dataset: every event, as immutable Parquet files.
//!
//! A flush turns the tail up to a cut into one zstd Parquet file, sorted by event time (then
//! shard and offset, so that the file is the same whatever the order of arrival within it),
//! with statistics per page. Hidden columns are stored with every event.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::bounds::{bounds_of, widen};
use crate::cut::CutRange;
use crate::disk::Disk;
use crate::error::{DataError, Result};
use crate::parquet_files::ParquetFile;
use crate::publication::MasterFile;
use crate::schema::{SHARD, StreamDefinition, adapt};
use crate::tail::TailPart;

/// Rows of a file that are read at a time to be written again.
const WRITTEN_ROWS: usize = 16_384;

/// Writes the events of a sealed part as a file of the master dataset. `None` if it is
/// empty. The file is durable on return, but in no dataset until it is published.
pub fn write_part(
    disk: &Disk,
    definition: &StreamDefinition,
    part: &TailPart,
    version: u64,
) -> Result<Option<MasterFile>> {
    let schema = definition.stored_schema();
    let batches = part
        .chunks
        .iter()
        .map(|chunk| adapt(&chunk.events, &schema))
        .collect::<Result<Vec<_>>>()?;
    write_sorted(disk, definition, &batches, part.range(), version)
}

/// Writes the events of adjacent files, in order, as one: the same events, sorted as those of a
/// flush are. Durable on return, but in no dataset until it is published. All of them are in
/// memory meanwhile.
pub fn merge_files(
    disk: &Disk,
    definition: &StreamDefinition,
    files: &[MasterFile],
    version: u64,
) -> Result<Option<MasterFile>> {
    let (Some(first), Some(last)) = (files.first(), files.last()) else {
        return Ok(None);
    };
    let range = CutRange::new(first.range.from.clone(), last.range.to.clone());
    let schema = definition.stored_schema();
    let folder = definition.master_folder();
    let mut batches = Vec::new();
    for file in files {
        let path = format!("{folder}/{}", file.path);
        let bytes = disk.read(&path)?.ok_or_else(|| is_gone(&path))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        for batch in reader.with_batch_size(WRITTEN_ROWS).build()? {
            batches.push(adapt(&batch?, &schema)?);
        }
    }
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows as u64 != range.events() {
        return Err(DataError::Damaged {
            path: folder.into(),
            reason: format!(
                "files of {} events have {rows} rows; they are {} to {}",
                range.events(),
                first.path,
                last.path
            ),
        });
    }
    write_sorted(disk, definition, &batches, range, version)
}

/// Writes the events of `range`; none if there are no batches.
fn write_sorted(
    disk: &Disk,
    definition: &StreamDefinition,
    batches: &[RecordBatch],
    range: CutRange,
    version: u64,
) -> Result<Option<MasterFile>> {
    let Some(first) = batches.first() else {
        return Ok(None);
    };
    let order = sorted_order(batches, definition.event_time.as_deref());

    let name = new_name(disk, version);
    let path = format!("{}/{name}", definition.master_folder());
    let mut written = ParquetFile::begin(disk, &path, first)?;
    let mut bounds = Vec::new();
    for batch in batches {
        widen(
            &mut bounds,
            bounds_of(batch, definition.event_time.as_deref()),
        );
    }
    // Each column is brought into the order by itself, a part at a time: no second copy of all.
    let ordered = |column: usize, rows: Range<usize>| {
        let parts: Vec<&dyn Array> = batches
            .iter()
            .map(|it| it.column(column).as_ref())
            .collect();
        Ok(interleave(&parts, &order[rows])?)
    };
    written.write_rows(order.len(), &ordered)?;
    let written = written.publish()?;
    Ok(Some(MasterFile {
        path: name,
        rows: range.events(),
        range,
        bytes: written.bytes,
        crc32c: written.crc32c,
        schema_id: definition.schema_id,
        version,
        bounds,
        dictionaries: written.dictionaries,
    }))
}

/// Writes a master file again under the stream's columns of today: the same events in the
/// same order under a new name. Durable on return, but in no dataset until it is published.
pub fn rewrite_file(
    disk: &Disk,
    definition: &StreamDefinition,
    file: &MasterFile,
    version: u64,
) -> Result<MasterFile> {
    let folder = definition.master_folder();
    let path = format!("{folder}/{}", file.path);
    let old = disk.read(&path)?.ok_or_else(|| is_gone(&path))?;
    let schema = definition.stored_schema();
    let reader = ParquetRecordBatchReaderBuilder::try_new(old)?.with_batch_size(WRITTEN_ROWS);
    let adapted = |batch| adapt(&batch?, &schema);
    let mut batches = reader.build()?.map(adapted).peekable();
    let name = new_name(disk, version);
    let like = match batches.peek() {
        Some(Ok(first)) => first.clone(),
        _ => RecordBatch::new_empty(Arc::clone(&schema)),
    };
    let mut written = ParquetFile::begin(disk, &format!("{folder}/{name}"), &like)?;
    for batch in batches {
        written.write(&batch?)?;
    }
    let written = written.publish()?;
    Ok(MasterFile {
        path: name,
        bytes: written.bytes,
        crc32c: written.crc32c,
        schema_id: definition.schema_id,
        version,
        dictionaries: written.dictionaries,
        ..file.clone()
    })
}

fn is_gone(path: &str) -> DataError {
    DataError::Damaged {
        path: path.into(),
        reason: "the file is gone".to_owned(),
    }
}

fn new_name(disk: &Disk, version: u64) -> String {
    format!("{version:010}-{}.parquet", disk.fresh_name())
}

/// Batch and row of every event, in the order they are stored in: by event time (none last),
/// then shard, then offset. Rows of one shard come in the order of their offsets, and mostly in
/// that of their times, which a stable sort makes use of.
fn sorted_order(batches: &[RecordBatch], event_time: Option<&str>) -> Vec<(usize, usize)> {
    let mut places = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    let mut keys = Vec::with_capacity(places.capacity());
    for (batch, events) in batches.iter().enumerate() {
        let column = |name| events.column_by_name(name);
        let times = event_time
            .and_then(column)
            .and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
        let shards = column(SHARD).and_then(|shards| shards.as_primitive_opt::<Int32Type>());
        for row in 0..events.num_rows() {
            let time = times.map(|times| (!times.is_null(row)).then(|| times.value(row)));
            let shard = shards.map_or(0, |shards| shards.value(row));
            keys.push(order_key(time.flatten(), shard, places.len()));
            places.push((batch, row));
        }
    }
    keys.sort();
    let place = |key: u128| places[key as u32 as usize];
    keys.into_iter().map(place).collect()
}

/// Numbers that are ordered as time (none last), shard and place are, and end with the place:
/// comparing one number takes a third of the time of comparing three fields. A part is in memory,
/// so its places fit 32 bits.
fn order_key(time: Option<i64>, shard: i32, place: usize) -> u128 {
    let has_none = u128::from(time.is_none());
    let time = time.unwrap_or(0) as u64 ^ (1 << 63);
    has_none << 127 | u128::from(time) << 63 | (shard as u128 & 0x7fff_ffff) << 32 | place as u128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_keys_are_ordered_as_what_they_are_made_of() {
        let times = [i64::MIN, -1, 0, 1, 1_700_000_000_000_000, i64::MAX];
        let times = times.into_iter().map(Some).chain([None]);
        let fields: Vec<(Option<i64>, i32, usize)> = times
            .flat_map(|time| [0, 1, i32::MAX].map(|shard| (time, shard)))
            .flat_map(|(time, shard)| [0, 1, u32::MAX as usize].map(|place| (time, shard, place)))
            .collect();
        let keys: Vec<u128> = fields.iter().map(|&(t, s, p)| order_key(t, s, p)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:x?}");
        let place = |&key: &u128| key as u32 as usize;
        assert!(
            keys.iter()
                .map(place)
                .eq(fields.iter().map(|field| field.2))
        );
    }
}
