//! Types that Arrow and Parquet have and the engine has not: each is kept exactly in another one,
//! or refused.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Date32Array, Date64Array, Decimal128Array, DictionaryArray,
    DurationSecondArray, FixedSizeListArray, Float16Array, Float32Array, Int8Array, Int16Array,
    Int32Array, Int64Array, Int64Builder, LargeListArray, LargeStringArray, MapBuilder,
    RecordBatch, StringBuilder, StringViewArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::{Int8Type, Int64Type};
use serde_json::{Value, json};

use super::answer::bytes;
use super::body::{arrow, parquet, post};
use crate::server::Server;

fn decimal(values: [Option<i128>; 3], precision: u8, scale: i8) -> ArrayRef {
    let array = Decimal128Array::from(values.to_vec());
    Arc::new(
        array
            .with_precision_and_scale(precision, scale)
            .expect("a decimal"),
    )
}

fn map() -> ArrayRef {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for (key, value) in [("a", Some(1)), ("b", None)] {
        map.keys().append_value(key);
        map.values().append_option(value);
    }
    map.append(true).expect("a map");
    map.append(true).expect("a map");
    map.append(false).expect("a map");
    Arc::new(map.finish())
}

/// Columns of three rows, and what each is afterwards.
fn cases() -> Vec<(&'static str, ArrayRef, Value)> {
    let lists = [
        Some(vec![Some(1), None]),
        Some(vec![Some(3), Some(4)]),
        None,
    ];
    let large = LargeListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None]),
        Some(vec![]),
        None,
    ]);
    let dictionary: DictionaryArray<Int8Type> = [Some("x"), None, Some("x")].into_iter().collect();
    let half = [0.5_f32, -2.0].map(|number| Some(half(number)));
    vec![
        (
            "i8",
            Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None])),
            json!([-128, 127, null]),
        ),
        (
            "i16",
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(1), None])),
            json!([-32768, 1, null]),
        ),
        (
            "i32",
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(1), None])),
            json!([i32::MIN, 1, null]),
        ),
        (
            "u8",
            Arc::new(UInt8Array::from(vec![Some(u8::MAX), Some(1), None])),
            json!([255, 1, null]),
        ),
        (
            "u32",
            Arc::new(UInt32Array::from(vec![Some(u32::MAX), Some(1), None])),
            json!([u32::MAX, 1, null]),
        ),
        (
            "u64",
            Arc::new(UInt64Array::from(vec![
                Some(i64::MAX as u64),
                Some(1),
                None,
            ])),
            json!([i64::MAX, 1, null]),
        ),
        (
            "f16",
            Arc::new(half.into_iter().chain([None]).collect::<Float16Array>()),
            json!([0.5, -2.0, null]),
        ),
        (
            "f32",
            Arc::new(Float32Array::from(vec![Some(0.5), Some(f32::NAN), None])),
            json!([0.5, null, null]),
        ),
        (
            "whole",
            decimal([Some(i128::from(i64::MAX)), Some(-1), None], 38, 0),
            json!([i64::MAX, -1, null]),
        ),
        (
            "cents",
            decimal([Some(12_345), Some(-10), None], 12, 2),
            json!([123.45, -0.1, null]),
        ),
        (
            "day",
            Arc::new(Date32Array::from(vec![Some(-1), Some(19_000), None])),
            json!(["1969-12-31T00:00:00Z", "2022-01-08T00:00:00Z", null]),
        ),
        (
            "day64",
            Arc::new(Date64Array::from(vec![Some(-86_400_000), Some(0), None])),
            json!(["1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z", null]),
        ),
        (
            "s",
            Arc::new(TimestampSecondArray::from(vec![Some(-1), Some(1), None])),
            json!(["1969-12-31T23:59:59Z", "1970-01-01T00:00:01Z", null]),
        ),
        (
            "ms",
            Arc::new(
                TimestampMillisecondArray::from(vec![Some(-1), Some(1), None])
                    .with_timezone("+02:00"),
            ),
            json!(["1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00.001Z", null]),
        ),
        (
            "us",
            Arc::new(TimestampMicrosecondArray::from(vec![
                Some(-1),
                Some(1),
                None,
            ])),
            json!([
                "1969-12-31T23:59:59.999999Z",
                "1970-01-01T00:00:00.000001Z",
                null
            ]),
        ),
        // Digits below a microsecond are cut off, downwards.
        (
            "ns",
            Arc::new(
                TimestampNanosecondArray::from(vec![Some(-1), Some(1_999), None])
                    .with_timezone("UTC"),
            ),
            json!([
                "1969-12-31T23:59:59.999999Z",
                "1970-01-01T00:00:00.000001Z",
                null
            ]),
        ),
        (
            "large",
            Arc::new(LargeStringArray::from(vec![Some("é"), Some(""), None])),
            json!(["é", "", null]),
        ),
        (
            "view",
            Arc::new(StringViewArray::from(vec![
                Some("a text that is longer than a view"),
                Some(""),
                None,
            ])),
            json!(["a text that is longer than a view", "", null]),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from(vec![
                Some(&[0, 255][..]),
                Some(&[]),
                None,
            ])),
            json!(["AP8=", "", null]),
        ),
        ("word", Arc::new(dictionary), json!(["x", null, "x"])),
        (
            "pair",
            Arc::new(FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(
                lists, 2,
            )),
            json!([[1, null], [3, 4], null]),
        ),
        ("long", Arc::new(large), json!([[1, null], [], null])),
        (
            "map",
            map(),
            json!([[{"key": "a", "value": 1}, {"key": "b", "value": null}], [], null]),
        ),
    ]
}

fn half(
    number: f32,
) -> <arrow::datatypes::Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native {
    <arrow::datatypes::Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native::from_f32(
        number,
    )
}

#[test]
fn types_of_arrow_and_parquet_keep_their_values() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    let cases = cases();
    let id: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 2]));
    let columns = cases
        .iter()
        .map(|(name, array, _)| (*name, Arc::clone(array), true));
    let batch =
        RecordBatch::try_from_iter_with_nullable([("id", id, true)].into_iter().chain(columns));
    let batch = batch.expect("a batch");
    for (format, body) in [("arrow", arrow(&batch)), ("parquet", parquet(&batch))] {
        let counts = post(&server, format, format, None, &body);
        assert_eq!(counts.json()["accepted"], json!(3), "{}", counts.text);
        for stage in ["tail", "flushed"] {
            let found = server.rows(&format!("SELECT * FROM {format} ORDER BY id"));
            for (name, _, expected) in &cases {
                let found: Vec<_> = found.iter().map(|row| row[name].clone()).collect();
                assert_eq!(json!(found), *expected, "{format} {stage}: {name}");
            }
            server.sql(&format!("FLUSH {format}"));
        }
    }
}

#[test]
fn values_that_no_type_holds_reject_their_row_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let bad: [(&str, ArrayRef); 4] = [
        ("u64", Arc::new(UInt64Array::from(vec![1, u64::MAX, 3]))),
        (
            "whole",
            decimal([Some(1), Some(i128::from(i64::MAX) + 1), Some(3)], 38, 0),
        ),
        (
            "digits",
            decimal(
                [Some(10), Some(10_000_000_000_000_000_001), Some(30)],
                38,
                1,
            ),
        ),
        (
            "late",
            Arc::new(TimestampSecondArray::from(vec![1, i64::MAX, 3])),
        ),
    ];
    for (name, array) in bad {
        let id: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 2]));
        let batch = RecordBatch::try_from_iter([("id", id), (name, array)]).expect("a batch");
        for (format, body) in [("arrow", arrow(&batch)), ("parquet", parquet(&batch))] {
            let stream = format!("{name}_{format}");
            let counts = post(&server, &stream, format, None, &body).json();
            let found = (&counts["accepted"], &counts["rejected"]);
            assert_eq!(found, (&json!(2), &json!(1)), "{stream}: {counts}");
            let error = &counts["errors"][0];
            let found = (&error["line"], &error["code"], &error["field"]);
            assert_eq!(
                found,
                (&json!(2), &json!("out_of_range"), &json!(name)),
                "{counts}"
            );
            let ids = server.rows(&format!("SELECT id FROM {stream} ORDER BY id"));
            assert_eq!(ids, [json!({"id": 0}), json!({"id": 2})]);
        }
    }
    let span: ArrayRef = Arc::new(DurationSecondArray::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("span", span)]).expect("a batch");
    let refused = post(&server, "spans", "arrow", None, &arrow(&batch));
    let code = &refused.json()["error"]["code"];
    assert_eq!(
        (refused.status, code),
        (400, &json!("unsupported_type")),
        "{}",
        refused.text
    );
}

/// Times that RFC 3339 has no text for are raw numbers in text formats, and exact in the others.
#[test]
fn times_beyond_the_calendar_keep_their_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let time = TimestampMicrosecondArray::from(vec![i64::MIN, i64::MAX]).with_timezone("UTC");
    let time: ArrayRef = Arc::new(time);
    let batch = RecordBatch::try_from_iter([("t", Arc::clone(&time))]).expect("a batch");
    post(&server, "times", "parquet", None, &parquet(&batch));
    let sql = "SELECT t FROM times ORDER BY t";
    let found = json!(server.rows(sql));
    assert_eq!(found, json!([{"t": i64::MIN}, {"t": i64::MAX}]));
    assert_eq!(
        String::from_utf8(bytes(&server, sql, "csv")).expect("UTF-8"),
        format!("t\n{}\n{}\n", i64::MIN, i64::MAX)
    );
    for format in ["arrow", "parquet"] {
        let answer = super::answer::batches(&bytes(&server, sql, format), format);
        assert_eq!(
            answer[0].column(0).as_ref(),
            time.as_ref() as &dyn Array,
            "{format}"
        );
    }
}
