use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use lambdalake_data::input::{Format, InputError, parse};
use serde_json::json;

use super::input_support::*;

#[test]
fn a_value_fits_a_known_column_or_its_row_is_rejected_with_what_was_expected() {
    const OK: &str = "";
    let bool = || DataType::Boolean;
    let int = || DataType::Int64;
    let float = || DataType::Float64;
    let text = || DataType::Utf8;
    let table = [
        (bool(), "true", OK),
        (
            bool(),
            "1",
            "type_conflict: expected boolean, found integer 1",
        ),
        (
            bool(),
            "\"true\"",
            "type_conflict: expected boolean, found string \"true\"",
        ),
        (int(), "9223372036854775807", OK),
        (int(), "-9223372036854775808", OK),
        (
            int(),
            "9223372036854775808",
            "out_of_range: expected int64, found integer 9223372036854775808",
        ),
        (int(), "3.0", OK),
        (int(), "1e3", OK),
        (
            int(),
            "\"abc\"",
            "type_conflict: expected int64, found string \"abc\"",
        ),
        (
            int(),
            "true",
            "type_conflict: expected int64, found boolean true",
        ),
        (int(), "{}", "type_conflict: expected int64, found object"),
        (int(), "null", OK),
        (float(), "1", OK),
        (float(), "1.5e300", OK),
        (float(), "9007199254740992", OK),
        (
            float(),
            "9007199254740993",
            "out_of_range: expected float64, found integer 9007199254740993, which it may not hold exactly",
        ),
        (
            float(),
            "1e400",
            "out_of_range: column 6: the number is beyond 64-bit floats",
        ),
        (
            float(),
            "\"1\"",
            "type_conflict: expected float64, found string \"1\"",
        ),
        (text(), "\"\"", OK),
        (
            text(),
            "5",
            "type_conflict: expected string, found integer 5",
        ),
        (text(), "[]", "type_conflict: expected string, found list"),
        (timestamp(), "\"2015-05-17 10:05:03\"", OK),
        (timestamp(), "\"17/May/2015:10:05:03 +0000\"", OK),
        (timestamp(), "1431857103", OK),
        (timestamp(), "1431857103.25", OK),
        (
            timestamp(),
            "\"1431857103\"",
            "type_conflict: expected timestamp, found string \"1431857103\"",
        ),
        (
            timestamp(),
            "true",
            "type_conflict: expected timestamp, found boolean true",
        ),
        (list(int()), "[1,null]", OK),
        (
            list(int()),
            "[1,\"x\"]",
            "type_conflict: expected int64, found string \"x\"",
        ),
        (
            list(int()),
            "1",
            "type_conflict: expected list, found integer 1",
        ),
        (structure(vec![("b", int())]), "{\"b\":1}", OK),
        (structure(vec![("b", int())]), "{}", OK),
        (
            structure(vec![("b", int())]),
            "[]",
            "type_conflict: expected object, found list",
        ),
    ];
    for (kind, value, expected) in table {
        let parsed = ndjson_into(&format!("{{\"a\":{value}}}\n"), &columns(vec![("a", kind)]));
        let found = parsed
            .rejections
            .first()
            .map(|r| format!("{}: {}", r.code, r.message));
        match found {
            None => assert_eq!(expected, OK, "{value}"),
            Some(found) => assert_eq!(
                found
                    .replace("line 1, field a[1]: ", "")
                    .replace("line 1, field a: ", ""),
                expected,
                "{value}"
            ),
        }
        assert_eq!(parsed.batch.num_rows(), usize::from(expected == OK));
        assert!(!parsed.new_fields);
    }
}

#[test]
fn the_first_good_row_decides_the_type_of_a_new_field() {
    let parsed =
        ndjson("{\"a\":1}\n{\"a\":\"x\",\"b\":1}\n{\"a\":2,\"c\":[1,\"y\"]}\n{\"c\":\"z\"}\n");
    assert_eq!(
        rejected(&parsed),
        [
            (2, "type_conflict", Some("a")),
            (3, "type_conflict", Some("c[1]"))
        ]
    );
    assert_eq!(
        types(&parsed),
        [("a".into(), DataType::Int64), ("c".into(), DataType::Utf8)]
    );
    assert_eq!(
        parsed.rejections[0].message,
        "line 2, field a: expected int64, found string \"x\""
    );
}

#[test]
fn a_rejected_row_widens_no_type_and_ends_no_timestamp() {
    let time = "2015-05-17T10:05:03Z";
    let body = format!(
        "{{\"t\":\"{time}\",\"n\":1,\"s\":{{\"x\":1}},\"e\":[]}}\n\
         {{\"t\":\"no time\",\"n\":1.5,\"s\":{{\"y\":1,\"x\":1.5}},\"e\":[1],\"z\":\"a\",\"z\":1}}\n\
         {{\"t\":\"no time\",\"n\":1.5,\"s\":{{\"y\":1,\"x\":true}},\"e\":[1]}}\n"
    );
    let parsed = ndjson(&body);
    assert_eq!(
        rejected(&parsed),
        [
            (2, "duplicate_key", Some("z")),
            (3, "type_conflict", Some("s.x"))
        ]
    );
    assert_eq!(
        types(&parsed),
        [
            ("t".into(), timestamp()),
            ("n".into(), DataType::Int64),
            ("s".into(), structure(vec![("x", DataType::Int64)])),
        ]
    );
}

#[test]
fn integers_and_floats_mixed_make_a_float_column_and_reject_inexact_integers() {
    let parsed = ndjson(
        "{\"a\":9007199254740993,\"only\":1}\n{\"a\":1}\n{\"a\":2.5}\n{\"a\":-9007199254740993}\n",
    );
    assert_eq!(
        rejected(&parsed),
        [
            (1, "out_of_range", Some("a")),
            (4, "out_of_range", Some("a"))
        ]
    );
    assert_eq!(types(&parsed), [("a".into(), DataType::Float64)]);
    assert_eq!(rows(&parsed), [json!({"a": 1.0}), json!({"a": 2.5})]);
}

#[test]
fn integers_beyond_64_bits_fit_no_new_field() {
    let parsed = ndjson("{\"a\":18446744073709551615}\n{\"a\":1e30}\n");
    assert_eq!(rejected(&parsed), [(1, "out_of_range", Some("a"))]);
    assert_eq!(types(&parsed), [("a".into(), DataType::Float64)]);
}

#[test]
fn strings_are_timestamps_only_if_all_of_the_request_are() {
    let parsed = ndjson(
        "{\"a\":\"2015-05-17T10:05:03.1234567Z\",\"b\":\"2015-05-17T10:05:03Z\"}\n\
         {\"a\":\"2015-05-17T12:05:03+02:00\",\"b\":\"soon\"}\n",
    );
    assert_eq!(
        types(&parsed),
        [("a".into(), timestamp()), ("b".into(), DataType::Utf8)]
    );
    assert_eq!(
        rows(&parsed),
        [
            json!({"a": "2015-05-17T10:05:03.123456+00:00", "b": "2015-05-17T10:05:03Z"}),
            json!({"a": "2015-05-17T10:05:03+00:00", "b": "soon"}),
        ]
    );
}

#[test]
fn fields_without_a_value_make_no_column_and_lose_nothing_else() {
    let parsed = ndjson(
        "{\"n\":null,\"o\":{},\"l\":[],\"d\":[{\"x\":null}],\"p\":{\"q\":{}},\"a\":1}\n{}\n",
    );
    assert_eq!(rejected(&parsed), []);
    assert_eq!(rows(&parsed), [json!({"a": 1}), json!({})]);
    assert_eq!(types(&parsed), [("a".into(), DataType::Int64)]);
}

#[test]
fn empty_objects_and_lists_stay_apart_from_null_in_a_column_that_exists() {
    let parsed = ndjson(
        "{\"o\":{},\"l\":[]}\n{\"o\":{\"x\":1},\"l\":[null,{\"y\":[]}]}\n{\"l\":[{\"y\":[2]}]}\n",
    );
    assert_eq!(rejected(&parsed), []);
    assert_eq!(
        rows(&parsed),
        [
            json!({"o": {}, "l": []}),
            json!({"o": {"x": 1}, "l": [null, {"y": []}]}),
            json!({"l": [{"y": [2]}]}),
        ]
    );
}

#[test]
fn known_columns_come_first_and_nested_ones_grow() {
    let inner = structure(vec![("x", DataType::Int64)]);
    let schema = columns(vec![
        ("z", DataType::Utf8),
        ("s", inner.clone()),
        ("l", list(inner)),
    ]);
    let body =
        "{\"new\":true,\"l\":[{\"w\":\"t\"}],\"s\":{\"x\":1,\"y\":{\"deep\":2}},\"New\":1}\n";
    let parsed = ndjson_into(body, &schema);
    assert!(parsed.new_fields);
    let grown = structure(vec![
        ("x", DataType::Int64),
        ("y", structure(vec![("deep", DataType::Int64)])),
    ]);
    let element = structure(vec![("x", DataType::Int64), ("w", DataType::Utf8)]);
    assert_eq!(
        types(&parsed),
        [
            ("z".into(), DataType::Utf8),
            ("s".into(), grown),
            ("l".into(), list(element)),
            ("new".into(), DataType::Boolean),
            ("New".into(), DataType::Int64),
        ]
    );
    let again = ndjson_into(body, parsed.batch.schema_ref());
    assert!(!again.new_fields);
    assert_eq!(again.batch, parsed.batch);
}

#[test]
fn a_column_that_requires_a_value_rejects_rows_without_one() {
    let inner = DataType::Struct(vec![Field::new("x", DataType::Int64, false)].into());
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("s", inner, true),
    ]));
    let parsed = ndjson_into(
        "{\"id\":1}\n{}\n{\"id\":null}\n{\"id\":2,\"s\":{}}\n{\"id\":3,\"s\":{\"x\":4}}\n",
        &schema,
    );
    assert_eq!(
        rejected(&parsed),
        [
            (2, "missing_value", Some("id")),
            (3, "missing_value", Some("id")),
            (4, "missing_value", Some("s.x")),
        ]
    );
    assert_eq!(
        rows(&parsed),
        [json!({"id": 1}), json!({"id": 3, "s": {"x": 4}})]
    );
    assert_eq!(parsed.batch.schema(), schema);
}

#[test]
fn a_column_type_events_have_no_value_for_is_an_error() {
    let schema = columns(vec![("a", DataType::Date32)]);
    let error = parse(b"{}", Format::Ndjson, &schema, &LIMITS).unwrap_err();
    assert!(
        matches!(error, InputError::UnsupportedColumn { .. }),
        "{error}"
    );
}
