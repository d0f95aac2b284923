//! Tables as request bodies.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;

use super::{Cell, Table};
use crate::server::{Answer, Server};

/// Sends a table; every row must be accepted.
pub fn send(server: &Server, stream: &str, table: &Table, format: &str, encoding: Option<&str>) {
    let body = packed(&body(table, format), encoding);
    let answer = post(server, stream, format, encoding, &body);
    let counts = answer.json();
    assert_eq!(counts["accepted"], table.rows.len(), "{}", answer.text);
    assert_eq!(counts["rejected"], 0, "{}", answer.text);
}

pub fn post(
    server: &Server,
    stream: &str,
    format: &str,
    encoding: Option<&str>,
    body: &[u8],
) -> Answer {
    let path = format!("/api/v1/streams/{stream}/events?format={format}");
    let headers: Vec<_> = encoding
        .map(|name| ("content-encoding", name))
        .into_iter()
        .collect();
    server.post(&path, &headers, body)
}

fn body(table: &Table, format: &str) -> Vec<u8> {
    let objects = || {
        // A member that is null may also be missing: so it is in the lines.
        let is_there = |cell: &Cell| format == "json" || *cell != Cell::Null;
        let row = |row: &Vec<Cell>| {
            let members = table.fields.iter().zip(row);
            let members = members
                .filter(|(_, cell)| is_there(cell))
                .map(|(field, cell)| {
                    format!("\"{}\":{}", field.name(), cell.to_json(field.data_type()))
                });
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        };
        table.rows.iter().map(row).collect::<Vec<_>>()
    };
    match format {
        "ndjson" => objects().join("\n").into_bytes(),
        "json" => format!("[{}]", objects().join(",\n")).into_bytes(),
        "csv" => csv(table).into_bytes(),
        "arrow" => arrow(&table.batch()),
        "parquet" => parquet(&table.batch()),
        other => panic!("no format {other}"),
    }
}

/// RFC 4180 with CRLF; every value that is not null is in quotes.
fn csv(table: &Table) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let names = table.fields.iter().map(|field| quoted(field.name()));
    let mut lines = vec![names.collect::<Vec<_>>().join(",")];
    for row in &table.rows {
        let cells = table.fields.iter().zip(row).map(|(field, cell)| {
            let text = cell.to_csv(field.data_type());
            text.map_or(String::new(), |text| quoted(&text))
        });
        lines.push(cells.collect::<Vec<_>>().join(","));
    }
    lines.join("\r\n")
}

pub fn arrow(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).expect("a writer");
    writer.write(batch).expect("written");
    writer.into_inner().expect("written")
}

pub fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(batch).expect("written");
    writer.into_inner().expect("written")
}

fn packed(body: &[u8], encoding: Option<&str>) -> Vec<u8> {
    match encoding {
        None => body.to_vec(),
        Some("gzip") => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(body).expect("packed");
            encoder.finish().expect("packed")
        }
        Some("zstd") => zstd::encode_all(body, 3).expect("packed"),
        Some("snappy") => snap::raw::Encoder::new()
            .compress_vec(body)
            .expect("packed"),
        Some(other) => panic!("no encoding {other}"),
    }
}
