//! Nasty real texts come out of every format as they went in.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::ipc::reader::StreamReader;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::client::Server;

const ALL: &str = "SELECT text FROM naughty ORDER BY number";

/// The texts, or `None` after saying that the test is skipped.
fn texts() -> Option<Vec<String>> {
    let folder = std::env::var_os("LAMBDALAKE_TEST_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    let path = folder.join("json_torture/naughty_strings/blns.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED: no real data at {}", path.display());
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn of_batches(batches: impl Iterator<Item = RecordBatch>) -> Vec<String> {
    batches
        .flat_map(|batch| {
            let texts = batch.column(0).as_string::<i32>();
            let texts: Vec<String> = texts.iter().map(|text| text.unwrap().to_owned()).collect();
            texts
        })
        .collect()
}

#[tokio::test]
async fn naughty_strings_leave_as_they_came() {
    let Some(texts) = texts() else {
        return;
    };
    assert!(texts.len() > 500);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let column: ArrayRef = Arc::new(StringArray::from(texts.clone()));
    let batch = RecordBatch::try_from_iter([("number", numbers), ("text", column)]).unwrap();
    let server = Server::start().await;
    let context = &server.engine.context;
    context.register_batch("naughty", batch).unwrap();

    let json = server.sql(ALL).await.json();
    let rows = json["data"].as_array().unwrap().iter();
    let read: Vec<&str> = rows.map(|row| row["text"].as_str().unwrap()).collect();
    assert_eq!(read, texts, "json");

    let lines = server.sql_as(ALL, "ndjson").await;
    let read: Vec<Value> = lines
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].clone())
        .collect();
    assert_eq!(read, texts, "ndjson");

    let answer = server.sql_as(ALL, "csv").await;
    let mut reader = csv::Reader::from_reader(&answer.body[..]);
    let read: Vec<String> = reader
        .records()
        .map(|record| record.unwrap()[0].to_owned())
        .collect();
    assert_eq!(read, texts, "csv");

    let arrow = server.sql_as(ALL, "arrow").await;
    let reader = StreamReader::try_new(Cursor::new(&arrow.body), None).unwrap();
    assert_eq!(of_batches(reader.map(Result::unwrap)), texts, "arrow");

    let file = server.sql_as(ALL, "parquet").await;
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file.body)).unwrap();
    let batches = reader.build().unwrap().map(Result::unwrap);
    assert_eq!(of_batches(batches), texts, "parquet");

    let table = server.sql_as(ALL, "table").await;
    let lines: Vec<&str> = table.text().split('\n').collect();
    assert_eq!(lines.len(), texts.len() + 6, "a row is one line");
    assert!(!table.text().chars().any(|c| c.is_control() && c != '\n'));
    assert!(
        lines[3..texts.len() + 3]
            .iter()
            .all(|line| line.ends_with(" |"))
    );
}
