//! Whether a master file holds what it is named for: each event of its range once.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::{Buf, Bytes};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::cut::CutRange;
use crate::disk::Disk;
use crate::error::{DataError, Result};
use crate::schema::{OFFSET, SHARD};

/// Bytes that are read ahead where a reader does not say how much it wants.
const READ_AHEAD_BYTES: u64 = 64 << 10;

/// A file that is read in pieces.
struct Pieces {
    disk: Arc<Disk>,
    path: String,
    bytes: u64,
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Pieces {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let end = (start + READ_AHEAD_BYTES).min(self.bytes);
        Ok(self
            .get_bytes(start, end.saturating_sub(start) as usize)?
            .reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let range = start..start + length as u64;
        let read = self.disk.read_range(&self.path, range);
        let read = read.map_err(|error| ParquetError::External(Box::new(error)))?;
        read.ok_or_else(|| ParquetError::General("the file vanished".to_owned()))
    }
}

/// The offsets of a range that were seen, a bit for each.
struct Seen<'a> {
    range: &'a CutRange,
    shards: Vec<Vec<u64>>,
    events: u64,
}

impl<'a> Seen<'a> {
    fn new(range: &'a CutRange) -> Self {
        let words = |shard| {
            let events = range.to.offset(shard) - range.from.offset(shard);
            vec![0; events.div_ceil(64) as usize]
        };
        Self {
            range,
            shards: (0..range.to.shards()).map(words).collect(),
            events: 0,
        }
    }

    /// What is wrong with one more event, if something is.
    fn add(&mut self, shard: i32, offset: i64) -> Result<(), String> {
        let told = format!("it holds the event at offset {offset} of shard {shard}");
        let range = self.range;
        let (index, place) = (shard as usize, offset as u64);
        let is_inside = shard >= 0
            && offset >= 0
            && index < range.to.shards()
            && place >= range.from.offset(index)
            && place < range.to.offset(index);
        if !is_inside {
            return Err(format!("{told}, which is not in its range"));
        }
        let bit = place - range.from.offset(index);
        let word = &mut self.shards[index][(bit / 64) as usize];
        if *word & (1 << (bit % 64)) != 0 {
            return Err(format!("{told} twice"));
        }
        *word |= 1 << (bit % 64);
        self.events += 1;
        Ok(())
    }
}

/// Reads the shard and offset of every event. Memory: a page of these columns, and a bit for
/// each event.
///
/// Errors: `Damaged` if an event of the range is missing, there twice, or not of the range.
pub fn check_offsets(disk: &Arc<Disk>, path: &str, bytes: u64, range: &CutRange) -> Result<u64> {
    let damaged = |reason: String| DataError::Damaged {
        path: path.into(),
        reason,
    };
    let unreadable = |error: &dyn std::fmt::Display| damaged(format!("it cannot be read: {error}"));
    let pieces = Pieces {
        disk: Arc::clone(disk),
        path: path.to_owned(),
        bytes,
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(pieces).map_err(|e| unreadable(&e))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), [SHARD, OFFSET]);
    let reader = builder.with_projection(mask).build();
    let mut seen = Seen::new(range);
    for batch in reader.map_err(|e| unreadable(&e))? {
        let batch = batch.map_err(|e| unreadable(&e))?;
        let shards = batch
            .column_by_name(SHARD)
            .and_then(|column| column.as_primitive_opt::<Int32Type>());
        let offsets = batch
            .column_by_name(OFFSET)
            .and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(shards), Some(offsets)) = (shards, offsets) else {
            return Err(damaged("it lacks the columns of offsets".to_owned()));
        };
        for (&shard, &offset) in shards.values().iter().zip(offsets.values()) {
            seen.add(shard, offset).map_err(damaged)?;
        }
    }
    if seen.events != range.events() {
        let reason = format!(
            "it holds {} events where its range has {}",
            seen.events,
            range.events()
        );
        return Err(damaged(reason));
    }
    Ok(seen.events)
}
