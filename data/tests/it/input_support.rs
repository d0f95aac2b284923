use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use lambdalake_data::input::{
    Decoder, DecoderOptions, Encoding, Format, InputError, Limits, Parsed, Piece, parse,
};

pub const LIMITS: Limits = Limits {
    max_rejections: 100,
    max_line_bytes: 1 << 20,
    max_fields: 1000,
    max_depth: 64,
};

pub fn no_columns() -> SchemaRef {
    Arc::new(Schema::empty())
}

pub fn columns(fields: Vec<(&str, DataType)>) -> SchemaRef {
    let fields = fields
        .into_iter()
        .map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub fn structure(fields: Vec<(&str, DataType)>) -> DataType {
    DataType::Struct(columns(fields).fields.clone())
}

pub fn list(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

pub fn ndjson(body: &str) -> Parsed {
    ndjson_into(body, &no_columns())
}

pub fn ndjson_into(body: &str, schema: &SchemaRef) -> Parsed {
    parse(body.as_bytes(), Format::Ndjson, schema, &LIMITS).unwrap()
}

pub fn json(body: &str) -> Result<Parsed, InputError> {
    parse(body.as_bytes(), Format::Json, &no_columns(), &LIMITS)
}

/// Line, code, field of each rejection.
pub fn rejected(parsed: &Parsed) -> Vec<(u64, &'static str, Option<&str>)> {
    assert_eq!(parsed.rejected, parsed.rejections.len() as u64);
    parsed
        .rejections
        .iter()
        .map(|r| (r.line, r.code, r.field.as_deref()))
        .collect()
}

/// Name and type of each column.
pub fn types(parsed: &Parsed) -> Vec<(String, DataType)> {
    fields(parsed)
        .iter()
        .map(|f| (f.name().clone(), f.data_type().clone()))
        .collect()
}

pub fn fields(parsed: &Parsed) -> Fields {
    parsed.batch.schema().fields.clone()
}

/// Each row as JSON; a null member of an object is left out.
pub fn rows(parsed: &Parsed) -> Vec<serde_json::Value> {
    let batch = &parsed.batch;
    let row = |row| object(batch.schema_ref().fields(), batch.columns(), row);
    (0..batch.num_rows()).map(row).collect()
}

fn object(fields: &[FieldRef], arrays: &[Arc<dyn Array>], row: usize) -> serde_json::Value {
    let present = fields
        .iter()
        .zip(arrays)
        .filter(|(_, array)| array.is_valid(row));
    let members = present.map(|(field, array)| (field.name().clone(), cell(array, row)));
    serde_json::Value::Object(members.collect())
}

fn cell(array: &Arc<dyn Array>, row: usize) -> serde_json::Value {
    if array.is_null(row) {
        return serde_json::Value::Null;
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::Timestamp(_, _) => {
            let array = array.as_primitive::<TimestampMicrosecondType>();
            array
                .value_as_datetime(row)
                .unwrap()
                .and_utc()
                .to_rfc3339()
                .into()
        }
        DataType::Struct(fields) => object(fields, array.as_struct().columns(), row),
        DataType::List(_) => {
            let values = array.as_list::<i32>().value(row);
            (0..values.len())
                .map(|index| cell(&values, index))
                .collect::<Vec<_>>()
                .into()
        }
        other => panic!("unexpected type {other}"),
    }
}

/// A file of the shared real data, or a message that the test is skipped.
pub fn shared(path: &str) -> Option<Vec<u8>> {
    let given = std::env::var_os("LAMBDALAKE_TEST_DATA").map(PathBuf::from);
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let file = given.unwrap_or_else(beside).join(path);
    let bytes = std::fs::read(&file).ok();
    if bytes.is_none() {
        eprintln!("SKIPPED: {} is not there", file.display());
    }
    bytes
}

/// What a compressed body holds: Parquet is the one format whose bytes are handed out as they
/// are.
pub fn decompress(
    body: &[u8],
    encoding: Encoding,
    max_bytes: usize,
) -> Result<Vec<u8>, InputError> {
    let mut decoder = Decoder::new(DecoderOptions {
        encoding,
        format: Some(Format::Parquet),
        content_type: None,
        block_bytes: 1,
        max_line_bytes: 1,
        max_bytes,
    });
    let (mut rest, mut plain) = (body, Vec::new());
    loop {
        let piece = match decoder.push(&mut rest)? {
            None => decoder.finish()?,
            piece => piece,
        };
        match piece {
            Some(Piece::Parquet(bytes)) => plain.extend(bytes),
            Some(Piece::Block(_)) => panic!("bytes were asked for"),
            None => return Ok(plain),
        }
    }
}

pub fn decompress_gzip(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, InputError> {
    decompress(body, Encoding::Gzip, max_bytes)
}
