//! Readers of Parquet files that tell the [`Progress`] of runs how far they are.
//!
//! A file is read row group by row group, from its beginning to its end: the end of the last bytes
//! that were asked for is how far it is read, whichever columns a view needs.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use lambdalake_data::scan::STORE_URL;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::ParquetMetaData;

use crate::progress::Progress;

/// Opens files of the engine's store and counts what is read of them.
pub(crate) fn counted_readers(
    task: &TaskContext,
    progress: &[Arc<Progress>],
) -> datafusion::error::Result<Arc<dyn ParquetFileReaderFactory>> {
    let store = ObjectStoreUrl::parse(STORE_URL)?;
    let store = task.runtime_env().object_store(store)?;
    Ok(Arc::new(CountedReaders {
        readers: DefaultParquetFileReaderFactory::new(store),
        progress: progress.into(),
    }))
}

#[derive(Debug)]
struct CountedReaders {
    readers: DefaultParquetFileReaderFactory,
    /// Of all runs that share the scan.
    progress: Arc<[Arc<Progress>]>,
}

impl ParquetFileReaderFactory for CountedReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        let counted = CountedFile {
            progress: Arc::clone(&self.progress),
            bytes: file.object_meta.size,
            last_group: 0,
            read: 0,
            has_failed: false,
        };
        let reader =
            self.readers
                .create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(CountedReader { reader, counted }))
    }
}

/// How far a file is read. Dropped when nobody needs more of it.
struct CountedFile {
    progress: Arc<[Arc<Progress>]>,
    bytes: u64,
    /// Where its last row group begins.
    last_group: u64,
    read: u64,
    has_failed: bool,
}

impl CountedFile {
    fn read_up_to(&mut self, end: u64) {
        let end = end.min(self.bytes);
        if end > self.read {
            let bytes = end - self.read;
            self.progress.iter().for_each(|it| it.read_bytes(bytes));
            self.read = end;
        }
    }

    fn opened(&mut self, footer: &ParquetMetaData) {
        let columns = footer.row_groups().last().map(|group| group.columns());
        let begins = columns.into_iter().flatten();
        let begins = begins.map(|column| column.byte_range().0);
        self.last_group = begins.min().unwrap_or(0);
    }

    /// No column may be needed, and then no bytes are.
    fn is_read(&self) -> bool {
        let has_all = self.read == 0 || self.read > self.last_group;
        // A scan ends early when the last of its runs was cancelled.
        has_all && !self.has_failed && !self.progress.iter().all(|it| it.is_cancelled())
    }
}

impl Drop for CountedFile {
    fn drop(&mut self) {
        if self.is_read() {
            self.read_up_to(self.bytes);
            self.progress.iter().for_each(|it| it.read_file());
        }
    }
}

struct CountedReader {
    reader: Box<dyn AsyncFileReader + Send>,
    counted: CountedFile,
}

impl AsyncFileReader for CountedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        let one = self.get_byte_ranges(vec![range]);
        one.map(|bytes| Ok(bytes?.swap_remove(0))).boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
        let Self { reader, counted } = self;
        let bytes = reader.get_byte_ranges(ranges);
        bytes
            .map(move |bytes| {
                match &bytes {
                    Ok(_) => counted.read_up_to(end),
                    Err(_) => counted.has_failed = true,
                }
                bytes
            })
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let Self { reader, counted } = self;
        let footer = reader.get_metadata(options);
        footer
            .map(move |footer| {
                match &footer {
                    Ok(footer) => counted.opened(footer),
                    Err(_) => counted.has_failed = true,
                }
                footer
            })
            .boxed()
    }
}
