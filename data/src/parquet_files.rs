//! How the engine writes Parquet: compression, statistics, and an encoding for each column.
//!
//! A file appears under its name when it is whole and durable. A dictionary makes columns that
//! repeat themselves small and quick to group by. For the others it costs a hash per value and is
//! given up in the end. So a sample decides.

use std::collections::HashSet;
use std::io::{self, Write};
use std::num::NonZero;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use arrow::row::{RowConverter, SortField};
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;

use crate::dictionaries::with_dictionary;
use crate::disk::{Disk, StagedFile};
use crate::error::{DataError, Result};

/// Rows of a row group: small enough that a time range skips most of a file, large enough
/// that a page holds thousands of values.
const ROW_GROUP_ROWS: usize = 131_072;

/// zstd level of stored files.
const ZSTD_LEVEL: i32 = 1;

/// Rows that are looked at to choose encodings.
const SAMPLED_ROWS: usize = 16_384;

/// Rows of a column that are encoded at a time.
const ENCODED_ROWS: usize = 16_384;

/// Columns are encoded on so many threads at most.
const MOST_ENCODERS: usize = 8;

/// A Parquet file that is being written.
pub struct ParquetFile {
    file: SerializedFileWriter<StagedWriter>,
    schema: SchemaRef,
    factory: ArrowRowGroupWriterFactory,
    group: RowGroup,
}

/// The row group that is being written.
#[derive(Default)]
struct RowGroup {
    rows: usize,
    columns: Vec<Column>,
}

struct Column {
    index: usize,
    field: FieldRef,
    /// One of each leaf.
    writers: Vec<ArrowColumnWriter>,
    /// What they have made, once they are closed.
    chunks: Vec<ArrowColumnChunk>,
}

impl Column {
    fn encode(&mut self, rows: Range<usize>, column: &ColumnRows<'_>) -> Result<()> {
        for from in rows.clone().step_by(ENCODED_ROWS) {
            let values = column(self.index, from..rows.end.min(from + ENCODED_ROWS))?;
            let leaves = compute_leaves(&self.field, &values)?;
            for (writer, leaf) in self.writers.iter_mut().zip(&leaves) {
                writer.write(leaf)?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        for writer in self.writers.drain(..) {
            self.chunks.push(writer.close()?);
        }
        Ok(())
    }
}

/// Gives these rows of a column.
pub type ColumnRows<'a> = dyn Fn(usize, Range<usize>) -> Result<ArrayRef> + Sync + 'a;

impl ParquetFile {
    /// Begins a file whose rows have the schema of these and are like them.
    pub fn begin(disk: &Disk, path: &str, like: &RecordBatch) -> Result<Self> {
        let staged = StagedWriter {
            staged: Some(disk.stage(path)?),
            bytes: 0,
            crc32c: 0,
        };
        let properties = Some(writer_properties(like)?);
        let writer = ArrowWriter::try_new(staged, like.schema(), properties)?;
        let (file, factory) = writer.into_serialized_writer()?;
        Ok(Self {
            file,
            schema: like.schema(),
            factory,
            group: RowGroup::default(),
        })
    }

    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let slice = |column: usize, range: Range<usize>| {
            Ok(rows.column(column).slice(range.start, range.len()))
        };
        self.write_rows(rows.num_rows(), &slice)
    }

    /// Writes so many rows, whose columns are made and encoded beside each other.
    pub fn write_rows(&mut self, rows: usize, column: &ColumnRows<'_>) -> Result<()> {
        let mut from = 0;
        while from < rows {
            if self.group.columns.is_empty() {
                self.group.columns = self.begin_columns()?;
            }
            let to = rows.min(from + ROW_GROUP_ROWS - self.group.rows);
            self.group.rows += to - from;
            let is_full = self.group.rows == ROW_GROUP_ROWS;
            beside_each_other(&mut self.group.columns, to - from, |it| {
                it.encode(from..to, column)?;
                if is_full { it.close() } else { Ok(()) }
            })?;
            from = to;
            if is_full {
                self.end_group()?;
            }
        }
        Ok(())
    }

    fn begin_columns(&self) -> Result<Vec<Column>> {
        let group = self.file.flushed_row_groups().len();
        let leaves = self.factory.create_column_writers(group)?;
        let columns = self.schema.fields().iter().enumerate();
        let mut columns: Vec<Column> = columns
            .map(|(index, field)| Column {
                index,
                field: Arc::clone(field),
                writers: Vec::new(),
                chunks: Vec::new(),
            })
            .collect();
        for (leaf, writer) in leaves.into_iter().enumerate() {
            let root = self.file.schema_descr().get_column_root_idx(leaf);
            columns[root].writers.push(writer);
        }
        Ok(columns)
    }

    fn end_group(&mut self) -> Result<()> {
        let mut group = std::mem::take(&mut self.group);
        // Compresses what is left: as much as all of a short group.
        beside_each_other(&mut group.columns, group.rows, Column::close)?;
        let mut written = self.file.next_row_group()?;
        for chunk in group.columns.into_iter().flat_map(|column| column.chunks) {
            chunk.append_to_row_group(&mut written)?;
        }
        written.close()?;
        Ok(())
    }

    /// About how long the file is so far.
    pub fn bytes(&self) -> usize {
        let columns = self.group.columns.iter();
        let writers = columns.flat_map(|column| &column.writers);
        let open: usize = writers
            .map(ArrowColumnWriter::get_estimated_total_bytes)
            .sum();
        self.file.bytes_written() + open
    }

    /// Ends the file and publishes it.
    pub fn publish(mut self) -> Result<Published> {
        if self.group.rows > 0 {
            self.end_group()?;
        }
        // Not `into_inner`, which makes a text of the reason why a write failed.
        let footer = self.file.finish()?;
        let dictionaries = with_dictionary(&footer)?;
        let staged = self.file.inner_mut();
        if let Some(file) = staged.staged.take() {
            file.publish()?;
        }
        Ok(Published {
            bytes: staged.bytes,
            crc32c: staged.crc32c,
            dictionaries,
        })
    }
}

/// Does the same for each column, on as many threads as the machine has cores and so many rows
/// are worth.
fn beside_each_other(
    columns: &mut [Column],
    rows: usize,
    work: impl Fn(&mut Column) -> Result<()> + Sync,
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    // A thread costs as much as encoding some hundred rows.
    let encoders = cores.min(MOST_ENCODERS).min(1 + rows / ENCODED_ROWS);
    // Text takes longest: it must not come last.
    let (text, others): (Vec<_>, Vec<_>) = columns
        .iter_mut()
        .partition(|column| !column.field.data_type().is_primitive());
    let waiting = Mutex::new(text.into_iter().chain(others));
    let next = || {
        waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
    };
    let encode = || -> Result<()> {
        while let Some(column) = next() {
            work(column)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..encoders)
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, encode).ok())
            .collect();
        let mine = encode();
        for other in others {
            match other.join() {
                Ok(theirs) => theirs?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        mine
    })
}

/// A file that is whole and durable.
pub struct Published {
    pub bytes: u64,
    pub crc32c: u32,
    /// Columns of text that can be read as dictionaries.
    pub dictionaries: Vec<String>,
}

/// Adapts a staged file to [`Write`].
struct StagedWriter {
    /// `None` once it is published.
    staged: Option<StagedFile>,
    bytes: u64,
    crc32c: u32,
}

impl Write for StagedWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let Some(staged) = &mut self.staged else {
            return Err(io::Error::other("the file is published"));
        };
        staged.write(buffer).map_err(|error| match error {
            DataError::DiskFull { .. } => io::Error::new(io::ErrorKind::StorageFull, error),
            other => io::Error::other(other),
        })?;
        self.bytes += buffer.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The Parquet settings of a file whose rows are like these.
fn writer_properties(like: &RecordBatch) -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(format!("lambdalake {}", env!("CARGO_PKG_VERSION")));
    let sample = like.slice(0, like.num_rows().min(SAMPLED_ROWS));
    let schema = like.schema();
    let leaves = ArrowSchemaConverter::new().convert(&schema)?;
    for (column, field) in schema.fields().iter().enumerate() {
        if repeats_itself(&sample, column, field)? {
            continue;
        }
        let of_column = |leaf: &usize| leaves.get_column_root_idx(*leaf) == column;
        for leaf in (0..leaves.num_columns()).filter(of_column) {
            let path = leaves.column(leaf).path().clone();
            if *field.data_type() == DataType::Binary {
                properties = properties.set_column_compression(path.clone(), Compression::LZ4_RAW);
            }
            properties = properties.set_column_dictionary_enabled(path.clone(), false);
            if is_counted(field.data_type()) {
                properties = properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
        }
    }
    Ok(properties.build())
}

/// True if at most every second value of the sample is one that was not there before.
fn repeats_itself(sample: &RecordBatch, column: usize, field: &Field) -> Result<bool> {
    if *field.data_type() == DataType::Binary {
        // States of sketches: long, no two alike, and hardly smaller by zstd than by LZ4.
        return Ok(false);
    }
    let types = vec![SortField::new(field.data_type().clone())];
    if !RowConverter::supports_fields(&types) {
        return Ok(true);
    }
    let values = sample.column(column).clone();
    let rows = RowConverter::new(types)?.convert_columns(&[values])?;
    let distinct: HashSet<&[u8]> = rows.iter().map(|row| row.data()).collect();
    Ok(distinct.len() * 2 <= rows.num_rows())
}

/// Times and offsets: neighbours in a file are near each other.
fn is_counted(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::Timestamp(..))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use parquet::schema::types::ColumnPath;

    use super::*;

    #[test]
    fn only_what_repeats_itself_gets_a_dictionary() {
        let few: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..1_000).map(|row| format!("path {}", row % 10)),
        ));
        let many: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..1_000).map(|row| format!("id {row}")),
        ));
        let times: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let batch = RecordBatch::try_from_iter([("few", few), ("many", many), ("times", times)]);
        let properties = writer_properties(&batch.expect("a batch")).expect("properties");
        let has_dictionary = |name: &str| properties.dictionary_enabled(&ColumnPath::from(name));
        assert!(has_dictionary("few"));
        assert!(!has_dictionary("many") && !has_dictionary("times"));
        let encoding = |name: &str| properties.encoding(&ColumnPath::from(name));
        assert_eq!(encoding("times"), Some(Encoding::DELTA_BINARY_PACKED));
        assert_eq!(encoding("many"), None);
    }
}
