//! Text that repeats itself, read as a dictionary and a key for each row.
//!
//! ```text
//!   write   the columns all of whose pages have a dictionary are named in the publication
//!   read    the footer is shown as if it told their type as `Dictionary(Int32, Utf8)`
//! ```
//!
//! The Parquet reader then copies no text: a query that only asks something of each value does
//! so once for each entry of the dictionary.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use parquet::basic::{Encoding, PageType};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder,
};

/// The columns of text, not nested, all of whose pages of values have a dictionary.
pub(crate) fn with_dictionary(file: &ParquetMetaData) -> ParquetResult<Vec<String>> {
    let described = file.file_metadata();
    let keys = described.key_value_metadata();
    let schema = parquet_to_arrow_schema(described.schema_descr(), keys)?;
    let parquet = described.schema_descr();
    let is_coded = |leaf: usize| {
        let groups = file.row_groups();
        !groups.is_empty() && groups.iter().all(|group| is_coded(group.column(leaf)))
    };
    let leaves = (0..parquet.num_columns()).filter(|&leaf| {
        let field = schema.field(parquet.get_column_root_idx(leaf));
        *field.data_type() == DataType::Utf8 && is_coded(leaf)
    });
    let name = |leaf| {
        schema
            .field(parquet.get_column_root_idx(leaf))
            .name()
            .clone()
    };
    Ok(leaves.map(name).collect())
}

fn is_coded(chunk: &ColumnChunkMetaData) -> bool {
    let is_data = |page: &PageType| matches!(page, PageType::DATA_PAGE | PageType::DATA_PAGE_V2);
    let has_dictionary = chunk.dictionary_page_offset().is_some();
    has_dictionary
        && chunk.page_encoding_stats().is_some_and(|pages| {
            let mut pages = pages.iter().filter(|page| is_data(&page.page_type));
            pages.all(|page| page.encoding == Encoding::RLE_DICTIONARY)
        })
}

/// The type that text is read as.
fn text_dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// `schema` with these columns of text as dictionaries.
pub fn as_dictionaries(schema: &Schema, columns: &[&str]) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let is_one =
            columns.contains(&field.name().as_str()) && *field.data_type() == DataType::Utf8;
        match is_one {
            true => Arc::new(Field::new(
                field.name(),
                text_dictionary(),
                field.is_nullable(),
            )),
            false => Arc::clone(field),
        }
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// Opens files whose readers give these columns as dictionaries.
#[derive(Debug)]
pub(crate) struct DictionaryReaders {
    pub readers: Arc<dyn ParquetFileReaderFactory>,
    pub columns: Arc<[String]>,
}

impl ParquetFileReaderFactory for DictionaryReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        let reader =
            self.readers
                .create_reader(partition_index, file, metadata_size_hint, metrics)?;
        let columns = Arc::clone(&self.columns);
        Ok(Box::new(DictionaryReader { reader, columns }))
    }
}

struct DictionaryReader {
    reader: Box<dyn AsyncFileReader + Send>,
    columns: Arc<[String]>,
}

impl AsyncFileReader for DictionaryReader {
    fn get_bytes(&mut self, range: std::ops::Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.reader.get_bytes(range)
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<std::ops::Range<u64>>,
    ) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.reader.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let columns = Arc::clone(&self.columns);
        let footer = self.reader.get_metadata(options);
        footer
            .and_then(async move |footer| shown(&footer, &columns))
            .boxed()
    }
}

/// A footer that tells the type of these columns as a dictionary.
fn shown(footer: &ParquetMetaData, columns: &[String]) -> ParquetResult<Arc<ParquetMetaData>> {
    let file = footer.file_metadata();
    let keys = file.key_value_metadata();
    let schema = parquet_to_arrow_schema(file.schema_descr(), keys)?;
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let schema = encode_arrow_schema(&as_dictionaries(&schema, &columns));
    let others = keys.into_iter().flatten();
    let others = others.filter(|known| known.key != ARROW_SCHEMA_META_KEY);
    let schema = KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), schema);
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        Some(others.cloned().chain([schema]).collect()),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    let shown = ParquetMetaDataBuilder::new(file)
        .set_row_groups(footer.row_groups().to_vec())
        .set_column_index(footer.column_index().cloned())
        .set_offset_index(footer.offset_index().cloned());
    Ok(Arc::new(shown.build()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn file(properties: WriterProperties) -> (Bytes, RecordBatch) {
        let text = |of: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
            Arc::new((0..5_000).map(of).collect::<StringArray>())
        };
        let few = text(&|row| (row % 5 > 0).then(|| format!("path {}", row % 10)));
        let many = text(&|row| Some(format!("a long and different text, number {row}")));
        let none = text(&|_| None);
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..5_000).map(|n| n % 3)));
        let columns = [
            ("few", few),
            ("many", many),
            ("none", none),
            ("numbers", numbers),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.map(|(name, values)| (name, values, true)),
        )
        .expect("a batch");
        let mut writer =
            ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
        writer.write(&batch).expect("written");
        (writer.into_inner().expect("a file").into(), batch)
    }

    fn footer(file: &Bytes) -> Arc<ParquetMetaData> {
        let footer = ArrowReaderMetadata::load(file, ArrowReaderOptions::new());
        Arc::clone(footer.expect("a footer").metadata())
    }

    #[test]
    fn a_column_that_gave_its_dictionary_up_is_none() {
        // Beyond the limit the writer goes on with plain pages.
        let small = WriterProperties::builder()
            .set_dictionary_page_size_limit(10_000)
            .set_data_page_row_count_limit(500);
        let few = with_full_stats(&file(small.build()).0);
        assert_eq!(few, ["few", "none"]);
        let off = WriterProperties::builder().set_dictionary_enabled(false);
        assert!(with_full_stats(&file(off.build()).0).is_empty());
    }

    /// As the writer gives the footer, with the encodings of pages one by one.
    fn with_full_stats(file: &Bytes) -> Vec<String> {
        let options = ArrowReaderOptions::new().with_encoding_stats_as_mask(false);
        let footer = ArrowReaderMetadata::load(file, options).expect("a footer");
        with_dictionary(footer.metadata()).expect("columns")
    }

    #[test]
    fn a_shown_footer_reads_the_same_text_as_a_dictionary() {
        let (file, batch) = file(WriterProperties::default());
        let columns = ["few", "none"].map(str::to_owned);
        let footer = shown(&footer(&file), &columns).expect("a footer");
        let footer = ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new());
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.expect("a schema"));
        let mut from = 0;
        for read in reader.with_batch_size(999).build().expect("a reader") {
            let read = read.expect("rows");
            assert_eq!(*read.column(0).data_type(), text_dictionary());
            assert!(read.column(0).as_any_dictionary().values().len() <= 10);
            let expected = batch.slice(from, read.num_rows());
            for (column, expected) in read.columns().iter().zip(expected.columns()) {
                let text = arrow::compute::cast(column, expected.data_type()).expect("a column");
                assert_eq!(&text, expected);
            }
            from += read.num_rows();
        }
        assert_eq!(from, 5_000);
    }
}
