//! Bodies as they arrive: decompressed, cut into blocks, parsed block by block.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use lambdalake_data::input::{
    Block, Decoder, DecoderOptions, Encoding, EpochUnit, Format, InputError, InputOptions, Parsed,
    Piece, Target, parse, sniff,
};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::input_support::*;

fn options(format: Option<Format>, block_bytes: usize, max_line_bytes: usize) -> DecoderOptions {
    DecoderOptions {
        encoding: Encoding::Identity,
        format,
        content_type: None,
        block_bytes,
        max_line_bytes,
        max_bytes: 1 << 30,
    }
}

/// The blocks of a body that arrives in pieces of these sizes, over and over.
fn blocks(body: &[u8], options: DecoderOptions, sizes: &[usize]) -> Result<Vec<Block>, InputError> {
    let mut decoder = Decoder::new(options);
    let (mut blocks, mut at) = (Vec::new(), 0);
    let mut sizes = sizes.iter().cycle();
    let keep = |piece, blocks: &mut Vec<Block>| match piece {
        Piece::Block(block) => blocks.push(block),
        Piece::Parquet(_) => panic!("not asked for"),
    };
    while at < body.len() {
        let end = (at + sizes.next().unwrap()).min(body.len());
        let mut rest = &body[at..end];
        while let Some(piece) = decoder.push(&mut rest)? {
            keep(piece, &mut blocks);
        }
        at = end;
    }
    while let Some(piece) = decoder.finish()? {
        keep(piece, &mut blocks);
    }
    Ok(blocks)
}

fn parse_block(block: &Block) -> Parsed {
    parse_with(block, &InputOptions::default(), None)
}

fn parse_with(block: &Block, options: &InputOptions, event_time: Option<&str>) -> Parsed {
    let target = Target {
        schema: &no_columns(),
        event_time,
        options,
    };
    block.parse(&target, &LIMITS).unwrap()
}

/// Rows and rejections of each block.
/// The rows of a block, and line and code of its rejections.
type Outcome = (Vec<serde_json::Value>, Vec<(u64, String)>);

fn outcome(blocks: &[Block]) -> Vec<Outcome> {
    let of_block = |block| {
        let parsed = parse_block(block);
        let bad = parsed.rejections.iter();
        let bad = bad.map(|r| (r.line, r.code.to_owned())).collect();
        (rows(&parsed), bad)
    };
    blocks.iter().map(of_block).collect()
}

const NDJSON: &str =
    "{\"a\":1}\n\n{\"a\":\n{\"a\":\"long long long long long long long\"}\r\n{\"a\":2}\n";
const JSON: &str = "[{\"a\":1}, {\"a\":\"]}\\\"\"} , 7,\n{\"a\":\"long long long long long long\"},[]\n]\n{\"a\":3} {\"a\":4}";
const CSV: &str = "a,b\r\n1,\"x\ny\"\r\n\"\",\n1\n2,\"long long long\nlong long long long\"\n3,z\n";

proptest! {
    #[test]
    fn blocks_depend_on_the_bytes_alone(
        sizes in prop::collection::vec(1usize..40, 1..6),
        block_bytes in 1usize..60,
        format in 0usize..3,
    ) {
        let (body, format) = [
            (NDJSON, Format::Ndjson), (JSON, Format::Json), (CSV, Format::Csv),
        ][format];
        let options = options(Some(format), block_bytes, 30);
        let whole = blocks(body.as_bytes(), options.clone(), &[usize::MAX / 2]).unwrap();
        let pieces = blocks(body.as_bytes(), options, &sizes).unwrap();
        prop_assert_eq!(outcome(&whole), outcome(&pieces));
    }

    #[test]
    fn any_bytes_are_cut_without_a_panic(
        body in prop::collection::vec(any::<u8>(), 0..300),
        start in 0usize..6,
    ) {
        let starts: [&[u8]; 6] = [b"", b"ARROW1\0\0", b"\xff\xff\xff\xff", b"a,b\n", b"[", b"\x1f\x8b\x08"];
        let body = [starts[start], &body].concat();
        if let Ok(blocks) = blocks(&body, options(None, 50, 40), &[7]) {
            for block in &blocks {
                let target = Target {
                    schema: &no_columns(),
                    event_time: None,
                    options: &InputOptions::default(),
                };
                let _ = block.parse(&target, &LIMITS);
            }
        }
    }
}

#[test]
fn line_numbers_are_those_of_the_body() {
    let cut = |body: &str, format| {
        let options = options(Some(format), 1, 30);
        let blocks = blocks(body.as_bytes(), options, &[5]).unwrap();
        let found = outcome(&blocks).into_iter().flat_map(|(_, bad)| bad);
        found.collect::<Vec<_>>()
    };
    let is = |line: u64, code: &str| (line, code.to_owned());
    let too_long = "line_too_long";
    assert_eq!(
        cut(NDJSON, Format::Ndjson),
        [is(3, "invalid_json"), is(4, too_long)]
    );
    assert_eq!(
        cut(JSON, Format::Json),
        [
            is(3, "not_an_object"),
            is(4, too_long),
            is(5, "not_an_object")
        ]
    );
    assert_eq!(
        cut(CSV, Format::Csv),
        [is(5, "wrong_field_count"), is(6, too_long)]
    );
}

#[test]
fn a_record_over_the_limit_is_not_held() {
    let mut decoder = Decoder::new(options(Some(Format::Ndjson), 1 << 20, 1 << 10));
    let mut feed = |bytes: &[u8]| {
        let mut rest = bytes;
        assert!(decoder.push(&mut rest).unwrap().is_none());
    };
    feed(b"{\"a\":1}\n{\"a\":\"");
    for _ in 0..1_600 {
        feed(&[b'x'; 1 << 16]);
    }
    feed(b"\"}\n{\"a\":2}\n");
    let Some(Piece::Block(block)) = decoder.finish().unwrap() else {
        panic!("one block");
    };
    let parsed = parse_block(&block);
    assert_eq!(rejected(&parsed), [(2, "line_too_long", None)]);
    assert_eq!(parsed.batch.num_rows(), 2);
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn snappy_frames(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.into_inner().unwrap()
}

#[test]
fn compressed_bodies_are_unpacked_or_refused() {
    let plain = NDJSON.repeat(5_000).into_bytes();
    let raw = snap::raw::Encoder::new().compress_vec(&plain).unwrap();
    let cases = [
        (
            Encoding::Zstd,
            [zstd(&plain[..9]), zstd(&plain[9..])].concat(),
        ),
        (Encoding::Identity, zstd(&plain)),
        (Encoding::Snappy, snappy_frames(&plain)),
        (Encoding::Snappy, raw),
    ];
    for (encoding, packed) in cases {
        let found = decompress(&packed, encoding, plain.len()).unwrap();
        assert!(found == plain, "{encoding}");
        let error = decompress(&packed, encoding, plain.len() - 1).unwrap_err();
        assert!(matches!(error, InputError::TooLarge { .. }), "{error}");
        for cut in [packed.len() - 1, packed.len() / 2] {
            let error = decompress(&packed[..cut], encoding, plain.len()).unwrap_err();
            assert!(matches!(error, InputError::Compression { .. }), "{error}");
        }
    }
}

#[test]
fn csv_tells_null_from_an_empty_text_and_finds_types() {
    let body = "i,f,b,t,s,z\n1,1.5,true,2024-01-01T00:00:00Z,,007\n,2,FALSE,,\"\",1\n-3,NaN,,,\"a \"\"b\"\"\",2\n";
    let parsed = parse(body.as_bytes(), Format::Csv, &no_columns(), &LIMITS).unwrap();
    assert_eq!(rejected(&parsed), []);
    let found: Vec<String> = fields(&parsed)
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    let time = timestamp().to_string();
    assert_eq!(
        found,
        ["Int64", "Float64", "Boolean", &time, "Utf8", "Utf8"]
    );
    let strings = parsed
        .batch
        .column(4)
        .as_any()
        .downcast_ref::<StringArray>();
    let strings: Vec<_> = strings.unwrap().iter().collect();
    assert_eq!(strings, [None, Some(""), Some("a \"b\"")]);
    let floats = parsed
        .batch
        .column(1)
        .as_any()
        .downcast_ref::<Float64Array>();
    assert!(floats.unwrap().value(2).is_nan());
}

#[test]
fn csv_that_no_row_can_be_read_from_is_refused() {
    for (body, code) in [
        ("a,a\n1,2\n", "invalid_csv"),
        ("a,\n1,2\n", "invalid_csv"),
        ("a,_offset\n1,2\n", "reserved_field"),
    ] {
        let error = parse(body.as_bytes(), Format::Csv, &no_columns(), &LIMITS).unwrap_err();
        assert!(
            matches!(&error, InputError::Invalid { code: found, .. } if *found == code),
            "{body:?}: {error}"
        );
    }
    let empty = parse(b"a,b\r\n", Format::Csv, &no_columns(), &LIMITS).unwrap();
    assert_eq!((empty.batch.num_rows(), empty.rejected), (0, 0));
}

#[test]
fn csv_records_are_those_of_the_csv_crate() {
    let body = "a,b\n1,\"x\"\"y\n\"\nq\"uo,te\n\"z\",\n";
    let mut reader = csv::Reader::from_reader(body.as_bytes());
    let expected: Vec<Vec<String>> = reader
        .records()
        .map(|record| record.unwrap().iter().map(str::to_owned).collect())
        .collect();
    let schema = columns(vec![
        ("a", arrow::datatypes::DataType::Utf8),
        ("b", arrow::datatypes::DataType::Utf8),
    ]);
    let parsed = parse(body.as_bytes(), Format::Csv, &schema, &LIMITS).unwrap();
    let found: Vec<Vec<String>> = rows(&parsed)
        .iter()
        .map(|row| {
            ["a", "b"]
                .map(|name| row[name].as_str().unwrap_or_default().to_owned())
                .to_vec()
        })
        .collect();
    assert_eq!(found, expected);
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn arrow_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn arrow_file(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn parquet_file(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn tables_are_taken_over_and_bad_rows_left_out() {
    let numbers: ArrayRef = Arc::new(UInt64Array::from(vec![1, u64::MAX, 3]));
    let decimal = Decimal128Array::from(vec![1050, 1, 2]).with_precision_and_scale(9, 2);
    let prices: ArrayRef = Arc::new(decimal.unwrap());
    let table = batch(vec![("n", numbers), ("price", prices)]);
    for (format, body) in [
        (Format::Arrow, arrow_stream(&table)),
        (Format::Arrow, arrow_file(&table)),
        (Format::Parquet, parquet_file(&table)),
    ] {
        assert_eq!(
            sniff(&body, Some("application/x-www-form-urlencoded")),
            format
        );
        let parsed = parse(&body, format, &no_columns(), &LIMITS).unwrap();
        let bad = [
            (2, "out_of_range", Some("n")),
            (5, "out_of_range", Some("n")),
        ];
        assert_eq!(rejected(&parsed), bad);
        let row = |n: i64, price: f64| serde_json::json!({"n": n, "price": price});
        let expected = [row(1, 10.5), row(3, 0.02), row(1, 10.5), row(3, 0.02)];
        assert_eq!(rows(&parsed), expected);
        for cut in [body.len() / 2, body.len() - 9] {
            let error = parse(&body[..cut], format, &no_columns(), &LIMITS).unwrap_err();
            assert!(
                matches!(error, InputError::Invalid { .. }),
                "{format}: {error}"
            );
        }
    }
}

#[test]
fn a_table_of_other_types_rejects_only_the_rows_that_do_not_fit() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["2024-01-01T00:00:00Z", "no time"]));
    let table = batch(vec![("t", texts)]);
    let schema = columns(vec![("t", timestamp())]);
    let parsed = parse(&arrow_stream(&table), Format::Arrow, &schema, &LIMITS).unwrap();
    let conflict = "type_conflict";
    assert_eq!(
        rejected(&parsed),
        [(2, conflict, Some("t")), (4, conflict, Some("t"))]
    );
    assert_eq!(parsed.batch.num_rows(), 2);
    assert!(!parsed.new_fields);
}

#[test]
fn numbers_of_the_event_time_column_have_the_streams_unit() {
    let options = InputOptions {
        event_time_unit: EpochUnit::Ms,
        ..InputOptions::default()
    };
    let table = batch(vec![(
        "t",
        Arc::new(Int64Array::from(vec![1_000])) as ArrayRef,
    )]);
    let bodies = [
        (Format::Ndjson, b"{\"t\":1000}\n{\"t\":1000}\n".to_vec()),
        (Format::Csv, b"t\n1000\n1000\n".to_vec()),
        (Format::Arrow, arrow_stream(&table)),
    ];
    for (format, body) in bodies {
        let cut = blocks(
            &body,
            super::input_blocks::options(Some(format), 1 << 20, 99),
            &[9],
        );
        let parsed = parse_with(&cut.unwrap()[0], &options, Some("t"));
        let expected = serde_json::json!({"t": "1970-01-01T00:00:01+00:00"});
        assert_eq!(rows(&parsed), [expected.clone(), expected], "{format}");
    }
}

#[test]
fn fields_of_log_lines_are_stored_under_the_streams_names() {
    let names = InputOptions::parse_field_names("client_ip=ip, ts = time").unwrap();
    let options = InputOptions {
        field_names: names,
        ..InputOptions::default()
    };
    let line = b"::1 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 203\n";
    let cut = blocks(line, super::input_blocks::options(None, 1 << 20, 999), &[9]).unwrap();
    let parsed = parse_with(&cut[0], &options, None);
    let row = &rows(&parsed)[0];
    assert_eq!((&row["ip"], &row["status"]), (&"::1".into(), &200.into()));
    assert_eq!(row["time"], "2015-05-17T10:05:03+00:00");
    for wrong in ["nothing=x", "ts=status", "ts=_offset", "ts"] {
        assert!(InputOptions::parse_field_names(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn an_empty_line_is_a_null_where_there_is_one_column() {
    let known = columns(vec![("a", arrow::datatypes::DataType::Utf8)]);
    let parsed = parse(b"a\nx\n\n\"\"\r\n\r\ny", Format::Csv, &known, &LIMITS).unwrap();
    assert_eq!(rejected(&parsed), []);
    let json = serde_json::json!([{"a": "x"}, {}, {"a": ""}, {}, {"a": "y"}]);
    assert_eq!(serde_json::Value::from(rows(&parsed)), json);
    let two = parse(b"a,b\nx,1\n\ny,2\n\n", Format::Csv, &known, &LIMITS).unwrap();
    assert_eq!(two.batch.num_rows(), 2);
}
