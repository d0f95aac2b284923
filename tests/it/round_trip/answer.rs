//! Answers as rows of cells.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Fields};
use arrow::ipc::reader::StreamReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::value::RawValue;

use super::Cell;
use crate::server::Server;

/// All rows of a stream by `id`.
pub fn select(server: &Server, stream: &str, fields: &Fields, format: &str) -> Vec<Vec<Cell>> {
    let names = names(fields);
    let sql = format!("SELECT {names} FROM {stream} ORDER BY \"id\"");
    rows(&bytes(server, &sql, format), fields, format)
}

/// The columns, quoted, in a list.
pub fn names(fields: &Fields) -> String {
    let name = |field: &Arc<Field>| format!("\"{}\"", field.name());
    fields.iter().map(name).collect::<Vec<_>>().join(", ")
}

pub fn bytes(server: &Server, sql: &str, format: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut answer = server.stream_sql(sql, format);
    answer.read_to_end(&mut bytes).expect("a whole answer");
    bytes
}

fn rows(bytes: &[u8], fields: &Fields, format: &str) -> Vec<Vec<Cell>> {
    let text = || std::str::from_utf8(bytes).expect("UTF-8");
    match format {
        "json" => {
            let answer: BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(text()).expect("JSON");
            let rows: Vec<Box<RawValue>> =
                serde_json::from_str(answer["data"].get()).expect("rows");
            let rows = rows.iter();
            rows.map(|row| object(row.get(), fields)).collect()
        }
        "ndjson" => text().lines().map(|row| object(row, fields)).collect(),
        "csv" => {
            let mut records = records(text()).into_iter();
            let header: Vec<_> = records.next().expect("a header");
            let names = fields.iter().map(|field| Some(field.name().clone()));
            assert_eq!(header, names.collect::<Vec<_>>());
            let row = |record: Vec<Option<String>>| {
                assert_eq!(record.len(), fields.len(), "{record:?}");
                let cells = fields.iter().zip(record);
                cells
                    .map(|(field, text)| Cell::from_csv(text.as_deref(), field.data_type()))
                    .collect()
            };
            records.map(row).collect()
        }
        _ => batches(bytes, format).iter().flat_map(cells).collect(),
    }
}

fn object(json: &str, fields: &Fields) -> Vec<Cell> {
    match Cell::from_json(json, &arrow::datatypes::DataType::Struct(fields.clone())) {
        Cell::Object(cells) => cells,
        other => panic!("{other:?} is no row"),
    }
}

/// The batches of an answer in arrow or parquet.
pub fn batches(bytes: &[u8], format: &str) -> Vec<RecordBatch> {
    if format == "arrow" {
        let reader = StreamReader::try_new(bytes, None).expect("an Arrow stream");
        return reader.collect::<Result<_, _>>().expect("batches");
    }
    let file = bytes::Bytes::copy_from_slice(bytes);
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("a Parquet file");
    let reader = builder.build().expect("a reader");
    reader.collect::<Result<_, _>>().expect("batches")
}

pub fn cells(batch: &RecordBatch) -> Vec<Vec<Cell>> {
    let columns = batch.columns();
    let row = |row| {
        let cells = columns.iter().map(|column| Cell::from_array(column, row));
        cells.collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The records of CSV; a value that is empty and without quotes is `None`. The csv crate reads
/// the same, but for that difference.
pub fn records(text: &str) -> Vec<Vec<Option<String>>> {
    let mut records = Vec::new();
    let (mut record, mut value) = (Vec::new(), None::<String>);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                let quoted = value.insert(String::new());
                loop {
                    match letters.next().expect("the end of a quoted value") {
                        '"' if letters.next_if_eq(&'"').is_none() => break,
                        letter => quoted.push(letter),
                    }
                }
            }
            ',' => record.push(value.take()),
            '\n' => {
                record.push(value.take());
                records.push(std::mem::take(&mut record));
            }
            letter => value.get_or_insert_default().push(letter),
        }
    }
    assert!(record.is_empty() && value.is_none(), "a last line end");
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(text.as_bytes());
    let others = reader.records().map(|record| record.expect("a record"));
    let mut count = 0;
    for (record, other) in records.iter().zip(others) {
        let values = record.iter().map(|value| value.as_deref().unwrap_or(""));
        assert!(values.eq(other.iter()), "{record:?} is not {other:?}");
        count += 1;
    }
    assert_eq!(count, records.len());
    records
}
