//! Known columns that meet other types: integers widen where they may, and a stream with a
//! `_rest` column keeps what does not fit.

use arrow::datatypes::DataType;
use lambdalake_data::input::{Format, Parsed, parse};
use lambdalake_data::widen::never_widening;
use serde_json::{Value, json};

use super::input_support::*;

fn int() -> DataType {
    DataType::Int64
}

fn type_of(parsed: &Parsed, column: &str) -> DataType {
    let schema = parsed.batch.schema();
    schema.field_with_name(column).unwrap().data_type().clone()
}

#[test]
fn a_known_integer_column_widens_for_what_no_integer_can_be() {
    let known = columns(vec![("a", int()), ("b", int())]);
    for (values, widens) in [
        (vec!["1", "2.0", "1e3", "null"], false),
        (vec!["1", "2.5"], true),
        (vec!["0.5"], true),
        (vec!["9007199254740994.0"], true),
        (vec!["1e300", "4"], true),
    ] {
        let body: String = values.iter().map(|v| format!("{{\"a\":{v}}}\n")).collect();
        let parsed = ndjson_into(&body, &known);
        assert_eq!(parsed.rejected, 0, "{body}");
        let expected = if widens { DataType::Float64 } else { int() };
        assert_eq!(type_of(&parsed, "a"), expected, "{body}");
        assert_eq!(type_of(&parsed, "b"), int());
    }
}

#[test]
fn nested_integers_widen_in_their_place_only() {
    let inner = || structure(vec![("x", int()), ("y", int())]);
    let known = columns(vec![("o", inner()), ("l", list(int()))]);
    let parsed = ndjson_into("{\"o\":{\"x\":1.5,\"y\":2},\"l\":[1,2.5]}", &known);
    assert_eq!(parsed.rejected, 0);
    let widened = structure(vec![("x", DataType::Float64), ("y", int())]);
    assert_eq!(type_of(&parsed, "o"), widened);
    assert_eq!(type_of(&parsed, "l"), list(DataType::Float64));
}

#[test]
fn of_a_fraction_and_an_inexact_integer_the_first_wins() {
    let known = columns(vec![("a", int())]);
    let wide = "{\"a\":9007199254740993}\n";
    let fraction = "{\"a\":0.5}\n";
    let parsed = ndjson_into(&format!("{wide}{fraction}{{\"a\":1}}"), &known);
    assert_eq!(rejected(&parsed), [(2, "type_conflict", Some("a"))]);
    assert_eq!(type_of(&parsed, "a"), int());
    let parsed = ndjson_into(&format!("{fraction}{wide}{{\"a\":1}}"), &known);
    assert_eq!(rejected(&parsed), [(2, "out_of_range", Some("a"))]);
    assert_eq!(type_of(&parsed, "a"), DataType::Float64);
}

#[test]
fn a_rejected_row_neither_widens_nor_forbids_to() {
    let known = columns(vec![("a", int()), ("s", DataType::Utf8)]);
    let parsed = ndjson_into("{\"a\":0.5,\"s\":1}\n{\"a\":2}", &known);
    assert_eq!(rejected(&parsed), [(1, "type_conflict", Some("s"))]);
    assert_eq!(type_of(&parsed, "a"), int());
    let body = "{\"a\":9007199254740993,\"s\":1}\n{\"a\":0.5}";
    let parsed = ndjson_into(body, &known);
    assert_eq!(rejected(&parsed), [(1, "type_conflict", Some("s"))]);
    assert_eq!(type_of(&parsed, "a"), DataType::Float64);
}

#[test]
fn a_marked_column_never_widens() {
    let inner = structure(vec![("x", int())]);
    let known = columns(vec![("a", int()), ("o", inner), ("l", list(int()))]);
    let marks = ["a", "o.x", "l[]"].map(str::to_owned).into();
    let known = never_widening(&known, &marks);
    let body = "{\"a\":0.5}\n{\"o\":{\"x\":0.5}}\n{\"l\":[1,0.5]}\n{\"a\":1}";
    let parsed = ndjson_into(body, &known);
    let conflict = "type_conflict";
    assert_eq!(
        rejected(&parsed),
        [
            (1, conflict, Some("a")),
            (2, conflict, Some("o.x")),
            (3, conflict, Some("l[1]"))
        ]
    );
}

fn with_rest() -> arrow::datatypes::SchemaRef {
    columns(vec![
        ("n", int()),
        ("s", DataType::Utf8),
        ("o", structure(vec![("x", int())])),
        ("_rest", DataType::Utf8),
    ])
}

/// The rows, their `_rest` read as JSON.
fn kept(parsed: &Parsed) -> Vec<Value> {
    assert_eq!(rejected(parsed), []);
    let mut rows = rows(parsed);
    for row in &mut rows {
        if let Some(text) = row.get("_rest").and_then(Value::as_str) {
            row["_rest"] = serde_json::from_str(text).unwrap();
        }
    }
    rows
}

#[test]
fn a_stream_with_rest_keeps_what_fits_and_the_whole_row_as_json() {
    let body = [
        json!({"n": 1, "s": "fits"}),
        json!({"n": "one", "s": "kept", "new": true}),
        json!({"n": {"deep": [1]}, "s": 7, "o": {"x": "y"}}),
        json!({"n": 2, "o": [], "new": "not boolean"}),
    ];
    let text: String = body.iter().map(|row| format!("{row}\n")).collect();
    let parsed = ndjson_into(&text, &with_rest());
    assert_eq!(
        kept(&parsed),
        [
            json!({"n": 1, "s": "fits"}),
            json!({"s": "kept", "new": true, "_rest": body[1]}),
            json!({"_rest": body[2]}),
            json!({"n": 2, "_rest": body[3]}),
        ]
    );
}

#[test]
fn rest_is_the_text_as_it_came() {
    let line = "{\"n\" : \"x\",  \"s\":1.50, \"z\": 123456789012345678901234567890}";
    let parsed = ndjson_into(&format!("  {line} \r\n"), &with_rest());
    assert_eq!(rows(&parsed)[0]["_rest"], line);
    let parsed = parse(
        format!("[{line}]").as_bytes(),
        Format::Json,
        &with_rest(),
        &LIMITS,
    )
    .unwrap();
    assert_eq!(rows(&parsed)[0]["_rest"], line);
}

#[test]
fn rows_whose_values_cannot_even_be_read_are_kept_as_text() {
    let deep = format!("{{\"n\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for line in [
        "{\"n\":1,\"n\":2}",
        "{\"n\":1e999}",
        deep.as_str(),
        "{\"n\":18446744073709551616}",
    ] {
        let parsed = ndjson_into(line, &with_rest());
        assert_eq!(rejected(&parsed), [], "{line}");
        assert_eq!(rows(&parsed), [json!({"_rest": line})]);
    }
}

#[test]
fn what_is_no_json_object_is_rejected_with_rest_too() {
    let body = "{\"n\":1\n[1]\n\"text\"\n{\"n\":\"\\ud800\"}\n{\"_rest\":\"mine\"}\n{\"n\":3}";
    let parsed = ndjson_into(body, &with_rest());
    let codes: Vec<_> = parsed.rejections.iter().map(|r| (r.line, r.code)).collect();
    assert_eq!(
        codes,
        [
            (1, "invalid_json"),
            (2, "not_an_object"),
            (3, "not_an_object"),
            (4, "invalid_json"),
            (5, "reserved_field"),
        ]
    );
    assert_eq!(parsed.batch.num_rows(), 1);
}

#[test]
fn a_required_value_that_does_not_fit_rejects_the_row() {
    let schema = arrow::datatypes::Schema::new(vec![
        arrow::datatypes::Field::new("must", int(), false),
        arrow::datatypes::Field::new("_rest", DataType::Utf8, true),
    ]);
    let parsed = ndjson_into("{\"must\":\"x\"}\n{\"must\":1}", &schema.into());
    assert_eq!(rejected(&parsed), [(1, "type_conflict", Some("must"))]);
}

#[test]
fn rows_that_stop_fitting_at_the_end_are_kept() {
    // The new column "f" is a float in the end, which the first row's integer does not fit.
    let body = "{\"f\":9007199254740993}\n{\"f\":0.5}";
    let parsed = ndjson_into(body, &with_rest());
    assert_eq!(
        kept(&parsed),
        [
            json!({"_rest": {"f": 9_007_199_254_740_993_u64}}),
            json!({"f": 0.5})
        ]
    );
}

#[test]
fn log_lines_are_kept_as_json_of_their_fields() {
    let known = columns(vec![
        ("status", DataType::Boolean),
        ("_rest", DataType::Utf8),
    ]);
    let line = "192.0.2.7 - - [17/May/2015:10:05:03 +0000] \"GET /a HTTP/1.1\" 200 -";
    let parsed = parse(line.as_bytes(), Format::Common, &known, &LIMITS).unwrap();
    let row = &kept(&parsed)[0];
    assert_eq!(row["client_ip"], "192.0.2.7");
    assert_eq!(row.get("status"), None);
    assert_eq!(row["_rest"]["status"], 200);
    assert_eq!(row["_rest"]["ts"], "2015-05-17T10:05:03Z");
}
