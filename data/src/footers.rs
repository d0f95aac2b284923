//! What the footer of a Parquet file tells about its columns, without reading these.

use std::collections::BTreeMap;

use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::disk::Disk;
use crate::error::{DataError, Result};

/// Bytes of the end of a file that are read first: the footer of most files is in them.
const FIRST_BYTES: u64 = 64 << 10;

/// Bytes of a column of a file, with all that is nested in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnBytes {
    /// As they are in the file.
    pub stored: u64,
    /// Decompressed, and still encoded.
    pub unpacked: u64,
}

/// The columns of a file, by name. Only the end of the file is read, and not checked: this is for
/// estimates.
///
/// Errors: `Damaged` if the file is missing or has no footer.
pub fn column_bytes(disk: &Disk, path: &str, bytes: u64) -> Result<BTreeMap<String, ColumnBytes>> {
    let footer = footer(disk, path, bytes)?;
    let mut columns: BTreeMap<String, ColumnBytes> = BTreeMap::new();
    for column in footer.row_groups().iter().flat_map(|group| group.columns()) {
        let Some(name) = column.column_path().parts().first() else {
            continue;
        };
        let of_column = columns.entry(name.clone()).or_default();
        of_column.stored += u64::try_from(column.compressed_size()).unwrap_or(0);
        of_column.unpacked += u64::try_from(column.uncompressed_size()).unwrap_or(0);
    }
    Ok(columns)
}

fn footer(disk: &Disk, path: &str, bytes: u64) -> Result<ParquetMetaData> {
    let damaged = |reason: String| DataError::Damaged {
        path: path.into(),
        reason,
    };
    let mut wanted = FIRST_BYTES.min(bytes);
    loop {
        let end = disk
            .read_range_unchecked(path, bytes - wanted..bytes)?
            .ok_or_else(|| damaged("it is missing".to_owned()))?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&end, bytes) {
            Ok(()) => return Ok(reader.finish()?),
            // More than what was there, and at most the whole file.
            Err(ParquetError::NeedMoreData(needed)) if needed as u64 > wanted => {
                wanted = (needed as u64).min(bytes);
            }
            Err(error) => return Err(damaged(format!("its footer cannot be read: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::*;
    use crate::parquet_files::ParquetFile;

    #[test]
    fn columns_have_the_bytes_of_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(folder.path()).expect("a disk");
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
        let words = (0..10_000).map(|n| format!("word {}", n * 7_919));
        let words: ArrayRef = Arc::new(StringArray::from_iter_values(words));
        let rows = RecordBatch::try_from_iter([("n", numbers), ("w", words)]).expect("rows");
        let mut file = ParquetFile::begin(&disk, "views/a.parquet", &rows).expect("a file");
        file.write(&rows).expect("written");
        let published = file.publish().expect("published");
        let columns = column_bytes(&disk, "views/a.parquet", published.bytes).expect("columns");
        assert_eq!(columns.keys().collect::<Vec<_>>(), ["n", "w"]);
        let stored: u64 = columns.values().map(|column| column.stored).sum();
        assert!(stored > published.bytes / 2 && stored < published.bytes);
        assert!(columns["w"].unpacked > 10_000 * 10, "{columns:?}");
        let missing = column_bytes(&disk, "views/b.parquet", 100);
        assert!(matches!(missing, Err(DataError::Damaged { .. })));
    }
}
