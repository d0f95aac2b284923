//! The master dataset: every event, as immutable Parquet files.
//!
//! A flush turns the tail up to a cut into one zstd Parquet file, sorted by event time (then
//! shard and offset, so that the file is the same whatever the order of arrival within it),
//! with statistics per page. Hidden columns are stored with every event.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::{
    SortColumn, SortOptions, concat, interleave_record_batch, lexsort_to_indices,
};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::bounds::{bounds_of, widen};
use crate::cut::CutRange;
use crate::disk::{Disk, StagedWriter};
use crate::error::{DataError, Result};
use crate::publication::MasterFile;
use crate::schema::{OFFSET, SHARD, StreamDefinition, adapt};
use crate::tail::TailPart;

/// Rows of a row group: small enough that a time range skips most of a file, large enough
/// that a page holds thousands of values.
pub const ROW_GROUP_ROWS: usize = 131_072;

/// Rows that are brought into their order at a time: the whole part is not copied.
const WRITTEN_ROWS: usize = 16_384;

/// zstd level of stored files; 3 is the library's own default trade.
const ZSTD_LEVEL: i32 = 3;

/// The Parquet settings of every file the engine writes.
pub fn writer_properties() -> Result<WriterProperties> {
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(format!("lambdalake {}", env!("CARGO_PKG_VERSION")))
        .build())
}

/// Writes the events of a sealed part as a file of the master dataset. `None` if it is
/// empty. The file is durable on return, but in no dataset until it is published.
pub fn write_part(
    disk: &Disk,
    definition: &StreamDefinition,
    part: &TailPart,
    version: u64,
) -> Result<Option<MasterFile>> {
    if part.rows() == 0 {
        return Ok(None);
    }
    let schema = definition.stored_schema();
    let batches = part
        .chunks
        .iter()
        .map(|chunk| adapt(&chunk.events, &schema))
        .collect::<Result<Vec<_>>>()?;
    let order = sorted_order(&batches, definition.event_time.as_deref())?;

    let name = new_name(disk, version);
    let path = format!("{}/{name}", definition.master_folder());
    let staged = StagedWriter::new(disk.stage(&path)?);
    let mut writer = ArrowWriter::try_new(staged, Arc::clone(&schema), Some(writer_properties()?))?;
    let mut bounds = Vec::new();
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    for rows in order.chunks(WRITTEN_ROWS) {
        let sorted = interleave_record_batch(&batches, rows)?;
        widen(
            &mut bounds,
            bounds_of(&sorted, definition.event_time.as_deref()),
        );
        writer.write(&sorted)?;
    }
    let (bytes, crc32c) = writer.into_inner()?.publish()?;
    let range: CutRange = part.range();
    Ok(Some(MasterFile {
        path: name,
        rows: range.events(),
        range,
        bytes,
        crc32c,
        schema_id: definition.schema_id,
        version,
        bounds,
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
    let old = disk.read(&path)?.ok_or_else(|| DataError::Damaged {
        path: path.into(),
        reason: "the file is gone".to_owned(),
    })?;
    let schema = definition.stored_schema();
    let reader = ParquetRecordBatchReaderBuilder::try_new(old)?.build()?;
    let name = new_name(disk, version);
    let staged = StagedWriter::new(disk.stage(&format!("{folder}/{name}"))?);
    let mut writer = ArrowWriter::try_new(staged, Arc::clone(&schema), Some(writer_properties()?))?;
    for batch in reader {
        writer.write(&adapt(&batch?, &schema)?)?;
    }
    let (bytes, crc32c) = writer.into_inner()?.publish()?;
    Ok(MasterFile {
        path: name,
        bytes,
        crc32c,
        schema_id: definition.schema_id,
        version,
        ..file.clone()
    })
}

fn new_name(disk: &Disk, version: u64) -> String {
    format!("{version:010}-{}.parquet", disk.fresh_name())
}

/// Writes one shared Parquet file; returns its length and checksum.
pub fn write_parquet(
    disk: &Disk,
    path: &str,
    schema: &SchemaRef,
    batches: impl IntoIterator<Item = RecordBatch>,
) -> Result<(u64, u32)> {
    let staged = StagedWriter::new(disk.stage(path)?);
    let mut writer = ArrowWriter::try_new(staged, Arc::clone(schema), Some(writer_properties()?))?;
    for batch in batches {
        writer.write(&batch)?;
    }
    writer.into_inner()?.publish()
}

/// Batch and row of every event, in the order they are stored in.
fn sorted_order(batches: &[RecordBatch], event_time: Option<&str>) -> Result<Vec<(usize, usize)>> {
    let options = Some(SortOptions {
        descending: false,
        nulls_first: false,
    });
    let mut keys = Vec::new();
    for name in [event_time, Some(SHARD), Some(OFFSET)]
        .into_iter()
        .flatten()
    {
        let parts: Option<Vec<&dyn Array>> = batches
            .iter()
            .map(|batch| batch.column_by_name(name).map(AsRef::as_ref))
            .collect();
        if let Some(parts) = parts {
            keys.push(SortColumn {
                values: concat(&parts)?,
                options,
            });
        }
    }
    let order = lexsort_to_indices(&keys, None)?;
    let rows: Vec<(usize, usize)> = batches
        .iter()
        .enumerate()
        .flat_map(|(batch, events)| (0..events.num_rows()).map(move |row| (batch, row)))
        .collect();
    Ok(order.values().iter().map(|&at| rows[at as usize]).collect())
}
