//! Every type in every format: a row of hard values, and a row of nulls.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float16Type, Int32Type, Int64Type, IntervalDayTime,
    IntervalMonthDayNano, i256,
};
use arrow::ipc::reader::StreamReader;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::client::Server;

/// A column of a value and a null, with the value's text in JSON and, if it is another one, in
/// CSV and tables.
struct Case {
    name: &'static str,
    array: ArrayRef,
    json: &'static str,
    plain: Option<&'static str>,
}

fn case(name: &'static str, array: impl Array + 'static, json: &'static str) -> Case {
    Case {
        name,
        array: Arc::new(array),
        json,
        plain: None,
    }
}

fn plain(mut case: Case, plain: &'static str) -> Case {
    case.plain = Some(plain);
    case
}

/// Only arrow knows the crate with this type.
fn half(value: f32) -> <Float16Type as ArrowPrimitiveType>::Native {
    <Float16Type as ArrowPrimitiveType>::Native::from_f32(value)
}

fn numbers() -> Vec<Case> {
    let wide = "99999999999999999999999999999999999999999999999999999999999999999999999999.99";
    let digits: String = wide.chars().filter(|c| *c != '.').collect();
    let wide_value = i256::from_string(&digits).unwrap();
    vec![
        case("bool", BooleanArray::from(vec![Some(true), None]), "true"),
        case("i8", Int8Array::from(vec![Some(i8::MIN), None]), "-128"),
        case(
            "i16",
            Int16Array::from(vec![Some(i16::MIN), None]),
            "-32768",
        ),
        case(
            "i32",
            Int32Array::from(vec![Some(i32::MIN), None]),
            "-2147483648",
        ),
        case(
            "i64",
            Int64Array::from(vec![Some(i64::MIN), None]),
            "-9223372036854775808",
        ),
        case("u8", UInt8Array::from(vec![Some(u8::MAX), None]), "255"),
        case(
            "u16",
            UInt16Array::from(vec![Some(u16::MAX), None]),
            "65535",
        ),
        case(
            "u32",
            UInt32Array::from(vec![Some(u32::MAX), None]),
            "4294967295",
        ),
        case(
            "u64",
            UInt64Array::from(vec![Some(u64::MAX), None]),
            "18446744073709551615",
        ),
        case(
            "f16",
            Float16Array::from(vec![Some(half(1.5)), None]),
            "1.5",
        ),
        case("f32", Float32Array::from(vec![Some(0.1), None]), "0.1"),
        case(
            "f64",
            Float64Array::from(vec![Some(0.1 + 0.2), None]),
            "0.30000000000000004",
        ),
        plain(
            case(
                "nan",
                Float64Array::from(vec![Some(f64::NAN), None]),
                "null",
            ),
            "NaN",
        ),
        plain(
            case(
                "inf",
                Float32Array::from(vec![Some(f32::NEG_INFINITY), None]),
                "null",
            ),
            "-inf",
        ),
        case(
            "d32",
            Decimal32Array::from(vec![Some(-5), None])
                .with_precision_and_scale(9, 2)
                .unwrap(),
            "-0.05",
        ),
        case(
            "d64",
            Decimal64Array::from(vec![Some(999_999_999_999_999_999), None])
                .with_precision_and_scale(18, 1)
                .unwrap(),
            "99999999999999999.9",
        ),
        case(
            "d128",
            Decimal128Array::from(vec![
                Some(-99_999_999_999_999_999_999_999_999_999_999_999_999),
                None,
            ])
            .with_precision_and_scale(38, 10)
            .unwrap(),
            "-9999999999999999999999999999.9999999999",
        ),
        case(
            "d256",
            Decimal256Array::from(vec![Some(wide_value), None])
                .with_precision_and_scale(76, 2)
                .unwrap(),
            wide,
        ),
    ]
}

fn texts() -> Vec<Case> {
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        [Some([0_u8, 255]), None].into_iter(),
        2,
    )
    .unwrap();
    let keys = Int32Array::from(vec![Some(0), None]);
    let words = Arc::new(StringArray::from(vec!["w x"]));
    let text = "\"日本 é\"";
    vec![
        case("utf8", StringArray::from(vec![Some("日本 é"), None]), text),
        case(
            "large",
            LargeStringArray::from(vec![Some("日本 é"), None]),
            text,
        ),
        case(
            "view",
            StringViewArray::from(vec![Some("longer than twelve bytes"), None]),
            "\"longer than twelve bytes\"",
        ),
        case(
            "bin",
            BinaryArray::from(vec![Some(&b"\x00\xff~"[..]), None]),
            "\"AP9+\"",
        ),
        case(
            "large_bin",
            LargeBinaryArray::from(vec![Some(&b"\x00\xff~"[..]), None]),
            "\"AP9+\"",
        ),
        case(
            "bin_view",
            BinaryViewArray::from(vec![Some(&b"\x00\xff~"[..]), None]),
            "\"AP9+\"",
        ),
        case("fixed", fixed, "\"AP8=\""),
        case(
            "dict",
            DictionaryArray::<Int32Type>::try_new(keys, words).unwrap(),
            "\"w x\"",
        ),
        plain(case("null", NullArray::new(2), "null"), ""),
    ]
}

fn times() -> Vec<Case> {
    vec![
        case(
            "date",
            Date32Array::from(vec![Some(-719_163), None]),
            "\"0000-12-31\"",
        ),
        case(
            "date64",
            Date64Array::from(vec![Some(1_699_920_000_000), None]),
            "\"2023-11-14\"",
        ),
        case(
            "no_date",
            Date32Array::from(vec![Some(i32::MAX), None]),
            "2147483647",
        ),
        case(
            "t_s",
            Time32SecondArray::from(vec![Some(86_399), None]),
            "\"23:59:59\"",
        ),
        case(
            "t_ms",
            Time32MillisecondArray::from(vec![Some(1), None]),
            "\"00:00:00.001\"",
        ),
        case(
            "t_us",
            Time64MicrosecondArray::from(vec![Some(1), None]),
            "\"00:00:00.000001\"",
        ),
        case(
            "t_ns",
            Time64NanosecondArray::from(vec![Some(1), None]),
            "\"00:00:00.000000001\"",
        ),
        case(
            "ts_s",
            TimestampSecondArray::from(vec![Some(1_700_000_000), None]),
            "\"2023-11-14T22:13:20Z\"",
        ),
        case(
            "ts_ms",
            TimestampMillisecondArray::from(vec![Some(-1), None]).with_timezone("+02:00"),
            "\"1969-12-31T23:59:59.999Z\"",
        ),
        case(
            "ts_us",
            TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_001), None])
                .with_timezone("UTC"),
            "\"2023-11-14T22:13:20.000001Z\"",
        ),
        case(
            "ts_ns",
            TimestampNanosecondArray::from(vec![Some(i64::MIN + 1), None]),
            "\"1677-09-21T00:12:43.145224193Z\"",
        ),
        case(
            "no_ts",
            TimestampSecondArray::from(vec![Some(i64::MAX), None]),
            "9223372036854775807",
        ),
        case(
            "dur_s",
            DurationSecondArray::from(vec![Some(-90), None]),
            "\"-PT90S\"",
        ),
        case(
            "dur_ms",
            DurationMillisecondArray::from(vec![Some(1_500), None]),
            "\"PT1.5S\"",
        ),
        case(
            "dur_us",
            DurationMicrosecondArray::from(vec![Some(1), None]),
            "\"PT0.000001S\"",
        ),
        case(
            "dur_ns",
            DurationNanosecondArray::from(vec![Some(i64::MIN), None]),
            "\"-PT9223372036.854775808S\"",
        ),
        case(
            "ym",
            IntervalYearMonthArray::from(vec![Some(-14), None]),
            "\"P-1Y-2M\"",
        ),
        case(
            "dt",
            IntervalDayTimeArray::from(vec![Some(IntervalDayTime::new(1, 3_600_500)), None]),
            "\"P1DT1H0.5S\"",
        ),
    ]
}

fn nested() -> Vec<Case> {
    let list = vec![Some(vec![Some(1), None]), None];
    let object = StructArray::try_new(
        vec![
            Arc::new(Field::new("a b", DataType::Int64, true)),
            Arc::new(Field::new("t", DataType::Utf8, true)),
        ]
        .into(),
        vec![
            Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
            Arc::new(StringArray::from(vec![Some("q\"n\n"), None])),
        ],
        Some(vec![true, false].into()),
    )
    .unwrap();
    let mut by_text = MapBuilder::new(None, StringBuilder::new(), Date32Builder::new());
    by_text.keys().append_value("k\"");
    by_text.values().append_value(0);
    by_text.append(true).unwrap();
    by_text.append(false).unwrap();
    let mut by_number = MapBuilder::new(None, Int64Builder::new(), BinaryBuilder::new());
    by_number.keys().append_value(-7);
    by_number.values().append_null();
    by_number.keys().append_value(8);
    by_number.values().append_value(b"~");
    by_number.append(true).unwrap();
    by_number.append(false).unwrap();
    vec![
        case(
            "list",
            ListArray::from_iter_primitive::<Int64Type, _, _>(list.clone()),
            "[1,null]",
        ),
        case(
            "large_list",
            LargeListArray::from_iter_primitive::<Int64Type, _, _>(list.clone()),
            "[1,null]",
        ),
        case(
            "fixed_list",
            FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(list, 2),
            "[1,null]",
        ),
        case(
            "object",
            object,
            r#"{"a b":9223372036854775807,"t":"q\"n\n"}"#,
        ),
        case("by_text", by_text.finish(), r#"{"k\"":"1970-01-01"}"#),
        case("by_number", by_number.finish(), r#"{"-7":null,"8":"fg=="}"#),
    ]
}

fn cases() -> Vec<Case> {
    let mut all = numbers();
    all.extend(texts());
    all.extend(times());
    all.extend(nested());
    all
}

/// The one type that Parquet has not.
fn calendar() -> Case {
    let value = IntervalMonthDayNano::new(1, -2, 3_000_000_000);
    case(
        "mdn",
        IntervalMonthDayNanoArray::from(vec![Some(value), None]),
        "\"P1M-2DT3S\"",
    )
}

fn batch(cases: &[Case]) -> RecordBatch {
    let columns = cases
        .iter()
        .map(|case| (case.name, case.array.clone(), true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

async fn server(cases: &[Case]) -> Server {
    let server = Server::start().await;
    let context = &server.engine.context;
    context.register_batch("every", batch(cases)).unwrap();
    server
}

const ALL: &str = "SELECT * FROM every";

fn with_calendar() -> Vec<Case> {
    let mut all = cases();
    all.push(calendar());
    all
}

#[tokio::test]
async fn json_and_ndjson_have_every_type() {
    let cases = with_calendar();
    let server = server(&cases).await;
    let rows = [true, false].map(|is_value| {
        let cells = cases.iter().map(|case| {
            let value = if is_value { case.json } else { "null" };
            format!("\"{}\":{value}", case.name)
        });
        format!("{{{}}}", cells.collect::<Vec<_>>().join(","))
    });
    let lines = server.sql_as(ALL, "ndjson").await;
    assert_eq!(lines.text(), format!("{}\n{}\n", rows[0], rows[1]));
    let document = server.sql_as(ALL, "json").await;
    let data = format!("\"data\":[\n{},\n{}\n],\"rows\":2", rows[0], rows[1]);
    assert!(document.text().contains(&data), "{}", document.text());
    assert_eq!(
        document.json()["meta"].as_array().unwrap().len(),
        cases.len()
    );
}

/// The value's text where nothing is quoted.
fn shown(case: &Case) -> String {
    match case.plain {
        Some(plain) => plain.to_owned(),
        None => case.json.trim_matches('"').to_owned(),
    }
}

#[tokio::test]
async fn csv_has_every_type() {
    let cases = with_calendar();
    let server = server(&cases).await;
    let answer = server.sql_as(ALL, "csv").await;
    let mut reader = csv::Reader::from_reader(&answer.body[..]);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    for (index, case) in cases.iter().enumerate() {
        assert_eq!(&rows[0][index], shown(case), "{}", case.name);
        assert_eq!(&rows[1][index], "", "{}", case.name);
    }
    assert!(
        !answer.text().contains("\"\","),
        "an empty text, not a null"
    );
}

#[tokio::test]
async fn tables_have_every_type() {
    for case in with_calendar() {
        let is_number = case.array.data_type().is_numeric();
        let server = server(std::slice::from_ref(&case)).await;
        let answer = server.sql_as(ALL, "table").await;
        let lines: Vec<&str> = answer.text().lines().collect();
        assert_eq!(lines.len(), 7, "{}", answer.text());
        assert_eq!(lines[6], "(2 rows)");
        let first = match case.array.data_type() {
            DataType::Null => "NULL".to_owned(),
            _ => shown(&case),
        };
        for (line, text) in [(lines[3], &*first), (lines[4], "NULL")] {
            let inside = line.trim_start_matches("| ").trim_end_matches(" |");
            assert_eq!(inside.trim(), text, "{}", case.name);
            let is_left = inside.starts_with(text);
            let is_right = inside.ends_with(text);
            assert!(if is_number { is_right } else { is_left }, "{line:?}");
        }
    }
}

#[tokio::test]
async fn arrow_has_every_type() {
    let cases = with_calendar();
    let answer = server(&cases).await.sql_as(ALL, "arrow").await;
    let reader = StreamReader::try_new(Cursor::new(&answer.body), None).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(batches, [batch(&cases)]);
}

#[tokio::test]
async fn parquet_has_every_type() {
    let cases = cases();
    let answer = server(&cases).await.sql_as(ALL, "parquet").await;
    assert_eq!(
        answer.status,
        200,
        "{:?}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(
        answer.header("content-type"),
        Some("application/vnd.apache.parquet")
    );
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(answer.body)).unwrap();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    assert_eq!(batches, [batch(&cases)]);
}

#[tokio::test]
async fn parquet_says_what_it_has_not() {
    let answer = server(&[calendar()]).await.sql_as(ALL, "parquet").await;
    assert_eq!((answer.status, &*answer.code()), (400, "unsupported_type"));
    let message = answer.json()["error"]["message"].to_string();
    assert!(
        message.contains("mdn") && message.contains("VARCHAR"),
        "{message}"
    );
}

#[tokio::test]
async fn parquet_is_written_in_groups() {
    let server = Server::start().await;
    let sql = "SELECT value AS n FROM generate_series(1, 300000)";
    let answer = server.sql_as(sql, "parquet").await;
    assert!(answer.is_whole);
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(answer.body)).unwrap();
    let groups = reader.metadata().row_groups();
    assert_eq!(groups.len(), 3, "128 Ki rows each");
    let codec = groups[0].column(0).compression();
    assert!(codec.to_string().starts_with("ZSTD"), "{codec}");
    let batches = reader.build().unwrap().map(Result::unwrap);
    assert_eq!(
        batches.map(|batch| batch.num_rows()).sum::<usize>(),
        300_000
    );
}
